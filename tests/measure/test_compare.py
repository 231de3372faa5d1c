"""Figures of comparisons against their definitions, and against awkward values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from optkit.measure.compare import MAX_SQNR, Comparison, Figures


def compare(reference: object, result: object) -> Figures:
    comparison = Comparison()
    comparison.add(np.asarray(reference), np.asarray(result))
    return comparison.figures()


def test_against_the_definitions() -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((50, 7)).astype(np.float32)
    b = (a + 0.01 * rng.standard_normal(a.shape)).astype(np.float32)
    f = compare(a, b)
    d = b.astype(np.float64) - a
    assert f.max_abs == np.abs(d).max()
    assert f.relative == pytest.approx(np.linalg.norm(d) / np.linalg.norm(a.astype(np.float64)))
    assert f.sqnr_db == pytest.approx(-20 * math.log10(f.relative))
    assert f.cosine == pytest.approx(np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-6)
    assert (f.elements, f.nonfinite, f.mismatches) == (350, 0, 350)
    assert (f.minimum, f.maximum) == (a.min(), a.max())


def test_noise_of_a_known_ratio() -> None:
    """White noise of a tenth of the signal's amplitude lies 20 dB below it."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal(200_000)
    assert compare(a, a + 0.1 * rng.standard_normal(a.size)).sqnr_db == pytest.approx(20, abs=0.1)


def test_samples_add_up() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 4, 9))
    parts = Comparison()
    for row in range(4):
        parts.add(a[row], b[row])
    whole = compare(a, b)
    assert parts.figures().relative == pytest.approx(whole.relative, rel=1e-12)
    assert parts.figures().cosine == pytest.approx(whole.cosine, rel=1e-12)
    assert parts.figures().max_abs == whole.max_abs


def test_equal() -> None:
    f = compare([1.0, -2.0], [1.0, -2.0])
    assert (f.max_abs, f.relative, f.sqnr_db, f.mismatches) == (0, 0, MAX_SQNR, 0)
    assert f.cosine == pytest.approx(1)


def test_zeros() -> None:
    f = compare(np.zeros(3), np.zeros(3))
    assert (f.relative, f.cosine, f.sqnr_db) == (0, 1, MAX_SQNR)
    f = compare(np.zeros(3), np.ones(3))
    assert (f.relative, f.cosine, f.sqnr_db) == (math.inf, 0, -MAX_SQNR)
    assert f.as_dict()["relative"] == 1e308


@pytest.mark.parametrize(
    ("reference", "result", "nonfinite"),
    [
        ([1, np.nan], [1, np.nan], 0),
        ([1, np.inf], [1, np.inf], 0),
        ([1, np.inf], [1, -np.inf], 1),
        ([1, 2.0], [1, np.nan], 1),
        ([1, 2.0], [1, np.inf], 1),
        ([1, np.nan], [1, 2.0], 1),
        ([1, np.inf], [1, 2.0], 1),
        ([1, np.nan], [1, np.inf], 1),
    ],
)
def test_values_that_are_not_finite(reference: list[float], result: list[float], nonfinite: int) -> None:
    f = compare(reference, result)
    assert f.nonfinite == nonfinite
    assert f.mismatches == nonfinite
    assert f.max_abs == 0
    assert all(math.isfinite(v) for v in f.as_dict().values())


def test_integers_past_float64() -> None:
    assert compare(np.array([2**53, 5]), np.array([2**53 + 1, 5])).mismatches == 1


def test_empty_and_wrong_shapes() -> None:
    assert compare(np.zeros((0, 3)), np.zeros((0, 3))).elements == 0
    with pytest.raises(ValueError, match=r"shape \(3,\) where the reference has \(2,\)"):
        compare(np.zeros(2), np.zeros(3))
