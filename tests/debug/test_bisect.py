"""Bisecting finds a planted wrong pass and a planted wrong kernel, and what it saves fails alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from optkit_passes.pipelines import Default, Int8

from optkit.compiler.converters import NATIVE
from optkit.compiler.operators import quant
from optkit.debug import Bisection, bisect
from optkit.pipeline import Pipeline
from tests.debug.networks import BODY, Spoil, images, network, tanh_for

pytestmark = pytest.mark.needs_compiler
SIGMOID = BODY.replace("r2 = Relu (c2)", "r2 = Sigmoid (c2)")


def _ops(path: Path | None) -> list[str]:
    assert path is not None
    return [node.op_type for node in onnx.load(path).graph.node]


def _same_case(first: Bisection, second: Bisection) -> None:
    assert [f.kind for f in second.found] == [f.kind for f in first.found]


def test_nothing_wrong() -> None:
    outcome = bisect(network(), passes=Int8(), calib_data=images())
    assert outcome.found == () and all(not reason for _, reason in outcome.stages)
    assert [label for label, _ in outcome.stages] == [
        "load",
        "recognize",
        "fold-1",
        "fuse",
        "fold-2",
        "quantize",
        "artifact",
    ]


def test_wrong_pass(tmp_path: Path) -> None:
    pipeline = Pipeline((*Default().passes, Spoil(by=0.5), *Default().passes))
    outcome = bisect(network(), passes=pipeline, calib_data=images(), output=tmp_path / "case.onnx")
    assert len(outcome.found) == 1
    found = outcome.found[0]
    assert (found.kind, found.where, found.tensor) == ("pass", "spoil{by=0.5}", "c2")
    assert found.alone and _ops(found.path) == ["Conv"]
    assert found.inputs == tmp_path / "case.npz"
    again = bisect(tmp_path / "case.onnx", passes=Spoil(by=0.5), calib_data=str(found.inputs))
    _same_case(outcome, again)
    right = bisect(tmp_path / "case.onnx", calib_data=str(found.inputs))
    assert right.found == ()


def test_wrong_kernel_in_float(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NATIVE, "Sigmoid", tanh_for(NATIVE["Sigmoid"]))
    outcome = bisect(network(SIGMOID), calib_data=images(), output=tmp_path / "case.onnx")
    assert len(outcome.found) == 1
    found = outcome.found[0]
    assert (found.kind, found.where, found.tensor) == ("kernel", "Sigmoid Sigmoid_r2", "r2")
    assert found.alone and _ops(found.path) == ["Sigmoid"]
    _same_case(outcome, bisect(tmp_path / "case.onnx", calib_data=str(found.inputs)))
    monkeypatch.undo()
    assert bisect(tmp_path / "case.onnx", calib_data=str(found.inputs)).found == ()


def test_wrong_kernel_that_hides_when_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NATIVE, "Sigmoid", tanh_for(NATIVE["Sigmoid"], only_inside=True))
    outcome = bisect(network(SIGMOID), calib_data=images(), output=tmp_path / "case.onnx")
    found = outcome.found[0]
    assert any("with its inner tensors shown" in note for note in outcome.notes)
    assert found.tensor == "c3" and found.alone
    assert _ops(found.path) == ["Sigmoid", "Conv"]
    _same_case(outcome, bisect(tmp_path / "case.onnx", calib_data=str(found.inputs)))


def test_wrong_integer_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = quant.requantize

    def wrong(acc: Any, bias: Any, factor: Any, channel: Any, offset: int, low: float, high: float) -> Any:
        return right(acc, bias, factor, channel, offset + 3, low, high)

    monkeypatch.setattr(quant, "requantize", wrong)
    outcome = bisect(network(), passes=Int8(), calib_data=images(), output=tmp_path / "case.onnx")
    found = outcome.found[0]
    assert found.kind == "kernel" and found.tensor == "r1_q" and found.alone
    ops = _ops(found.path)
    assert ops.count("Conv") == 1 and "QuantizeLinear" in ops
    assert onnx.load(tmp_path / "case.onnx").graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    _same_case(outcome, bisect(tmp_path / "case.onnx", calib_data=str(found.inputs)))


def test_both_wrong_are_both_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NATIVE, "Sigmoid", tanh_for(NATIVE["Sigmoid"]))
    pipeline = Pipeline((*Default().passes, Spoil()))
    outcome = bisect(network(SIGMOID), passes=pipeline, calib_data=images(), output=tmp_path / "case.onnx")
    assert [f.kind for f in outcome.found] == ["pass", "kernel"]
    assert outcome.found[1].path == tmp_path / "case.kernel.onnx"


def test_a_tolerance_of_the_users() -> None:
    pipeline = Pipeline((*Default().passes, Spoil(by=1e-3)))
    assert bisect(network(), passes=pipeline, calib_data=images(), rtol=0.1).found == ()
    assert bisect(network(), passes=pipeline, calib_data=images(), rtol=1e-6).found
