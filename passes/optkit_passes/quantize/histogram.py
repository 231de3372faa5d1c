"""A histogram of a stream of unknown range, in one pass and in memory that does not depend on its length."""

from __future__ import annotations

import math

import numpy as np

BINS = 8192
"""Most bins a histogram holds. At least half are in use once the range is known, 16 for every int8 step."""


class Histogram:
    """Counts in bins of equal width, a power of two, aligned at zero: bin k covers [k * width, (k + 1) * width).

    Where a value falls outside, the width doubles and neighbours merge, which is exact because of the
    alignment. The width is always the smallest that covers the range seen, so the counts do not depend on
    the order of the samples.

    Attributes:
        counts: int64, one a bin.
        first: index k of counts[0].
        width: of a bin.
        low, high: smallest and largest value seen; (inf, -inf) before the first.
    """

    def __init__(self, bins: int = BINS) -> None:
        self._bins = bins
        self.counts = np.zeros(0, np.int64)
        self.first = 0
        self.width = 0.0
        self.low, self.high = math.inf, -math.inf

    def add(self, values: np.ndarray) -> None:
        """Count finite `values` of any shape."""
        if values.size == 0:
            return
        low, high = float(values.min()), float(values.max())
        self._cover(min(low, self.low), max(high, self.high))
        # dividing by a power of two is exact, so equal values land in equal bins however often it doubled
        index = np.floor(values.reshape(-1).astype(np.float64) / self.width).astype(np.int64) - self.first
        self.counts += np.bincount(index, minlength=len(self.counts))

    def centers(self) -> np.ndarray:
        """float64 middle of every bin, kept within the values seen."""
        middle = (np.arange(len(self.counts)) + self.first + 0.5) * self.width
        kept: np.ndarray = np.clip(middle, self.low, self.high)
        return kept

    def zero_bin(self) -> int | None:
        """Position in `counts` of the bin that begins at zero, or None where the range leaves it out."""
        return -self.first if 0 <= -self.first < len(self.counts) else None

    def quantile(self, fraction: float) -> float:
        """Value below which `fraction` of the stream lies, linear inside a bin."""
        total = np.cumsum(self.counts)
        target = fraction * float(total[-1])
        at = int(np.searchsorted(total, target, side="left"))
        before = float(total[at - 1]) if at else 0.0
        inside = (target - before) / max(float(self.counts[at]), 1.0)
        value = (self.first + at + inside) * self.width
        return min(max(value, self.low), self.high)

    def _cover(self, low: float, high: float) -> None:
        if low >= self.low and high <= self.high:
            return
        self.low, self.high = low, high
        width = self.width or _smallest_width(low, high, self._bins)
        while self.width and math.floor(high / width) - math.floor(low / width) >= self._bins:
            width *= 2
        first, last = math.floor(low / width), math.floor(high / width)
        counts = np.zeros(last - first + 1, np.int64)
        if self.width:
            merge = round(width / self.width)
            old = np.flatnonzero(self.counts)
            np.add.at(counts, (old + self.first) // merge - first, self.counts[old])
        self.counts, self.first, self.width = counts, first, width


def _smallest_width(low: float, high: float, bins: int) -> float:
    """The smallest power of two with which [low, high] takes at most `bins` bins."""
    extent = max(high - low, abs(low), abs(high))
    # a floor well above the denormals: everything below it is zero to any quantizer
    width = 2.0 ** max(math.frexp(extent)[1] - math.frexp(bins)[1] - 1, -100)
    while math.floor(high / width) - math.floor(low / width) >= bins:
        width *= 2
    return width
