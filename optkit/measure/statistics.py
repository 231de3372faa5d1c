"""Statistics of run times, which claim no more than the samples carry."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MIN_TAIL = 10
"""Samples that must lie beyond a percentile before it is stated: a p99 takes 1000."""
_RESAMPLES = 4000


@dataclass(frozen=True)
class TimingSummary:
    """Run times of one contestant, in seconds.

    Attributes:
        percentiles: by percent; None where the samples are too few to tell.
        cv: standard deviation over mean.
        throughput: runs per second.
    """

    samples: int
    mean: float
    std: float
    cv: float
    minimum: float
    maximum: float
    throughput: float
    percentiles: dict[float, float | None]


def percentile(seconds: Sequence[float] | np.ndarray, percent: float) -> float | None:
    """A percentile, or None if fewer than MIN_TAIL samples lie on its rarer side.

    >>> percentile(range(100), 50)
    49.5
    >>> percentile(range(100), 99) is None
    True
    """
    values = np.asarray(seconds, np.float64)
    tail = min(percent, 100 - percent) / 100
    # rounded, for 0.01 * 1000 must be 10
    if round(values.size * tail, 6) < MIN_TAIL:
        return None
    return float(np.percentile(values, percent))


def summarize(seconds: Sequence[float] | np.ndarray, percents: Sequence[float]) -> TimingSummary:
    """Everything a report states of one contestant's run times.

    Raises:
        ValueError: there is no sample.
    """
    values = np.asarray(seconds, np.float64)
    if values.size == 0:
        raise ValueError("no samples")
    mean = float(values.mean())
    std = float(values.std(ddof=1)) if values.size > 1 else 0.0
    return TimingSummary(
        int(values.size),
        mean,
        std,
        std / mean if mean else 0.0,
        float(values.min()),
        float(values.max()),
        1 / mean if mean else math.inf,
        {p: percentile(values, p) for p in percents},
    )


@dataclass(frozen=True)
class Ratio:
    """A ratio of two times with its 95 % confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def paired_ratio(numerator: Sequence[float], denominator: Sequence[float], seed: int = 0) -> Ratio:
    """Geometric mean of the ratios of two contestants' rounds, with a bootstrap interval over the rounds.

    A round's two figures were taken one right after the other, so what slowed the machine for a while
    slowed both, and leaves their ratio.

    Raises:
        ValueError: the lengths differ or there are fewer than two rounds.
    """
    if len(numerator) != len(denominator) or len(numerator) < 2:
        raise ValueError("a paired ratio needs the same rounds of both, and two at least")
    logs = np.log(np.asarray(numerator, np.float64)) - np.log(np.asarray(denominator, np.float64))
    return _interval(logs, np.zeros(1), seed)


def change(now: Sequence[float], before: Sequence[float], seed: int = 0) -> Ratio:
    """Ratio of the geometric means of two independent sets of rounds, each resampled on its own.

    Raises:
        ValueError: fewer than two rounds in one of them.
    """
    if min(len(now), len(before)) < 2:
        raise ValueError("a change needs two rounds of each at least")
    return _interval(np.log(np.asarray(now, np.float64)), np.log(np.asarray(before, np.float64)), seed)


def _interval(a: np.ndarray, b: np.ndarray, seed: int) -> Ratio:
    rng = np.random.default_rng(seed)
    means = _means(rng, a) - _means(rng, b)
    low, high = np.percentile(means, [2.5, 97.5])
    value = float(a.mean() - b.mean())
    return Ratio(math.exp(value), math.exp(float(low)), math.exp(float(high)))


def _means(rng: np.random.Generator, values: np.ndarray) -> np.ndarray:
    """Bootstrap means, spread by sqrt(n / (n - 1)): the plain bootstrap's interval is too short for few rounds."""
    n = values.size
    means: np.ndarray = values[rng.integers(0, n, (_RESAMPLES, n))].mean(axis=1)
    centre = float(values.mean())
    spread: np.ndarray = centre + (means - centre) * (math.sqrt(n / (n - 1)) if n > 1 else 1.0)
    return spread
