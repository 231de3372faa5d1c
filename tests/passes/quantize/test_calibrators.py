"""Calibrators against numpy on known distributions, and in flat memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from optkit_passes.quantize.calibrators import METHODS, make_calibrator
from optkit_passes.quantize.histogram import BINS, Histogram
from optkit_passes.quantize.params import params_of_range


def normal(count: int = 200_000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(count).astype(np.float32)


def pieces(values: np.ndarray, count: int = 7) -> Iterator[np.ndarray]:
    return iter(np.array_split(values, count))


def calibrated(
    method: str, values: np.ndarray, symmetric: bool = False, percentile: float = 99.99
) -> tuple[float, float]:
    calibrator = make_calibrator(method, percentile, symmetric)
    for piece in pieces(values):
        calibrator.observe(piece)
    return calibrator.range()


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


def error(values: np.ndarray, low: float, high: float) -> float:
    """Mean squared error of really quantizing."""
    params = params_of_range(low, high)
    zero = int(params.zero_point)
    q = np.clip(np.rint(values.astype(np.float64) / float(params.scale)) + zero, 0, 255)
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
    calibrator = make_calibrator(method)
    calibrator.observe(np.zeros((0, 3), np.float32))
    assert calibrator.range() == (0.0, 0.0)


@pytest.mark.parametrize("method", METHODS)
def test_memory_is_flat(method: str) -> None:
    calibrator = make_calibrator(method)
    batch = normal(4096)
    calibrator.observe(batch)
    tracemalloc.start()
    for index in range(20):
        calibrator.observe(batch + index)
    early = tracemalloc.get_traced_memory()[0]
    for index in range(1000):
        calibrator.observe(batch + index / 10)
    late = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert late - early < 64 * 1024
