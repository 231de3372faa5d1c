"""How far one result lies from another, over any number of samples, in constant memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

MAX_SQNR = 200.0
"""dB; float64 arithmetic resolves no better, and an exact result has no finite ratio."""


@dataclass(frozen=True)
class Figures:
    """How one output compares with its reference.

    Attributes:
        elements: compared in all samples together.
        max_abs: largest absolute difference.
        relative: norm of the difference over the norm of the reference.
        cosine: of the angle between both, 1.0 for equal direction.
        sqnr_db: signal to quantization noise ratio, dB; at most MAX_SQNR.
        minimum, maximum: of the reference.
        mismatches: elements that differ at all.
        nonfinite: elements that are NaN or infinite in only one of both (or infinities of different sign).
    """

    elements: int
    max_abs: float
    relative: float
    cosine: float
    sqnr_db: float
    minimum: float
    maximum: float
    mismatches: int
    nonfinite: int

    def as_dict(self) -> dict[str, float | int]:
        """Plain values for JSON; an infinite relative error (of a zero reference) becomes 1e308."""
        return {
            "elements": self.elements,
            "max_abs": self.max_abs,
            "relative": min(self.relative, 1e308),
            "cosine": self.cosine,
            "sqnr_db": self.sqnr_db,
            "mismatches": self.mismatches,
            "nonfinite": self.nonfinite,
        }


class Comparison:
    """Sums over samples from which the figures follow.

    Where both sides are NaN, or the same infinity, they agree and count for nothing else.
    """

    def __init__(self) -> None:
        self._elements = self._mismatches = self._nonfinite = 0
        self._max_abs = self._noise = self._signal = self._other = self._dot = 0.0
        self._minimum, self._maximum = math.inf, -math.inf

    def add(self, reference: np.ndarray, result: np.ndarray) -> None:
        """Take in one sample of an output; both arrays have the same shape.

        Raises:
            ValueError: the shapes differ.
        """
        if reference.shape != result.shape:
            raise ValueError(f"shape {result.shape} where the reference has {reference.shape}")
        a = reference.astype(np.float64).ravel()
        b = result.astype(np.float64).ravel()
        if reference.dtype.kind in "iub" and result.dtype.kind in "iub":
            # 64-bit integers past 2**53 would look equal as floats
            self._mismatches += int(np.count_nonzero(reference.ravel() != result.ravel()))
        else:
            self._mismatches += int(np.count_nonzero((a != b) & ~(np.isnan(a) & np.isnan(b))))
        self._elements += a.size
        finite = np.isfinite(a) & np.isfinite(b)
        if not finite.all():
            same = (np.isnan(a) & np.isnan(b)) | (a == b)
            self._nonfinite += int(np.count_nonzero(~finite & ~same))
            a, b = a[finite], b[finite]
        if a.size == 0:
            return
        difference = b - a
        self._max_abs = max(self._max_abs, float(np.abs(difference).max()))
        self._noise += float(difference @ difference)
        self._signal += float(a @ a)
        self._other += float(b @ b)
        self._dot += float(a @ b)
        self._minimum = min(self._minimum, float(a.min()))
        self._maximum = max(self._maximum, float(a.max()))

    def figures(self) -> Figures:
        """The figures of everything added so far."""
        noise, signal = self._noise, self._signal
        if noise == 0:
            relative, sqnr = 0.0, MAX_SQNR
        elif signal == 0:
            relative, sqnr = math.inf, -MAX_SQNR
        else:
            relative = math.sqrt(noise / signal)
            sqnr = max(-MAX_SQNR, min(MAX_SQNR, 10 * math.log10(signal / noise)))
        if signal == 0 or self._other == 0:
            cosine = 1.0 if signal == self._other else 0.0
        else:
            cosine = max(-1.0, min(1.0, self._dot / math.sqrt(signal) / math.sqrt(self._other)))
        empty = self._minimum > self._maximum
        return Figures(
            self._elements,
            self._max_abs,
            relative,
            cosine,
            sqnr,
            0.0 if empty else self._minimum,
            0.0 if empty else self._maximum,
            self._mismatches,
            self._nonfinite,
        )
