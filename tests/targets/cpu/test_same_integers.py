"""One Q/DQ model gives the same integers on every level of x86 and on 64-bit Arm, and those of ONNX Runtime.

Every quantized tensor of a model is made an output, so each integer layer is looked at. The levels of x86 multiply
bytes by pairs in 16 bits (AVX2, AVX-512) or by fours (VNNI), the Arm ones widen, or have dot products of signed bytes:
what saturates in one must not in another. The Arm code runs in an emulator, all kernels of the model one after the
other.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from optkit.compiler.build import Built, build, prepare
from optkit.registry import find_target
from tests.compiler.bundle import run
from tests.targets.cpu import integers
from tests.targets.cpu.foreign import emulate, link_foreign, needs_emulator
from tests.targets.cpu.test_scheduled_models import runnable

X86 = ["x86-64-v3", "alderlake", "x86-64-v4", "cpu"]
ARM = ["cortex-a72", "cortex-a76"]
MODELS: dict[str, Callable[[], ir.Model]] = {
    "residual": integers.residual_network,
    "saturating": integers.saturating_network,
}
LARGE = ["resnet20_cifar10", "mobilenetv2_cifar10"]
SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "models"


@cache
def exposed(name: str) -> ir.Model:
    """A model with every integer as an output."""
    made = MODELS.get(name)
    if made is None and not (SHARED / f"{name}.onnx").is_file():
        pytest.skip(f"no {name}.onnx in the shared models")
    model = integers.shared_network(SHARED / f"{name}.onnx") if made is None else made()
    count = len(integers.expose(model))
    assert count > 5, "a model of integers has many of them"
    return model


@cache
def expected(name: str, label: str) -> list[np.ndarray]:
    model = exposed(name)
    return integers.reference(model, integers.feeds(model)[label])


def compare(name: str, label: str, found: list[np.ndarray]) -> list[str]:
    """Quantized outputs that differ from ONNX Runtime's in any bit."""
    outputs = exposed(name).graph.outputs
    problems = []
    for value, x, y in zip(outputs, expected(name, label), found, strict=True):
        if x.dtype.kind in "iu" and not np.array_equal(x, y):
            steps = np.abs(x.astype("int64") - y.astype("int64"))
            problems.append(f"{label}: {value.name} differs in {int((steps > 0).sum())} of {x.size}, by {steps.max()}")
    return problems


def check_x86(name: str, target: str) -> Built:
    machine = runnable(target)
    model = exposed(name)
    built = build(model.clone(), machine)
    problems = []
    for label, feed in integers.feeds(model).items():
        problems += compare(name, label, run(built, [feed[i.name] for i in built.inputs]))
    assert not problems, "\n".join(problems)
    return built


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("target", X86)
def test_every_level_of_x86(target: str, name: str) -> None:
    built = check_x86(name, target)
    assert {r.compute for r in built.nodes} == {"int8"}, [r for r in built.nodes if r.compute != "int8"]


@needs_emulator
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("target", ARM)
def test_arm(target: str, name: str, tmp_path: Path) -> None:
    check_arm(name, target, tmp_path)


def check_arm(name: str, target: str, folder: Path) -> None:
    machine = find_target(target)
    model = exposed(name)
    ready = prepare(model.clone(), machine)
    inputs = {label: [feed[n] for n in ready.lowered.input_names] for label, feed in integers.feeds(model).items()}
    link_foreign(ready, machine, inputs["ordinary"], folder)
    problems = []
    for label, arrays in inputs.items():
        problems += compare(name, label, emulate(ready, machine, arrays, folder))
    assert not problems, "\n".join(problems)


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("target", ["x86-64-v3", "x86-64-v4", "cpu"])
def test_trained_networks_on_x86(target: str, name: str) -> None:
    built = check_x86(name, target)
    assert {r.compute for r in built.nodes} == {"int8"}


@pytest.mark.slow
@needs_emulator
@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("target", ARM)
def test_trained_networks_on_arm(target: str, name: str, tmp_path: Path) -> None:
    check_arm(name, target, tmp_path)


def test_a_different_integer_is_noticed() -> None:
    found = [y.copy() for y in expected("residual", "ordinary")]
    assert compare("residual", "ordinary", found) == []
    last = next(y for y in reversed(found) if y.dtype.kind == "u")
    last.reshape(-1)[0] ^= 1
    assert len(compare("residual", "ordinary", found)) == 1


def test_inputs_reach_both_ends() -> None:
    """The extreme inputs do saturate, and the saturating network does leave 16 bits."""
    for name in MODELS:
        names = [v.name for v in exposed(name).graph.outputs]
        for label, end in (("all bytes 255", 255), ("all bytes 0", 0)):
            first = next(y for n, y in zip(names, expected(name, label), strict=True) if y.dtype.kind == "u")
            assert (first == end).all(), names
