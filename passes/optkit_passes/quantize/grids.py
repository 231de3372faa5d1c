"""The numbers that a group of weights may become: a scale, a zero point, and so many steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optkit_passes.quantize.weights import RANGES

_SHARES = np.linspace(0.4, 1.0, 31)
"""Of the whole range, those that are tried where clipping may gain."""


@dataclass(frozen=True)
class Grid:
    """w = (code - zero) * scale with codes of 0 to 2^bits - 1.

    Attributes:
        bits: 2 to 8.
        symmetric: the zero point is 2^(bits-1), else the nearest to where zero lies in the group's range.
        method: what of a group's range is kept, one of RANGES: "max" all of it, "mse" what has the least squared error.
    """

    bits: int
    symmetric: bool = True
    method: str = "max"

    @property
    def top(self) -> int:
        """The largest code."""
        return int(2**self.bits - 1)

    @property
    def middle(self) -> int:
        """The zero point of a symmetric grid."""
        return int(2 ** (self.bits - 1))

    def fit(self, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """float32 scales and integer zero points for the columns of `w`, (rows of one group, columns).

        A group of zeros has a scale of one.
        """
        if self.method not in RANGES:
            raise ValueError(f"unknown range {self.method!r}")
        low, high = np.minimum(w.min(axis=0), 0.0), np.maximum(w.max(axis=0), 0.0)
        scale, zero = self._of_range(low, high)
        if self.method == "max":
            return scale, zero
        least = self._error(w, scale, zero)
        for share in _SHARES[:-1]:
            tried = self._of_range(low * share, high * share)
            error = self._error(w, *tried)
            better = error < least
            scale, zero = np.where(better, tried[0], scale), np.where(better, tried[1], zero)
            least = np.where(better, error, least)
        return scale, zero

    def _of_range(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # Of a symmetric grid the lower half has a step more: whichever side needs more decides.
        halves = np.maximum(high / (self.middle - 1), -low / self.middle)
        scale = halves if self.symmetric else (high - low) / self.top
        scale = np.where(scale > np.finfo(np.float32).tiny, scale, 1.0).astype(np.float32)
        if self.symmetric:
            return scale, np.full(scale.shape, self.middle)
        return scale, np.clip(np.rint(-low / scale), 0, self.top).astype(np.int64)

    def _error(self, w: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
        error: np.ndarray = np.square(w - self.real(self.codes(w, scale, zero), scale, zero)).sum(axis=0)
        return error

    def codes(self, w: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
        """The nearest codes, halves to even."""
        found: np.ndarray = np.clip(np.rint(w / scale.astype(np.float64)) + zero, 0, self.top)
        return found

    def real(self, codes: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
        """What codes stand for, in float64."""
        found: np.ndarray = (codes - zero) * scale.astype(np.float64)
        return found


@dataclass(frozen=True)
class GroupedCodes:
    """A weight of (K, N) in groups of rows.

    Attributes:
        codes: uint8 (K, N).
        scale: float32 (groups, N).
        zero: uint8 (groups, N).
        group: rows of a group; the last one may have fewer.
    """

    codes: np.ndarray
    scale: np.ndarray
    zero: np.ndarray
    group: int

    def real(self) -> np.ndarray:
        """float32 (K, N), as every reader of the model computes it."""
        rows = len(self.codes)
        scale, zero = (np.repeat(a, self.group, axis=0)[:rows] for a in (self.scale, self.zero))
        found: np.ndarray = (self.codes.astype(np.float32) - zero.astype(np.float32)) * scale
        return found


def round_to_nearest(w: np.ndarray, grid: Grid, group: int) -> GroupedCodes:
    """Every weight to the nearest code of its group's grid; w is (K, N)."""
    codes, scales, zeros = [], [], []
    for start in range(0, len(w), group):
        part = w[start : start + group].astype(np.float64)
        scale, zero = grid.fit(part)
        codes.append(grid.codes(part, scale, zero))
        scales.append(scale)
        zeros.append(zero)
    return GroupedCodes(
        np.concatenate(codes).astype(np.uint8), np.stack(scales), np.stack(zeros).astype(np.uint8), group
    )
