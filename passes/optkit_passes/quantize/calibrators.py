"""From a tensor's values, streamed, to the range that quantization keeps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from optkit_passes.quantize.auto import candidates, choose
from optkit_passes.quantize.histogram import Histogram
from optkit_passes.quantize.rules import entropy_range, mse_range, percentile_range

METHODS = ("minmax", "moving_average", "percentile", "entropy", "mse", "auto")


class Statistic(Protocol):
    """What is known of a tensor's values; memory does not depend on how many were seen.

    Attributes:
        kind: the word for it in a calibration cache.
        low, high: smallest and largest value seen, or the averages of these; (inf, -inf) before the first.
    """

    kind: ClassVar[str]
    low: float
    high: float

    def add(self, values: np.ndarray) -> tuple[float, float]:
        """Take in what the tensor holds in one run; returns its smallest and largest value, NaN where one is."""
        ...


class Extremes:
    """The smallest and largest value seen."""

    kind: ClassVar[str] = "extremes"

    def __init__(self) -> None:
        self.low, self.high = math.inf, -math.inf

    def add(self, values: np.ndarray) -> tuple[float, float]:
        """Take in the tensor of one run."""
        low, high = _extremes(values)
        self.low, self.high = min(self.low, low), max(self.high, high)
        return low, high


class MovingExtremes:
    """Exponential moving averages of each run's smallest and largest value (Jacob et al. 2018, "Quantization and
    Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", section 3.1).

    It depends on the order of the samples, by its nature.

    Args:
        momentum: weight of the average so far, at least 0 and below 1; the first run's values begin it.
    """

    kind: ClassVar[str] = "moving_extremes"

    def __init__(self, momentum: float) -> None:
        self.momentum = momentum
        self.low, self.high = math.inf, -math.inf

    def add(self, values: np.ndarray) -> tuple[float, float]:
        """Take in the tensor of one run."""
        low, high = _extremes(values)
        if not values.size:
            return low, high
        if self.low > self.high:
            self.low, self.high = low, high
        else:
            self.low = self.momentum * self.low + (1 - self.momentum) * low
            self.high = self.momentum * self.high + (1 - self.momentum) * high
        return low, high


class Distribution(Histogram):
    """A histogram of the values seen."""

    kind: ClassVar[str] = "histogram"


def _extremes(values: np.ndarray) -> tuple[float, float]:
    return (float(values.min()), float(values.max())) if values.size else (math.inf, -math.inf)


@dataclass(frozen=True)
class Kept:
    """The range [low, high] of a tensor that quantization keeps, and the method that found it."""

    low: float
    high: float
    method: str


@dataclass(frozen=True)
class Method:
    """How ranges are found, with what it takes to find them.

    Attributes:
        name: one of METHODS.
        percentile: share of values, in percent, that the percentile method keeps.
        momentum: see MovingExtremes.
        symmetric: whether the range will be made symmetric around zero (int8 with zero point 0).
        exact: whether its scale will be rounded to a power of two; `auto` judges by the rounded scale.
    """

    name: str
    percentile: float = 99.99
    momentum: float = 0.9
    symmetric: bool = False
    exact: bool = False

    def __post_init__(self) -> None:
        if self.name not in METHODS:
            raise ValueError(f"unknown calibration method {self.name!r}")

    def statistic(self) -> Statistic:
        """An empty statistic of the kind this method needs."""
        match self.name:
            case "minmax":
                return Extremes()
            case "moving_average":
                return MovingExtremes(self.momentum)
            case _:
                return Distribution()

    def accepts(self, kind: str) -> bool:
        """Whether a statistic of that kind tells what this method asks; a histogram knows its extremes too."""
        return kind == self.statistic().kind or (self.name == "minmax" and kind == Distribution.kind)

    def range(self, *statistics: Statistic) -> Kept:
        """The range to keep of all that the statistics have seen; (0, 0) where that is nothing."""
        low = min((s.low for s in statistics), default=math.inf)
        high = max((s.high for s in statistics), default=-math.inf)
        if low > high:
            return Kept(0.0, 0.0, self.name)
        if self.name in ("minmax", "moving_average"):
            return Kept(low, high, self.name)
        whole = Histogram()
        for statistic in statistics:
            assert isinstance(statistic, Histogram)
            whole.absorb(statistic)
        match self.name:
            case "percentile":
                return Kept(*percentile_range(whole, self.percentile, self.symmetric), self.name)
            case "entropy":
                return Kept(*entropy_range(whole, self.symmetric), self.name)
            case "mse":
                return Kept(*mse_range(whole, self.symmetric), self.name)
            case _:
                ranges = candidates(whole, self.percentile, self.symmetric)
                taken = choose(whole, ranges, self.symmetric, self.exact)
                return Kept(*ranges[taken], taken)
