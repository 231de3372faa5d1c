"""Methods against numpy on the whole data, and in flat memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from optkit_passes.quantize.auto import candidates, choose, quantization_error
from optkit_passes.quantize.calibrators import METHODS, Distribution, Method
from optkit_passes.quantize.histogram import BINS, CHUNK, Histogram
from optkit_passes.quantize.params import Params, params_of_range


def normal(count: int = 200_000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(count).astype(np.float32)


def pieces(values: np.ndarray, count: int = 7) -> Iterator[np.ndarray]:
    return iter(np.array_split(values, count))


def calibrated(
    method: str, values: np.ndarray, symmetric: bool = False, percentile: float = 99.99
) -> tuple[float, float]:
    chosen = Method(method, percentile=percentile, symmetric=symmetric)
    statistic = chosen.statistic()
    for piece in pieces(values):
        statistic.add(piece)
    kept = chosen.range(statistic)
    return kept.low, kept.high


def test_histogram_is_numpys() -> None:
    values = normal() * 3 + 1
    histogram = Histogram()
    for piece in pieces(values):
        histogram.add(piece)
    edges = (np.arange(len(histogram.counts) + 1) + histogram.first) * histogram.width
    expected = np.array(
        [((values >= a) & (values < b)).sum() for a, b in zip(edges[::64], [*edges[64::64], np.inf], strict=False)]
    )
    np.testing.assert_array_equal(np.add.reduceat(histogram.counts, np.arange(0, len(histogram.counts), 64)), expected)
    assert BINS / 4 < len(histogram.counts) <= BINS


def test_histogram_does_not_depend_on_the_order() -> None:
    rng = np.random.default_rng(3)
    parts = [rng.standard_normal(500).astype(np.float32) * 10.0**k for k in range(-3, 3)]
    one, other = Histogram(), Histogram()
    for part in parts:
        one.add(part)
    for part in reversed(parts):
        other.add(part)
    np.testing.assert_array_equal(one.counts, other.counts)
    assert (one.first, one.width) == (other.first, other.width)
    assert one.counts.sum() == 3000


def counted(*parts: np.ndarray) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.add(part)
    return histogram


def same(one: Histogram, other: Histogram) -> None:
    np.testing.assert_array_equal(one.counts, other.counts)
    assert (one.first, one.width, one.low, one.high) == (other.first, other.width, other.low, other.high)


floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
arrays = hnp.arrays(np.float32, st.integers(1, 40), elements=floats)


@given(st.lists(arrays, min_size=1, max_size=5), st.randoms())
def test_counts_are_those_of_exact_division_in_any_order_and_merged(parts: list[np.ndarray], random: object) -> None:
    histogram = counted(*parts)
    whole = np.concatenate(parts).astype(np.float64)
    bins = np.floor(whole / histogram.width).astype(np.int64) - histogram.first
    np.testing.assert_array_equal(histogram.counts, np.bincount(bins, minlength=len(histogram.counts)))
    assert (histogram.low, histogram.high) == (whole.min(), whole.max())
    shuffled = list(parts)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    same(counted(*shuffled), histogram)
    merged = Histogram()
    for part in shuffled:
        merged.absorb(counted(part))
    same(merged, histogram)


@pytest.mark.parametrize("offset", [0.0, 7.0, -100.0])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_chunks_count_what_one_piece_does(offset: float, scale: float) -> None:
    # the range grows from chunk to chunk
    values = normal(3 * CHUNK + 5) * np.linspace(0.1, 4, 3 * CHUNK + 5, dtype=np.float32) * np.float32(scale) + offset
    values = values.astype(np.float32)
    histogram = counted(values.reshape(-1, 1))
    assert counted(values[::-1]).counts.sum() == values.size
    same(histogram, counted(*np.array_split(values, 50)))
    bins = np.floor(values.astype(np.float64) / histogram.width).astype(np.int64) - histogram.first
    np.testing.assert_array_equal(histogram.counts, np.bincount(bins, minlength=len(histogram.counts)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("method", METHODS)
def test_values_that_are_not_finite_show_in_the_ends(method: str, bad: float) -> None:
    values = normal(2 * CHUNK)
    values[CHUNK + 7] = bad
    ends = Method(method).statistic().add(values)
    assert not np.isfinite(ends).all()
    assert np.isfinite(Method(method).statistic().add(normal())).all()


@pytest.mark.parametrize("scale", [1e-20, 1e-3, 1.0, 1e6, 1e30])
@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.99])
def test_percentile_is_numpys(scale: float, percentile: float) -> None:
    values = normal() * np.float32(scale)
    low, high = calibrated("percentile", values, percentile=percentile)
    cut = (100 - percentile) / 2
    expected = np.percentile(values, [cut, 100 - cut])
    # off by no more than a bin, a 4096th of the range
    np.testing.assert_allclose([low, high], expected, atol=float(np.ptp(values)) / 4096)


def test_symmetric_percentile_is_of_magnitudes() -> None:
    values = np.concatenate([normal(), -5 + normal(20_000, 1)])
    low, high = calibrated("percentile", values, symmetric=True, percentile=99.0)
    expected = np.percentile(np.abs(values), 99)
    assert -low == pytest.approx(expected, abs=float(np.ptp(values)) / 2048)
    assert high == pytest.approx(min(values.max(), expected), abs=float(np.ptp(values)) / 2048)


def test_minmax_is_exact() -> None:
    values = normal()
    assert calibrated("minmax", values) == (float(values.min()), float(values.max()))


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_moving_average_is_that_of_every_runs_ends(momentum: float) -> None:
    runs = [normal(1000, seed) * (1 + seed) for seed in range(6)]
    method = Method("moving_average", momentum=momentum)
    statistic = method.statistic()
    low, high = float(runs[0].min()), float(runs[0].max())
    for run in runs:
        low = momentum * low + (1 - momentum) * float(run.min())
        high = momentum * high + (1 - momentum) * float(run.max())
        statistic.add(run)
    kept = method.range(statistic)
    assert (kept.low, kept.high) == (pytest.approx(low, rel=1e-12), pytest.approx(high, rel=1e-12))


@pytest.mark.parametrize("method", METHODS)
def test_tensors_of_a_group_are_seen_as_one(method: str) -> None:
    """Except by moving averages: there the group's range is what covers those of its tensors."""
    chosen = Method(method)
    one, other, both = (chosen.statistic() for _ in range(3))
    a, b = normal(), normal(100_000, 1) * 2 + 3
    one.add(a)
    other.add(b)
    both.add(np.concatenate([a, b]))
    assert chosen.range(one, other) == chosen.range(both)


