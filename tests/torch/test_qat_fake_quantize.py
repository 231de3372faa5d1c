"""Fake quantization: forward as QuantizeLinear rounds, backward as the LSQ paper says, scales as the pass chooses."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from optkit_passes.quantize.params import exact_activation_scale, exact_weight_scale  # noqa: E402
from optkit_passes.quantize.weights import exact_bits  # noqa: E402

from optkit.torch import Recipe  # noqa: E402
from optkit.torch.fake_quantize import ActivationQuantizer, fake_quantize, gradient_factor  # noqa: E402
from optkit.torch.scales import few_bits, power_of_two  # noqa: E402

pytestmark = pytest.mark.needs_torch


def test_gradient_is_the_papers() -> None:
    """Equation 3 of Esser et al. 2020, written element by element, and equation 5 for the data."""
    low, high, step = -4.0, 3.0, 0.5
    x = torch.linspace(-4.03, 4.01, 41, requires_grad=True)
    scale = torch.tensor(step, requires_grad=True)
    upstream = torch.linspace(1, 2, 41)
    fake_quantize(x, scale, low, high, factor=0.25).backward(upstream)
    want_scale, want_x = 0.0, []
    for value, g in zip(x.tolist(), upstream.tolist(), strict=True):
        v = value / step
        if v <= low:
            inner, passes = low, 0.0
        elif v >= high:
            inner, passes = high, 0.0
        else:
            inner, passes = round(v) - v, 1.0
        want_scale += g * inner
        want_x.append(g * passes)
    assert scale.grad is not None
    assert x.grad is not None
    np.testing.assert_allclose(scale.grad.item(), 0.25 * want_scale, rtol=1e-5)
    np.testing.assert_allclose(x.grad.numpy(), want_x, rtol=1e-6)


def test_channel_scales_get_their_own_gradients() -> None:
    x, scale = torch.randn(3, 5), torch.tensor([[0.1], [0.2], [0.4]], requires_grad=True)
    fake_quantize(x, scale, -3, 3).sum().backward()
    for row in range(3):
        alone = scale.detach()[row, 0].clone().requires_grad_()
        fake_quantize(x[row], alone, -3, 3).sum().backward()
        assert scale.grad is not None
        assert alone.grad is not None
        np.testing.assert_allclose(scale.grad[row, 0].item(), alone.grad.item(), rtol=1e-5)


def test_gradient_factor_balances_as_in_section_2_2() -> None:
    assert gradient_factor(100, 255) == pytest.approx(1 / (100 * 255) ** 0.5)


def test_forward_is_quantize_linear_and_dequantize_linear() -> None:
    scale, zero = 0.0625, 37
    quantizer = ActivationQuantizer(Recipe(), scale, zero)
    x = np.concatenate([np.linspace(-4, 20, 999), np.arange(-60, 260) * scale + scale / 2]).astype(np.float32)
    want = (np.clip(np.rint(x / np.float32(scale)) + zero, 0, 255) - zero) * np.float32(scale)
    np.testing.assert_array_equal(quantizer(torch.from_numpy(x)).detach().numpy(), want)


def test_quantizing_again_changes_nothing() -> None:
    quantizer = ActivationQuantizer(Recipe(exact=False), 0.0371, 12)
    once = quantizer(torch.randn(4, 100) * 5)
    assert torch.equal(quantizer(once), once)


def test_powers_of_two_are_those_of_the_pass() -> None:
    scales = np.exp(np.random.default_rng(0).uniform(-12, 3, 500)).astype(np.float32)
    want = [exact_activation_scale(float(s)) for s in scales]
    np.testing.assert_array_equal(power_of_two(torch.from_numpy(scales)).numpy(), want)


@pytest.mark.parametrize("axis", [0, 1, None])
def test_weight_scales_are_those_of_the_pass(axis: int | None) -> None:
    rng = np.random.default_rng(1)
    weight = rng.normal(size=(16, 300)).astype(np.float32)
    scale = rng.uniform(0.001, 0.1, () if axis is None else (weight.shape[axis],)).astype(np.float32)
    spread = scale if axis is None else scale.reshape((-1, 1) if axis == 0 else (1, -1))
    want = exact_weight_scale(scale.astype(np.float64), exact_bits(weight.astype(np.float64) / spread, axis))
    got = few_bits(torch.from_numpy(scale), torch.from_numpy(weight), axis)
    np.testing.assert_array_equal(got.numpy(), want.astype(np.float32))


def test_an_observer_follows_the_data_and_stops() -> None:
    quantizer = ActivationQuantizer(Recipe(method="observer", momentum=0.5, freeze_ranges_after=20), 1.0, 128)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        quantizer(torch.rand(4, 1000, generator=generator) * 2)
    assert float(quantizer.step()) == exact_activation_scale(2 / 255)
    assert int(quantizer.zero_point) == 0
    quantizer(torch.full((4, 10), 100.0))
    assert float(quantizer.step()) == exact_activation_scale(2 / 255)
    assert not list(quantizer.parameters())
