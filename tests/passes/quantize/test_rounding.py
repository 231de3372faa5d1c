"""The solvers that round a weight for its layer's outputs."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from optkit_passes.quantize.rounding import descend, fit_scale, objective, relax


def problem(seed: int, depth: int, outputs: int = 4, groups: int = 2, samples: int = 64) -> tuple[np.ndarray, ...]:
    """Weights, scales, and the moments of inputs that go together (correlated, unlike scales)."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((groups, depth, depth)) * 10.0 ** rng.uniform(-1, 1, (groups, 1, depth))
    x = rng.standard_normal((groups, samples, depth)) @ mix
    w = rng.standard_normal((groups, outputs, depth))
    gram = x.transpose(0, 2, 1) @ x / samples
    return w, np.full((groups, outputs, 1), 0.7), gram, w @ gram


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 12), st.sampled_from([1, 3, 7, 127]))
def test_descent_never_loses_and_ends_where_no_single_step_helps(seed: int, depth: int, top: int) -> None:
    w, scale, gram, target = problem(seed, depth)
    nearest = np.clip(np.rint(w / scale), -top, top)
    q = descend(nearest, scale, gram, target, top, sweeps=100)
    assert np.abs(q).max() <= top and np.array_equal(q, np.rint(q))
    reached = objective(scale * q, gram, target)
    assert (reached <= objective(scale * nearest, gram, target) + 1e-9).all()
    slack = 1e-6 * np.abs(reached) + 1e-9
    for k, step in itertools.product(range(depth), (-1, 1)):
        other = q.copy()
        other[..., k] = np.clip(other[..., k] + step, -top, top)
        assert (objective(scale * other, gram, target) >= reached - slack).all()


def test_relaxation_rounds_up_or_down_and_closes_part_of_the_gap_to_the_best_of_all() -> None:
    gaps = np.zeros(2)
    for seed in (3, 4, 5):
        w, scale, gram, target = problem(seed, depth=8)
        q = relax(w, scale, gram, target, 127, steps=1000)
        floor = np.floor(w / scale)
        assert set(np.unique(q - floor)) <= {0.0, 1.0}
        choices = np.array(list(itertools.product((0.0, 1.0), repeat=8)))
        best = np.min([objective(scale * (floor + choice), gram, target) for choice in choices], axis=0).sum()
        nearest = objective(scale * np.rint(w / scale), gram, target).sum()
        gaps += (nearest - best, objective(scale * q, gram, target).sum() - best)
    assert gaps[1] < 0.75 * gaps[0]


def test_an_input_that_never_varies_leaves_its_weight_at_the_nearest() -> None:
    w, scale, gram, _ = problem(0, depth=4)
    gram[:, 2, :] = gram[:, :, 2] = 0
    nearest = np.rint(w / scale)
    assert np.array_equal(descend(nearest, scale, gram, w @ gram, 127)[..., 2], nearest[..., 2])


def test_the_fitted_scale_is_the_least_squares_one() -> None:
    w, scale, gram, target = problem(1, depth=6)
    q = np.rint(w / scale)
    best = fit_scale(q, scale, gram, target)
    for factor in (0.99, 1.01):
        assert (objective(best * q, gram, target) <= objective(factor * best * q, gram, target)).all()
    assert np.array_equal(fit_scale(np.zeros_like(q), scale, gram, target), scale)