def distributions() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {
        "normal": normal(50_000),
        "relu": np.maximum(normal(50_000), 0),
        "outlier": np.concatenate([normal(50_000), np.float32([40, -9])]),
        "laplace": rng.laplace(size=50_000).astype(np.float32),
        "lognormal": rng.lognormal(sigma=1.5, size=50_000).astype(np.float32),
        "hardswish": normal(50_000) * np.clip(normal(50_000) / 6 + 0.5, 0, 1),
        "offset": normal(50_000) + 30,
        "uniform": rng.uniform(-1, 3, 50_000).astype(np.float32),
        "two values": rng.choice(np.float32([-1, 5]), 50_000),
    }


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", distributions())
def test_auto_takes_the_range_with_the_least_error(name: str, symmetric: bool, exact: bool) -> None:
    values = distributions()[name]
    histogram = Distribution()
    histogram.add(values)
    ranges = candidates(histogram, 99.99, symmetric)
    taken = choose(histogram, ranges, symmetric, exact)
    params = {n: params_of_range(*kept, symmetric=symmetric, exact=exact) for n, kept in ranges.items()}
    least = quantization_error(histogram, params[taken])
    assert least == min(quantization_error(histogram, p) for p in params.values())
    kept = Method("auto", symmetric=symmetric, exact=exact).range(histogram)
    assert (kept.low, kept.high, kept.method) == (*ranges[taken], taken)
    # by the values themselves too, but for what lies between values and their bins
    truth = {n: error_with(values, p) for n, p in params.items()}
    assert truth[taken] <= 1.02 * min(truth.values()) + 1e-12


