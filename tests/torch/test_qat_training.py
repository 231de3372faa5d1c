"""Training in the user's own loop: any loss, autocast, checkpoints, observers, starting from what PTQ found."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional  # noqa: E402

import optkit  # noqa: E402
from optkit.model import save_model  # noqa: E402
from optkit.torch import Recipe, convert, export, prepare, scale_parameters  # noqa: E402
from optkit.torch.fake_quantize import ActivationQuantizer  # noqa: E402
from optkit.torch.qdq import read_tensors  # noqa: E402
from tests.torch.qat_models import images, make  # noqa: E402

pytestmark = pytest.mark.needs_torch

CLASSES = 5
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@pytest.fixture(scope="module")
def fresh() -> torch.nn.Module:
    return prepare(make("residual"), Recipe(weight_bits=4), (images(4),), calibration=[(images(16), None)])


@pytest.fixture()
def prepared(fresh: torch.nn.Module) -> torch.nn.Module:
    return copy.deepcopy(fresh).train()


def _train(module: torch.nn.Module, loss: Loss, steps: int = 40, autocast: bool = False) -> list[float]:
    scales = scale_parameters(module)
    known = {id(p) for p in scales}
    others = [p for p in module.parameters() if id(p) not in known]
    optimizer = torch.optim.SGD([{"params": others, "weight_decay": 1e-4}, {"params": scales}], 0.05, momentum=0.9)
    x = images(64, seed=5)
    y = (x[:, 0].mean((1, 2)) * 8).clamp(-2, 2).round().long() + 2
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            value = loss(module(x), y)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses


def _weighted(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(logits, y, weight=torch.tensor([4.0, 1.0, 0.5, 1.0, 4.0]))


def _focal(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    likely = logits.log_softmax(1).gather(1, y[:, None])
    return -((1 - likely.exp()) ** 2 * likely).mean()


@pytest.mark.parametrize("loss", [_weighted, _focal])
def test_any_loss_trains_weights_and_scales(prepared: torch.nn.Module, loss: Loss) -> None:
    before = {n: p.detach().clone() for n, p in prepared.named_parameters()}
    losses = _train(prepared, loss)
    assert losses[-1] < 0.8 * losses[0]
    assert all(not torch.equal(before[n], p) for n, p in prepared.named_parameters())
    assert len(scale_parameters(prepared)) == 3 + len(prepared.activation_quantizers)


def test_class_weights_change_the_gradient(prepared: torch.nn.Module) -> None:
    x, y = images(8), torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])
    grads = []
    for weight in (None, torch.tensor([5.0, 1, 1, 1, 1])):
        prepared.zero_grad()
        functional.cross_entropy(prepared(x), y, weight=weight).backward()
        grads.append(torch.cat([p.grad.flatten() for p in prepared.parameters() if p.grad is not None]))
    assert not torch.allclose(*grads)


def test_autocast_in_bfloat16(prepared: torch.nn.Module) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert prepared(images(4)).dtype == torch.bfloat16  # the layers do compute in it
    losses = _train(prepared, functional.cross_entropy, autocast=True)
    assert losses[-1] < 0.8 * losses[0]
    assert all(p.dtype == torch.float32 and torch.isfinite(p).all() for p in prepared.parameters())


def test_a_checkpoint_restores_everything(prepared: torch.nn.Module, fresh: torch.nn.Module) -> None:
    _train(prepared, functional.cross_entropy, steps=3)
    other = copy.deepcopy(fresh)
    other(images(4))  # before loading, so that nothing of it may be remembered
    other.load_state_dict(prepared.state_dict())
    assert torch.equal(other.eval()(images(4)), prepared.eval()(images(4)))


def test_the_users_module_is_left_alone() -> None:
    module = make("perceptron")
    before = {n: p.clone() for n, p in module.named_parameters()}
    prepared = prepare(module, Recipe(), (images(4),)).train()
    _train(prepared, lambda logits, _: logits.square().mean(), steps=2)
    assert all(torch.equal(before[n], p) for n, p in module.named_parameters())
    assert module.training


def test_observers_train_and_convert(tmp_path: Path) -> None:
    recipe = Recipe(method="observer", weight_bits=4, exact=False)
    module = prepare(make("residual"), recipe, (images(4),)).train()
    quantizer = next(m for m in module.modules() if isinstance(m, ActivationQuantizer))
    before = float(quantizer.step())
    losses = _train(module, functional.cross_entropy, steps=100)
    assert losses[-1] < 0.8 * losses[0]
    assert float(quantizer.step()) != before
    assert not scale_parameters(module)
    convert(module, (images(4),), tmp_path / "x.onnx")  # verifies against ONNX Runtime


def test_starts_from_the_ranges_of_a_quantized_model(tmp_path: Path) -> None:
    module = make("residual")
    path = export(module, (images(4),), tmp_path / "float.onnx")
    quantized = optkit.quantize(path, calib_data={"x": images(4, seed=9).numpy() * 3}, calib_method="percentile")
    save_model(quantized, tmp_path / "ptq.onnx")
    prepared = prepare(module, Recipe(), (images(4),), ranges=tmp_path / "ptq.onnx")
    quantizers = [m for m in prepared.modules() if isinstance(m, ActivationQuantizer)]
    got = sorted((float(q.step().detach()), int(q.zero_point)) for q in quantizers)
    assert got == sorted((t.scale, t.zero_point) for t in read_tensors(quantized))
    with torch.no_grad():
        error = prepared.eval()(images(4)) - module.eval()(images(4))
    assert error.abs().max() < 0.1 * np.ptp(module(images(4)).detach().numpy())
