"""Statistics against distributions whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest

from optkit.measure.statistics import change, paired_ratio, percentile, summarize


def test_summary_of_a_known_distribution() -> None:
    times = np.random.default_rng(0).gamma(100, 1e-5, 100_000)  # mean 1 ms, standard deviation 0.1 ms
    s = summarize(times, (50, 90, 99.9))
    assert s.mean == pytest.approx(1e-3, rel=2e-3)
    assert s.std == pytest.approx(1e-4, rel=1e-2)
    assert s.cv == pytest.approx(0.1, rel=1e-2)
    assert s.throughput == pytest.approx(1 / s.mean)
    assert s.percentiles[50] == pytest.approx(0.99667e-3, rel=2e-3)  # the gamma's median
    assert s.percentiles[99.9] is not None
    assert s.minimum == times.min()
    assert s.maximum == times.max()


@pytest.mark.parametrize(
    ("samples", "percent", "stated"),
    [(19, 50, False), (20, 50, True), (99, 90, False), (100, 90, True), (999, 99, False), (1000, 99, True)],
)
def test_no_percentile_from_too_few(samples: int, percent: float, stated: bool) -> None:
    assert (percentile(np.arange(samples), percent) is not None) == stated


def test_one_sample() -> None:
    s = summarize([2.0], (50,))
    assert (s.mean, s.std, s.percentiles[50]) == (2.0, 0.0, None)
    with pytest.raises(ValueError, match="no samples"):
        summarize([], (50,))


def test_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        drift = np.exp(rng.normal(0, 0.3, 20))  # slows both rivals of a round alike
        a = 1.10 * drift * np.exp(rng.normal(0, 0.02, 20))
        b = drift * np.exp(rng.normal(0, 0.02, 20))
        r = paired_ratio(list(a), list(b), seed=trial)
        assert r.low <= r.value <= r.high
        assert r.high - r.low < 0.1, "drift must cancel"
        covered += r.low <= 1.10 <= r.high
    assert 0.90 <= covered / 300 <= 0.985


def test_same_input_gives_same_interval() -> None:
    a, b = [1.0, 1.1, 1.2], [1.0, 1.0, 1.1]
    assert paired_ratio(a, b) == paired_ratio(a, b)
    assert paired_ratio(a, b).value == pytest.approx(np.exp(np.mean(np.log(a)) - np.mean(np.log(b))))


def test_change_of_independent_rounds() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        before, now = np.exp(rng.normal(0, 0.01, 30)), 1.2 * np.exp(rng.normal(0, 0.01, 20))
        r = change(list(now), list(before), seed=trial)
        assert r.value == pytest.approx(1.2, abs=0.02)
        covered += r.low <= 1.2 <= r.high
    assert 0.90 <= covered / 200 <= 0.99


def test_what_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="the same rounds"):
        paired_ratio([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="two rounds"):
        change([1.0], [1.0, 2.0])