@pytest.mark.parametrize("name", distributions())
@pytest.mark.parametrize("params", [Params(np.float32(0.05), np.uint8(100)), Params(np.float32(0.25), np.int8(0))])
def test_error_of_a_histogram_is_that_of_its_values(name: str, params: Params) -> None:
    values = distributions()[name]
    histogram = counted(values)
    # two values sit at the ends of their bins, where the histogram can only guess
    tolerance = histogram.width**2 if name == "two values" else 1e-9
    assert quantization_error(histogram, params) == pytest.approx(error_with(values, params), rel=0.02, abs=tolerance)


def error(values: np.ndarray, low: float, high: float) -> float:
    """Mean squared error of really quantizing."""
    return error_with(values, params_of_range(low, high))


def error_with(values: np.ndarray, params: Params) -> float:
    info, zero = np.iinfo(params.zero_point.dtype), int(params.zero_point)
    q = np.clip(np.rint(values.astype(np.float64) / float(params.scale)) + zero, info.min, info.max)
    return float((((q - zero) * float(params.scale) - values) ** 2).mean())


@pytest.mark.parametrize(
    "values",
    [normal(), np.maximum(normal(), 0), np.random.default_rng(1).laplace(size=200_000), normal() * 0.2 + 3],
    ids=["normal", "relu", "laplace", "offset"],
)
def test_mse_is_near_the_best_range_there_is(values: np.ndarray) -> None:
    found = error(values, *calibrated("mse", values))
    low, high = float(values.min()), float(values.max())
    shares = np.linspace(0.1, 1, 46)
    best = min(error(values, low * a, high * b) for a in (shares if low < 0 else [1.0]) for b in shares)
    assert found <= 1.03 * best
    assert found <= error(values, low, high) * 1.001


def test_entropy_cuts_outliers_and_keeps_the_rest() -> None:
    values = np.concatenate([normal(), np.array([60.0, -55.0], np.float32)])
    low, high = calibrated("entropy", values)
    assert 2.5 < high < 12 and -12 < low < -2.5


def test_entropy_keeps_a_uniform_distribution_whole() -> None:
    values = np.random.default_rng(0).uniform(0, 8, 200_000).astype(np.float32)
    low, high = calibrated("entropy", values)
    assert high > 7.8 and low == pytest.approx(0, abs=0.01)


def test_entropy_ignores_the_zeros_of_a_relu() -> None:
    positive = np.abs(normal())
    zeros = np.zeros(2_000_000, np.float32)
    assert calibrated("entropy", np.concatenate([positive, zeros])) == pytest.approx(
        calibrated("entropy", np.concatenate([positive, zeros[:1]])), rel=0.1, abs=1e-3
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("value", [0.0, 5.0, -3.0, 1e-38, 3e38])
def test_constant_tensors_are_safe(method: str, symmetric: bool, value: float) -> None:
    low, high = calibrated(method, np.full(100, value, np.float32), symmetric)
    params = params_of_range(low, high, symmetric)
    assert np.isfinite(params.scale) and params.scale > 0
    represented = max(-low, high)
    assert represented == pytest.approx(abs(float(np.float32(value))), rel=0.02, abs=1e-30)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_seen_is_an_empty_range(method: str) -> None:
    chosen = Method(method)
    statistic = chosen.statistic()
    statistic.add(np.zeros((0, 3), np.float32))
    for kept in (chosen.range(statistic), chosen.range()):
        assert (kept.low, kept.high) == (0.0, 0.0)


@pytest.mark.parametrize("method", METHODS)
def test_memory_is_flat(method: str) -> None:
    statistic = Method(method).statistic()
    batch = normal(4096)
    statistic.add(batch)
    tracemalloc.start()
    for index in range(20):
        statistic.add(batch + index)
    early = tracemalloc.get_traced_memory()[0]
    for index in range(1000):
        statistic.add(batch + index / 10)
    late = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert late - early < 64 * 1024
