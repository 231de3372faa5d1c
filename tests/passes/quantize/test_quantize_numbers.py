"""Scales, zero points, int8 weights and int32 biases."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from optkit_passes.quantize.params import params_of_range
from optkit_passes.quantize.weights import BIAS_LIMIT, bias_scale, exact_bits, quantize_weight

ANY = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(ANY, ANY)
@example(0.0, -2.3560577100401048e-11)
def test_zero_is_exact_and_ends_are_within_a_step(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    params = params_of_range(low, high)
    scale, zero = float(params.scale), int(params.zero_point)
    assert params.scale.dtype == np.float32 and isinstance(params.zero_point, np.uint8)
    assert np.finfo(np.float32).tiny < scale < np.inf
    assert (0 - zero) * scale <= min(low, 0) + scale
    assert (255 - zero) * scale >= max(high, 0) - scale


@given(ANY, ANY)
def test_symmetric_has_zero_point_zero(a: float, b: float) -> None:
    params = params_of_range(min(a, b), max(a, b), symmetric=True)
    assert isinstance(params.zero_point, np.int8) and params.zero_point == 0
    assert 127 * float(params.scale) >= max(abs(a), abs(b)) * (1 - 1e-6)


def test_all_zeros_keep_bias_scales_fine() -> None:
    params = params_of_range(0.0, 0.0)
    assert params.zero_point == 0 and params.scale == np.float32(1 / 255)


def test_weights_round_half_to_even_within_half_a_step() -> None:
    weight = np.random.default_rng(0).standard_normal((8, 4, 3, 3)).astype(np.float32)
    weight[0, 0, 0, :] = [127, 0.5, 1.5]
    weight[0, 0, 1:] = 0
    weight[0, 1:] = 0
    found = quantize_weight(weight, 0)
    assert found.q[0, 0, 0].tolist() == [127, 0, 2]
    restored = found.q * found.scale[:, None, None, None]
    assert np.abs(restored - weight).max(axis=(1, 2, 3))[1:].max() <= found.scale[1:].max() / 2 * 1.0001
    assert found.q.dtype == np.int8 and found.q.min() >= -127


def test_each_channel_uses_all_of_int8() -> None:
    weight = np.random.default_rng(0).standard_normal((5, 6)).astype(np.float32) * 10.0 ** np.arange(-3, 3)
    found = quantize_weight(weight.astype(np.float32), 1)
    assert found.scale.shape == (6,)
    assert np.abs(found.q).max(axis=0).tolist() == [127] * 6


def test_zero_and_tiny_channels_have_sane_scales() -> None:
    weight = np.ones((3, 4), np.float32)
    weight[1] = 0
    weight[2] = 1e-44
    found = quantize_weight(weight, 0, np.array([0.1, 0.1, 0.1], np.float32), 0.02)
    assert found.scale[1] == found.scale[0]
    assert (found.scale > 1e-30).all()
    bias = found.bias * bias_scale(found.scale, 0.02).astype(np.float64)
    np.testing.assert_allclose(bias, 0.1, rtol=2e-3)
    assert quantize_weight(np.zeros((2, 2), np.float32), 0).scale.tolist() == [np.float32(1 / 127)] * 2


def test_bias_that_would_overflow_raises_its_channels_scale_only() -> None:
    weight = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    weight[1] *= 1e-10
    bias = np.array([1.0, 100.0, -1.0], np.float32)
    plain, found = quantize_weight(weight, 0), quantize_weight(weight, 0, bias, 0.01)
    assert found.widened == (1,)
    assert found.scale[0] == plain.scale[0] and found.scale[1] > plain.scale[1]
    assert np.abs(found.bias).max() <= BIAS_LIMIT * 1.0001
    np.testing.assert_allclose(found.bias * bias_scale(found.scale, 0.01).astype(np.float64), bias, rtol=1e-3)
    assert found.accumulator_fits(0)


def test_sums_that_could_leave_int32_are_seen() -> None:
    assert quantize_weight(np.ones((1, 60_000), np.float32), 0).accumulator_fits(0)
    assert not quantize_weight(np.ones((1, 70_000), np.float32), 0).accumulator_fits(0)


def test_per_tensor_scale_is_a_scalar() -> None:
    found = quantize_weight(np.array([[1.0, -2.0]], np.float32), None, np.array([0.5], np.float32), 0.5)
    assert found.scale.shape == () and found.q.tolist() == [[64, -127]]
    assert found.bias is not None and found.bias.shape == (1,)


def test_long_sums_leave_scales_fewer_bits() -> None:
    """float32 holds every sum on the way of 2304 activations times the weights exactly."""
    weight = np.random.default_rng(0).standard_normal((4, 256, 3, 3)).astype(np.float32)
    weight[1] = np.abs(weight[1])
    found = quantize_weight(weight, 0, exact=True)
    bits = exact_bits(found.q.astype(np.float64), 0)
    assert bits.tolist() == [4, 3, 4, 4]
    assert exact_bits(found.q[:, :8].astype(np.float64), 0).tolist() == [6, 6, 6, 6]
    assert exact_bits(found.q.astype(np.float64), None) <= bits.min()
    mantissas = np.frexp(found.scale)[0]
    assert np.array_equal(mantissas * 2**bits, np.round(mantissas * 2**bits))
    activations = np.abs(np.random.default_rng(1).normal(0, 80, (256, 9))).clip(0, 255).round()
    products = found.q.reshape(4, -1).astype(np.float64) * activations.ravel()
    reached = np.abs(np.cumsum(products, axis=1)).max(1) < 2.0 ** (24 - bits)
    assert reached.tolist() == [True, False, True, True]  # weights of one sign: three bits are the least
