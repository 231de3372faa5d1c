"""A histogram of a stream of unknown range, in one pass and in memory that does not depend on its length."""

from __future__ import annotations

import math

import numpy as np

BINS = 8192
"""Most bins a histogram holds. At least half are in use once the range is known, 16 for every int8 step."""

CHUNK = 1 << 16
"""Values counted at a time: what the steps hand on to each other then stays in the core's own cache."""


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

    def add(self, values: np.ndarray) -> tuple[float, float]:
        """Count `values` of any shape.

        Returns the smallest and largest of them, (inf, -inf) of none. Where these are not finite, one of the values
        is NaN or infinite, and the histogram is of no use any more.
        """
        low, high = math.inf, -math.inf
        flat = values.reshape(-1)
        scratch, index = (np.empty(min(CHUNK, flat.size), kind) for kind in (np.float64, np.intp))
        for start in range(0, flat.size, CHUNK):
            part = flat[start : start + CHUNK]
            least, most = float(part.min()), float(part.max())
            if not (math.isfinite(least) and math.isfinite(most)):
                return least, most
            low, high = min(low, least), max(high, most)
            self._cover(min(least, self.low), max(most, self.high))
            self._count(part, scratch, index[: part.size])
        return low, high

    def _count(self, part: np.ndarray, scratch: np.ndarray, index: np.ndarray) -> None:
        # Dividing by a power of two is exact, so equal values land in equal bins however often the width doubled.
        # In float32 too, unless the quotient is so small that it vanishes, and with it the sign of a negative.
        narrow = self.width <= 1 and part.dtype in (np.float32, np.float16)
        kind = np.float32 if narrow else np.float64
        bins = scratch.view(kind)[: part.size]
        np.multiply(part, kind(1 / self.width), out=bins)
        if self.first < 0:  # else nothing is negative, and the conversion to integers rounds downwards
            np.floor(bins, out=bins)
        if self.first:
            np.subtract(bins, self.first, out=bins)
        np.copyto(index, bins, casting="unsafe")
        self.counts += np.bincount(index, minlength=len(self.counts))

    def absorb(self, other: Histogram) -> None:
        """Count what `other` has counted, as if all its values had been added here."""
        if not len(other.counts):
            return
        self._cover(min(self.low, other.low), max(self.high, other.high), other.width)
        _add_counts(self.counts, self.first, other.counts, other.first, self.width / other.width)

    def centers(self) -> np.ndarray:
        """float64 middle of every bin, kept within the values seen."""
        middle = (np.arange(len(self.counts)) + self.first + 0.5) * self.width
        kept: np.ndarray = np.clip(middle, self.low, self.high)
        return kept

    def edges(self) -> np.ndarray:
        """float64 ends of the bins, one more than there are bins, kept within the values seen."""
        ends = (np.arange(len(self.counts) + 1) + self.first) * self.width
        kept: np.ndarray = np.clip(ends, self.low, self.high)
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

    def magnitudes(self) -> np.ndarray:
        """float64 counts of |x| in bins of the same width, from zero up."""
        index = np.arange(len(self.counts)) + self.first
        index = np.where(index < 0, -1 - index, index)
        folded = np.zeros(int(index.max()) + 1)
        np.add.at(folded, index, self.counts)
        return folded

    def _cover(self, low: float, high: float, coarsest: float = 0.0) -> None:
        """Make room for [low, high], in bins that are at least `coarsest` wide."""
        if low >= self.low and high <= self.high and coarsest <= self.width:
            return
        self.low, self.high = low, high
        width = max(self.width, coarsest) or _smallest_width(low, high, self._bins)
        while math.floor(high / width) - math.floor(low / width) >= self._bins:
            width *= 2
        first, last = math.floor(low / width), math.floor(high / width)
        if (width, first, last) == (self.width, self.first, self.first + len(self.counts) - 1):
            return
        counts = np.zeros(last - first + 1, np.int64)
        if self.width:
            _add_counts(counts, first, self.counts, self.first, width / self.width)
        self.counts, self.first, self.width = counts, first, width


def _add_counts(counts: np.ndarray, first: int, more: np.ndarray, more_first: int, ratio: float) -> None:
    """Add `more`, whose bins are 1 / `ratio` as wide, a power of two, to `counts`."""
    used = np.flatnonzero(more)
    # beyond any bin's index the ratio makes no difference, and integers have an end
    merge = int(min(ratio, 2.0**40))
    np.add.at(counts, (used + more_first) // merge - first, more[used])


def _smallest_width(low: float, high: float, bins: int) -> float:
    """The smallest power of two with which [low, high] takes at most `bins` bins."""
    extent = max(high - low, abs(low), abs(high))
    # a floor well above the denormals: everything below it is zero to any quantizer
    width = 2.0 ** max(math.frexp(extent)[1] - math.frexp(bins)[1] - 1, -100) if extent else 2.0**-100
    while math.floor(high / width) - math.floor(low / width) >= bins:
        width *= 2
    return width
