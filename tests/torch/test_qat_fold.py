"""Batch normalizations folded into layers: the same function in float, frozen when asked, quantized as deployed."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from optkit.torch import Recipe, freeze_batch_norm  # noqa: E402
from optkit.torch.layers import QuantizedLayer  # noqa: E402
from optkit.torch.trace import layers_of, trace  # noqa: E402
from tests.torch.qat_models import images, make  # noqa: E402

pytestmark = pytest.mark.needs_torch

PAIRS: dict[str, tuple[Any, Any, tuple[int, ...]]] = {
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, padding=1, bias=False), lambda: nn.BatchNorm2d(6), (8, 4, 5, 5)),
    "bias": (lambda: nn.Conv2d(4, 6, 3, padding_mode="reflect", padding=1), lambda: nn.BatchNorm2d(6), (8, 4, 5, 5)),
    "groups": (lambda: nn.Conv2d(4, 8, 3, groups=4), lambda: nn.BatchNorm2d(8, affine=False), (8, 4, 5, 5)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3), lambda: nn.BatchNorm1d(6), (8, 4, 9)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 2, 2), lambda: nn.BatchNorm2d(6), (8, 4, 5, 5)),
    "linear": (lambda: nn.Linear(4, 6), lambda: nn.BatchNorm1d(6), (8, 4)),
}


def _pair(name: str) -> tuple[nn.Module, nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    layer, norm, shape = PAIRS[name]
    layer, norm = layer(), norm()
    with torch.no_grad():
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        if norm.weight is not None:
            norm.weight.normal_()
            norm.bias.normal_()
    return layer, norm, torch.randn(shape)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("training", [False, True])
def test_equals_the_unfused_pair_in_float(name: str, training: bool) -> None:
    layer, norm, x = _pair(name)
    folded = QuantizedLayer(copy.deepcopy(layer), copy.deepcopy(norm), Recipe()).train(training)
    norm.train(training)
    torch.testing.assert_close(folded(x), norm(layer(x)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(folded.norm.running_var, norm.running_var)


@pytest.mark.parametrize("name", PAIRS)
def test_eight_bits_stay_near_in_training_and_eval(name: str) -> None:
    layer, norm, x = _pair(name)
    folded = QuantizedLayer(copy.deepcopy(layer), copy.deepcopy(norm), Recipe())
    weight = folded.folded()[0].detach()
    channels = weight.movedim(folded.axis or 0, 0).flatten(1).abs().amax(1)
    folded.quantize_weights(8, channels / 127)
    for training in (True, False):
        want = norm.train(training)(layer(x))
        error = (folded.train(training)(x) - want).norm() / want.norm()
        assert error < 0.02


def test_a_gamma_of_zero_gives_no_nan() -> None:
    layer, norm, x = _pair("conv2d")
    with torch.no_grad():
        norm.weight.zero_()
    folded = QuantizedLayer(layer, norm, Recipe())
    folded.quantize_weights(4, torch.full((6,), 0.01))
    for training in (True, False):
        folded.train(training)(x).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in folded.parameters() if p.grad is not None)
    torch.testing.assert_close(folded(x), norm.bias.view(-1, 1, 1).expand_as(folded(x)), atol=1e-4, rtol=1e-4)


def test_freezes_after_the_recipes_steps() -> None:
    layer, norm, x = _pair("conv2d")
    folded = QuantizedLayer(layer, norm, Recipe(freeze_bn_after=2)).train()
    seen = []
    for _ in range(4):
        folded(x)
        seen.append(norm.running_mean.clone())
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[1], seen[2])
    assert torch.equal(seen[2], seen[3])
    # frozen, training computes what eval computes
    torch.testing.assert_close(folded.train()(x), folded.eval()(x), rtol=0, atol=0)


@pytest.mark.parametrize("how", ["function", "eval"])
def test_freezes_when_asked(how: str) -> None:
    module = trace(make("residual"), Recipe()).train()
    if how == "function":
        freeze_batch_norm(module)
    else:
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.eval()
    before = {n: b.clone() for n, b in module.named_buffers()}
    module(images(8))
    assert all(torch.equal(before[n], b) for n, b in module.named_buffers())


def test_every_pair_of_a_network_is_found() -> None:
    module = trace(make("residual"), Recipe())
    folded = {name: layer.norm is not None for name, layer in layers_of(module).items()}
    assert folded == {"stem.0": True, "conv": True, "fc": False}
