"""Verification passes what agrees, fails what does not, and says why."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from optkit.artifact import TensorSpec
from optkit.errors import DataError, ModelError, UsageError
from optkit.measure.checks import check_int8
from optkit.measure.compare import Comparison
from optkit.measure.inputs import random_sample, random_samples
from optkit.measure.reference import Reference
from optkit.measure.steps import has_quantization, quantized_levels, quantized_step
from optkit.measure.verify import verify
from optkit.model import load_model
from optkit.runtime import load
from tests.measure.onnx_models import mlp_onnx, model, quantized_matmul, save


class Altered:
    """ONNX Runtime's own results with something done to them: a compiler with a known fault."""

    def __init__(self, source: Any, alter: Callable[[np.ndarray], np.ndarray] = lambda y: y) -> None:
        self.reference, self.alter = Reference(source), alter

    def run(self, feed: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {n: self.alter(a) if n == "y" else a for n, a in self.reference.run(feed).items()}


def in_memory(proto: Any) -> ir.Model:
    return ir.serde.deserialize_model(proto)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return save(mlp_onnx(), tmp_path / "mlp.onnx")


def test_a_real_artifact(source: Path, mlp_artifact: Path) -> None:
    outcome = verify(source, None, load(mlp_artifact, threads=1))
    assert outcome.passed, outcome.reason
    assert [o.name for o in outcome.outputs] == ["y", "same", "bias"]
    assert outcome.outputs[0].figures.relative < 1e-6
    assert outcome.outputs[0].figures.elements == (1 + 3 + 2) * 5
    assert outcome.as_dict()["status"] == "passed"
    assert outcome.stable() == {
        "status": "passed",
        "precision": "fp32",
        "samples": 3,
        "limits": {n: {"relative": 1e-4} for n in ("y", "same", "bias")},
    }


@pytest.mark.parametrize(("precision", "limit"), [("fp32", 1e-4), ("tf32", 1e-2), ("fp16", 1e-2), ("bf16", 3e-2)])
def test_limits_of_float(source: Path, precision: str, limit: float) -> None:
    assert verify(source, None, Altered(source, lambda y: y * (1 + 0.9 * limit)), precision=precision).passed
    outcome = verify(source, None, Altered(source, lambda y: y * (1 + 1.1 * limit)), precision=precision)
    assert not outcome.passed
    assert outcome.reason == f"output 'y': relative error {1.1 * limit:.2e} exceeds {limit:.2e}"


def test_what_a_user_may_change(source: Path) -> None:
    worse = Altered(source, lambda y: y * 1.01)
    assert verify(source, None, worse, rtol=0.1).passed
    assert not verify(source, None, Altered(source, lambda y: y * (1 + 1e-6)), rtol=1e-8).passed
    outcome = verify(source, None, worse, rtol=0.1, atol=1e-4)
    assert "absolute error" in outcome.reason


@pytest.mark.parametrize(
    ("alter", "reason"),
    [
        (lambda y: y * np.nan, "are NaN or infinite"),
        (lambda y: np.where(y == y.max(), np.inf, y), "1 values are NaN|3 values are NaN"),
        (lambda y: y[:, :2], "has shape"),
        (np.zeros_like, "relative error 1.00e\\+00"),
    ],
)
def test_what_is_wrong_is_said(source: Path, alter: Callable[[np.ndarray], np.ndarray], reason: str) -> None:
    outcome = verify(source, None, Altered(source, alter))
    assert not outcome.passed
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(outcome.reason)
    assert "\n" not in outcome.reason


def test_int8(tmp_path: Path) -> None:
    plain, quantized = quantized_matmul()
    path, emitted = save(plain, tmp_path / "plain.onnx"), in_memory(quantized)
    exact = verify(path, emitted, Altered(emitted), precision="int8")
    assert exact.passed, exact.reason
    check = exact.outputs[0]
    assert check.step == pytest.approx(0.15)
    assert check.emitted is not None
    assert check.emitted.max_abs == 0
    assert check.limits["sqnr_db"] == pytest.approx(check.figures.sqnr_db - 1)

    def off(steps: float) -> Callable[[np.ndarray], np.ndarray]:
        def alter(y: np.ndarray) -> np.ndarray:
            y = y.copy()
            y[0, 0] += np.float32(steps * 0.15)
            return y

        return alter

    assert verify(path, emitted, Altered(emitted, off(1.9)), precision="int8").passed
    outcome = verify(path, emitted, Altered(emitted, off(2.1)), precision="int8")
    assert "2.10 steps, exceeds 2 steps" in outcome.reason


def test_float16_between_integers_may_cost_what_quantization_costs(tmp_path: Path) -> None:
    """Steps are no measure then; the distance to the original still is."""
    plain, quantized = quantized_matmul()
    quantized.graph.node.pop()
    names = ("d", "h", "y")
    for (source, made), kind in zip(itertools.pairwise(names), (TensorProto.FLOAT16, TensorProto.FLOAT), strict=True):
        quantized.graph.node.append(helper.make_node("Cast", [source], [made], to=kind))
    path, emitted = save(plain, tmp_path / "plain.onnx"), load_model(save(quantized, tmp_path / "quantized.onnx"))
    exact = verify(path, emitted, Altered(emitted), precision="int8")
    (check,) = exact.outputs
    assert exact.passed and check.emitted_to_original is not None
    cost = check.emitted_to_original.max_abs
    assert check.step is not None and cost > check.step
    assert check.limits["max_abs_to_emitted"] == pytest.approx(2 * cost)

    def judged(by: float, rows: int) -> str:
        def alter(y: np.ndarray) -> np.ndarray:
            return y + np.float32(by) * (np.arange(len(y)) < rows)[:, None]

        return verify(path, emitted, Altered(emitted, alter), precision="int8").reason

    assert judged(1.9 * cost, 1) == ""
    assert "steps, exceeds" in judged(2.1 * cost, 1)
    assert "SQNR" in judged(cost, 256)


@pytest.mark.parametrize(("halves", "noise", "passes"), [(True, 5e-3, True), (True, 2e-2, False), (False, 5e-3, False)])
def test_an_output_of_float16_alone_is_held_to_float16(halves: bool, noise: float, passes: bool) -> None:
    """ONNX Runtime computed it in float32, on the model with Q/DQ nodes as on the original."""
    rng = np.random.default_rng(0)
    want = rng.standard_normal(1000).astype(np.float32)
    found = want * (1 + np.float32(noise) * rng.choice([-1, 1], want.shape).astype(np.float32))
    exact, off = Comparison(), Comparison()
    exact.add(want, want)
    off.add(want, found)
    check = check_int8("y", off.figures(), exact.figures(), exact.figures(), 0.1, [], halves=halves)
    assert (check.reason == "") == passes, check.reason


def test_int8_that_is_off_by_one_everywhere_fails_by_sqnr(tmp_path: Path) -> None:
    """Every value within two steps, and still far more noise than quantization makes."""
    plain, quantized = quantized_matmul()
    path, emitted = save(plain, tmp_path / "plain.onnx"), in_memory(quantized)
    outcome = verify(path, emitted, Altered(emitted, lambda y: y + np.float32(0.15)), precision="int8")
    assert "SQNR" in outcome.reason


def test_int8_without_the_emitted_model(tmp_path: Path) -> None:
    plain, quantized = quantized_matmul()
    path = save(plain, tmp_path / "plain.onnx")
    assert verify(path, None, Altered(in_memory(quantized)), precision="int8").passed
    outcome = verify(path, None, Altered(in_memory(quantized), lambda y: -y), precision="int8")
    assert "SQNR -6.0 dB is below 10.0 dB" in outcome.reason


def test_output_steps() -> None:
    assert quantized_step(in_memory(quantized_matmul()[1]), "y") == pytest.approx(0.15)
    assert quantized_step(in_memory(quantized_matmul(False)[1]), "y") is None
    assert quantized_step(in_memory(quantized_matmul()[0]), "y") is None
    assert has_quantization(in_memory(quantized_matmul()[1]))
    assert not has_quantization(in_memory(quantized_matmul()[0]))


def test_step_of_an_output_that_is_not_quantized(tmp_path: Path) -> None:
    plain, quantized = quantized_matmul(False)
    path, emitted = save(plain, tmp_path / "plain.onnx"), in_memory(quantized)
    check = verify(path, emitted, Altered(emitted), precision="int8").outputs[0]
    assert check.emitted is not None
    assert check.step == pytest.approx((check.emitted.maximum - check.emitted.minimum) / 255)


def labels(tmp_path: Path) -> Path:
    nodes = [helper.make_node("ArgMax", ["x"], ["y"], axis=1, keepdims=0)]
    io = [("x", TensorProto.FLOAT, [100, 9])], [("y", TensorProto.INT64, [100])]
    return save(model(nodes, *io, []), tmp_path / "labels.onnx")


def test_integers_are_compared_exactly(tmp_path: Path) -> None:
    path = labels(tmp_path)

    def wrong(count: int) -> Callable[[np.ndarray], np.ndarray]:
        return lambda y: np.where(np.arange(y.size) < count, y + 1, y)

    assert verify(path, None, Altered(path)).passed
    samples = [random_sample([TensorSpec("x", "float32", [100, 9])], 0)]
    assert verify(path, None, Altered(path, wrong(1)), samples).passed
    outcome = verify(path, None, Altered(path, wrong(2)), samples)
    assert outcome.reason == "output 'y': 2 of 100 integers differ, 1 may"


def test_a_missing_output(source: Path) -> None:
    class Forgetful(Altered):
        def run(self, feed: Mapping[str, Any]) -> dict[str, np.ndarray]:
            return {"y": super().run(feed)["y"]}

    assert "output 'same' is missing" in verify(source, None, Forgetful(source)).reason


def test_what_cannot_be_verified(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown precision 'int9'; did you mean 'int8'"):
        verify(source, None, Altered(source), precision="int9")
    with pytest.raises(UsageError, match="no sample"):
        verify(source, None, Altered(source), [])
    with pytest.raises(DataError, match="lacks the input 'x'"):
        verify(source, None, Altered(source), [{"z": np.zeros(3)}])
    with pytest.raises(DataError, match="ONNX Runtime cannot run"):
        verify(source, None, Altered(source), [{"x": np.zeros((3, 9), np.float32)}])
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    with pytest.raises(ModelError, match=r"cannot load .*bad\.onnx"):
        verify(tmp_path / "bad.onnx", None, Altered(source))


def test_random_inputs() -> None:
    specs = [
        TensorSpec("f", "float16", ["n", 1000]),
        TensorSpec("i", "int64", ["n", "t"]),
        TensorSpec("u", "uint8", [1000]),
        TensorSpec("b", "bool", [1000]),
    ]
    samples = random_samples(specs, 3, seed=5, dims={"t": 7})
    assert [s["f"].shape for s in samples] == [(1, 1000), (3, 1000), (2, 1000)]
    assert samples[0]["i"].shape == (1, 7)
    assert samples[0]["f"].dtype == np.float16
    assert abs(float(samples[1]["f"].std()) - 1) < 0.1
    assert set(np.unique(samples[1]["i"])) == {0, 1}
    assert samples[0]["u"].max() > 240
    assert 300 < samples[0]["b"].sum() < 700
    again = random_sample(specs[:1], 5)
    np.testing.assert_array_equal(again["f"], samples[0]["f"])


def test_weights_in_the_reference_are_no_inputs() -> None:
    proto = mlp_onnx()
    proto.graph.input.append(helper.make_tensor_value_info("w1", TensorProto.FLOAT, [8, 15]))
    assert [s.name for s in Reference(in_memory(proto)).inputs] == ["x"]
    assert numpy_helper.to_array(proto.graph.initializer[0]).shape == (8, 15)


def _thresholded(path: Path, moved: float) -> tuple[Path, ir.Model]:
    """What lies above 0.3, of values as they are and of values rounded to quarters and moved."""
    io = [("x", TensorProto.FLOAT, ["n"])], [("y", TensorProto.FLOAT, ["kept"])]
    keep = [helper.make_node("Greater", ["s", "limit"], ["k"]), helper.make_node("Compress", ["s", "k"], ["y"])]
    numbers = {"limit": 0.3, "scale": 0.25, "moved": moved}
    constants = [numpy_helper.from_array(np.float32(value), name) for name, value in numbers.items()]
    constants.append(numpy_helper.from_array(np.int8(0), "zero"))
    rounded = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("Add", ["d", "moved"], ["s"]),
    ]
    plain = model([helper.make_node("Identity", ["x"], ["s"]), *keep], *io, constants[:1])
    return save(plain, path), in_memory(model([*rounded, *keep], *io, constants))


def test_rows_that_quantization_drops(tmp_path: Path) -> None:
    """The compiled model must keep what its Q/DQ model keeps, and the scores must be near the original's."""
    source, emitted = _thresholded(tmp_path / "plain.onnx", 0)
    feeds = [{"x": np.array(row, np.float32)} for row in ([0.31, 0.5, 2.0], [0.5, 0.25, 0.75])]
    outcome = verify(source, emitted, Altered(emitted), feeds, "int8")
    assert outcome.passed, outcome.reason
    check = outcome.outputs[0]
    assert check.emitted is not None
    # 0.31 became 0.25, so the first sample has no row of the original to be compared with
    assert (check.emitted.elements, check.figures.elements) == (4, 2)
    assert check.deciders["s"].elements == 6
    assert 30 < check.deciders["s"].sqnr_db < 40
    assert check.as_dict()["deciders"]["s"]["max_abs"] == pytest.approx(0.06)
    for broken in (Altered(emitted, lambda y: y[:-1]), Altered(source)):
        assert "has shape" in verify(source, emitted, broken, feeds, "int8").reason


def test_rows_of_another_meaning(tmp_path: Path) -> None:
    """A quantized model whose scores are wrong does not pass because its rows cannot be compared."""
    source, emitted = _thresholded(tmp_path / "plain.onnx", -1)
    feeds = [{"x": np.array([0.5, 0.75, 2.0], np.float32)}]
    reason = verify(source, emitted, Altered(emitted), feeds, "int8").reason
    assert reason.startswith("output 'y' has another number of rows in INT8; 's', which decides that, has an SQNR of")
    (greater,) = (node for node in emitted.graph if node.op_type == "Greater")
    (scores, _) = greater.inputs
    assert scores is not None
    scores.name = "renamed"
    reason = verify(source, emitted, Altered(emitted), feeds, "int8").reason
    assert "no operator before it says" in reason


def test_fixed_rows_are_no_matter_of_values(tmp_path: Path) -> None:
    io = [("x", TensorProto.FLOAT, [4])], [("y", TensorProto.FLOAT, [None])]
    half = [numpy_helper.from_array(np.array([2]), "end"), numpy_helper.from_array(np.array([0]), "start")]
    plain = model([helper.make_node("Identity", ["x"], ["y"])], *io, [])
    emitted = in_memory(model([helper.make_node("Slice", ["x", "start", "end"], ["y"])], *io, half))
    outcome = verify(save(plain, tmp_path / "plain.onnx"), emitted, Altered(emitted), None, "int8")
    assert "no operator before it says" in outcome.reason


def test_levels_are_those_of_the_coarsest_activation() -> None:
    """A Clip to four bits counts; Relu6, whose bounds are no whole steps or leave eight bits, does not."""

    def clipped(high: float, scale: float) -> ir.Model:
        text = f"""<ir_version: 10, opset_import: ["": 18]> g (float[2,3] x) => (float[2,3] y)
            <float low = {{0.0}}, float high = {{{high}}}, float scale = {{{scale}}}, uint8 zero = {{0}}>
            {{ c = Clip(x, low, high) q = QuantizeLinear(c, scale, zero) y = DequantizeLinear(q, scale, zero) }}"""
        return ir.from_proto(onnx.parser.parse_model(text))

    assert quantized_levels(clipped(1.5, 0.1)) == 15
    assert quantized_levels(clipped(6.0, 0.03125)) == 255
    assert quantized_levels(clipped(6.0, 0.11)) == 255
