"""From a tensor's values, streamed, to the range that quantization keeps: min-max, percentile, entropy, MSE."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Protocol

import numpy as np

from optkit_passes.quantize.histogram import Histogram

METHODS = ("minmax", "percentile", "entropy", "mse")


class Calibrator(Protocol):
    """Sees every value of a tensor once, in pieces; memory does not depend on how many there are."""

    def observe(self, values: np.ndarray) -> None:
        """Take in finite values of any shape."""
        ...

    def range(self) -> tuple[float, float]:
        """(low, high) to keep; (0, 0) where nothing was seen."""
        ...


def make_calibrator(method: str, percentile: float = 99.99, symmetric: bool = False) -> Calibrator:
    """The calibrator of that name, one of METHODS.

    Args:
        percentile: share of values, in percent, that the percentile method keeps.
        symmetric: whether the range will be made symmetric around zero (int8 with zero point 0).
    """
    match method:
        case "minmax":
            return MinMax()
        case "percentile":
            return Percentile(percentile, symmetric)
        case "entropy":
            return Entropy(symmetric)
        case "mse":
            return Mse(symmetric)
        case _:
            raise ValueError(f"unknown calibration method {method!r}")


class MinMax:
    """The smallest and largest value seen."""

    def __init__(self) -> None:
        self.low, self.high = math.inf, -math.inf

    def observe(self, values: np.ndarray) -> None:
        """Take in finite values of any shape."""
        if values.size:
            self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))

    def range(self) -> tuple[float, float]:
        """(low, high); (0, 0) where nothing was seen."""
        return (self.low, self.high) if self.low <= self.high else (0.0, 0.0)


class _Histogram(ABC):
    def __init__(self, symmetric: bool) -> None:
        self.symmetric = symmetric
        self.histogram = Histogram()

    def observe(self, values: np.ndarray) -> None:
        """Take in finite values of any shape."""
        self.histogram.add(values)

    def range(self) -> tuple[float, float]:
        """(low, high) to keep; (0, 0) where nothing was seen."""
        if not len(self.histogram.counts):
            return 0.0, 0.0
        return self._range()

    @abstractmethod
    def _range(self) -> tuple[float, float]:
        """The range to keep of a histogram that is not empty."""

    def _magnitudes(self) -> np.ndarray:
        """Counts of |x| in bins of the same width, from zero up."""
        h = self.histogram
        index = np.arange(len(h.counts)) + h.first
        index = np.where(index < 0, -1 - index, index)
        folded = np.zeros(int(index.max()) + 1)
        np.add.at(folded, index, h.counts)
        return folded

    def _within(self, limit: float) -> tuple[float, float]:
        return max(self.histogram.low, -limit), min(self.histogram.high, limit)


class Percentile(_Histogram):
    """Cuts (100 - percentile) / 2 percent at either end; of |x|, all at the upper end, where symmetric."""

    def __init__(self, percentile: float, symmetric: bool) -> None:
        super().__init__(symmetric)
        self.percentile = percentile

    def _range(self) -> tuple[float, float]:
        if self.symmetric:
            total = np.cumsum(self._magnitudes())
            at = int(np.searchsorted(total, total[-1] * self.percentile / 100))
            return self._within((at + 1) * self.histogram.width)
        cut = (100 - self.percentile) / 200
        return self.histogram.quantile(cut), self.histogram.quantile(1 - cut)


class Entropy(_Histogram):
    """The threshold on |x| that loses least information: smallest Kullback-Leibler divergence between the
    clipped distribution and its quantized self (Migacz, "8-bit inference with TensorRT", GTC 2017).
    """

    BINS = 2048
    STEPS = 128

    def _range(self) -> tuple[float, float]:
        folded = self._magnitudes()
        merge = -(-len(folded) // self.BINS)
        folded = np.add.reduceat(folded, np.arange(0, len(folded), merge))
        # zeros are represented exactly whatever the threshold; a ReLU's mass there would drown the rest
        folded[0] = folded[1] if len(folded) > 1 else folded[0]
        levels = 128 if self.symmetric or self.histogram.low < 0 else 256
        if len(folded) <= levels or not folded.any():
            return self.histogram.low, self.histogram.high
        ends = np.unique(np.linspace(levels, len(folded), self.STEPS).round().astype(int))
        losses = [_divergence(folded, int(end), levels) for end in ends]
        return self._within(int(ends[int(np.argmin(losses))]) * merge * self.histogram.width)


def _divergence(counts: np.ndarray, end: int, levels: int) -> float:
    """KL(P || Q), P = counts[:end] with everything beyond added to its last bin, Q = counts[:end] on `levels`."""
    inside = counts[:end]
    p = inside.copy()
    p[-1] += counts[end:].sum()
    starts = (np.arange(levels) * end) // levels
    level = np.searchsorted(starts, np.arange(end), side="right") - 1
    filled = inside > 0
    mass = np.add.reduceat(inside, starts)
    spread = np.add.reduceat(filled.astype(np.float64), starts)
    q = np.where(filled, (mass / np.maximum(spread, 1))[level], 0.0)
    p, q = p / p.sum(), q / max(q.sum(), 1e-300)
    used = p > 0
    return float((p[used] * np.log(p[used] / np.maximum(q[used], 1e-10))).sum())


class Mse(_Histogram):
    """The range with the smallest mean squared error: step^2 / 12 for what is kept, (x - end)^2 for what is cut."""

    STEPS = 128

    def _range(self) -> tuple[float, float]:
        h = self.histogram
        x, counts = h.centers(), h.counts.astype(np.float64)
        zero = h.zero_bin()
        if zero is not None:
            counts[zero] = 0.0  # zeros are exact whatever the step
        low, high = min(h.low, 0.0), max(h.high, 0.0)
        shares = np.linspace(1 / self.STEPS, 1, self.STEPS)
        if self.symmetric:
            limits = max(-low, high) * shares
            loss = counts.sum() * (limits / 127) ** 2 / 12
            loss += _cut(x, counts, limits) + _cut(-x[::-1], counts[::-1], limits)
            return self._within(float(limits[int(np.argmin(loss))]))
        tops = high * shares if high > 0 else np.zeros(1)
        bottoms = -low * shares if low < 0 else np.zeros(1)
        steps = (tops[None, :] + bottoms[:, None]) / 255
        loss = counts.sum() * steps**2 / 12
        loss = loss + _cut(x, counts, tops)[None, :] + _cut(-x[::-1], counts[::-1], bottoms)[:, None]
        bottom, top = np.unravel_index(int(np.argmin(loss)), loss.shape)
        return max(h.low, -float(bottoms[bottom])), min(h.high, float(tops[top]))


def _cut(x: np.ndarray, counts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Sum of counts * (x - end)^2 over x > end, for every end; x ascends."""
    suffix = [np.append(np.cumsum((counts * x**k)[::-1])[::-1], 0.0) for k in range(3)]
    at = np.searchsorted(x, ends, side="right")
    zeroth, first, second = (s[at] for s in suffix)
    cut: np.ndarray = np.maximum(second - 2 * ends * first + ends**2 * zeroth, 0.0)
    return cut
