"""Every kernel of real models equals its unscheduled self, on each level of x86 that runs here."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest

from optkit.compiler.check import check_kernels
from optkit.model import load_model
from optkit.registry import find_target, get_pipeline
from optkit.target import Target
from optkit.transform import PassContext
from tests.compiler.bundle import Bundle
from tests.compiler.test_lower_conv import grid
from tests.compiler.test_structure import network

TARGETS = ["cpu", "x86-64-v3"]


def runnable(name: str) -> Target:
    target = find_target(name)
    if reason := target.runs_here():
        pytest.skip(reason)
    return target


def prepared(model: ir.Model, pipeline: str, target: Target) -> ir.Model:
    return get_pipeline(pipeline).run(model, PassContext(target=target)).model


@pytest.mark.parametrize("pipeline", ["default", "int8"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "name",
    [
        "mnist-12",
        "resnet20_cifar10",
        pytest.param("mobilenetv2_cifar10", marks=pytest.mark.slow),
        pytest.param("vit_cifar10", marks=pytest.mark.slow),
        pytest.param("ultraface-rfb-320", marks=pytest.mark.slow),
    ],
)
def test_shared_models(shared_dir: Path, name: str, target: str, pipeline: str) -> None:
    machine = runnable(target)
    model = prepared(load_model(shared_dir / "models" / f"{name}.onnx"), pipeline, machine)
    assert [str(m) for m in check_kernels(model, machine)] == []


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
    from benchmarks.zoo import export_model

    return export_model("squeezenet1_1", tmp_path_factory.mktemp("zoo") / "squeezenet.onnx", dynamic_batch=True)


@pytest.mark.slow
@pytest.mark.needs_torch
@pytest.mark.parametrize("pipeline", ["default", "int8"])
@pytest.mark.parametrize("target", TARGETS)
def test_squeezenet(squeezenet: Path, target: str, pipeline: str) -> None:
    """Its stem makes images 111 wide, which no register tile divides."""
    machine = runnable(target)
    model = prepared(load_model(squeezenet), pipeline, machine)
    assert [str(m) for m in check_kernels(model, machine)] == []


@pytest.mark.parametrize("target", TARGETS)
def test_symbolic_batch(target: str) -> None:
    assert [str(m) for m in check_kernels(network().model(), runnable(target))] == []


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_awkward_convolutions(target: str) -> None:
    b = Bundle()
    grid(b)
    assert [str(m) for m in check_kernels(b.model(), runnable(target))] == []
