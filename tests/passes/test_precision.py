"""float16 where the range allows it, and bfloat16 and TF32 as marks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
import pytest

from optkit.errors import DataError, UsageError
from optkit.pipeline import Pipeline, PipelineResult
from optkit.precision import precision_of
from optkit.registry import find_target
from optkit.transform import PassContext, Sample
from tests.graphs import build, feeds, ops, session, skipped, transform, weights


def calibrated(*samples: Sample) -> PassContext:
    def open_samples() -> Iterator[Sample]:
        return iter(samples)

    return PassContext(calibration=open_samples)


def images(scale: float = 1.0, count: int = 3) -> PassContext:
    return calibrated(*({"x": weights(2, 3, 8, 8, seed=seed, scale=scale)} for seed in range(count)))


def close(before: ir.Model, after: ir.Model, scale: float = 1.0, limit: float = 3e-3) -> None:
    """Both models run in ONNX Runtime, and the outputs' norms differ by at most `limit`."""
    first, second = session(before), session(after)
    inputs = {name: scale * array for name, array in feeds(first).items()}
    for a, b in zip(first.run(None, inputs), second.run(None, inputs), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert np.isfinite(b).all()
        assert np.linalg.norm(a - b) <= limit * np.linalg.norm(a)


def types(result: PipelineResult) -> dict[str, str]:
    """Element type of each node's first output."""
    return {node.name or "": str(node.outputs[0].dtype) for node in result.model.graph}


def test_edges_are_float32_and_everything_between_float16() -> None:
    model = build(
        "c = Conv(x, w, b)  r = Relu(c)  y = MaxPool<kernel_shape=[2,2]>(r)", w=weights(4, 3, 3, 3), b=weights(4)
    )
    result = transform("fp16", model, images())
    assert ops(result.model) == ["Cast", "Conv", "Relu", "MaxPool", "Cast"]
    assert {str(v.dtype) for v in (*result.model.graph.inputs, *result.model.graph.outputs)} == {"FLOAT"}
    assert {str(v.dtype) for v in result.model.graph.initializers.values()} == {"FLOAT16"}
    assert [f for f in result.findings if f.action != "changed"] == []
    close(model, result.model)


def test_a_clone_made_before_keeps_its_types() -> None:
    model = build("a = Relu(x)  y = Neg(a)")
    before = model.clone()
    result = Pipeline.parse("fp16").run(model, images())
    assert types(result)["Relu_0"] == "FLOAT16"
    assert [str(node.outputs[0].dtype) for node in before.graph] == ["FLOAT", "FLOAT"]


def test_planted_overflow_stays_float32_and_is_named() -> None:
    model = build(
        "c = Conv(x, w)  big = Mul(c, k)  small = Div(big, k)  y = Relu(small)",
        w=weights(4, 3, 3, 3),
        k=np.float32(30000).reshape(()),
    )
    result = transform("fp16", model, images())
    found = skipped(result)
    assert set(found) == {"Mul_0", "Div_0"}
    assert "output big reaches" in found["Mul_0"] and "65504" in found["Mul_0"]
    assert "input big reaches" in found["Div_0"]
    assert types(result)["Conv_0"] == types(result)["Relu_0"] == "FLOAT16"
    assert types(result)["Mul_0"] == types(result)["Div_0"] == "FLOAT"
    close(model, result.model)
    # The same model without the check would give infinities: the test above is not vacuous.
    assert np.abs(session(model).run(None, feeds(session(model)))[0]).max() < 65504


def test_overflow_shows_only_on_the_last_calibration_sample() -> None:
    model = build("a = Mul(x, k)  y = Relu(a)", k=np.float32(1000).reshape(()))
    quiet, loud = {"x": weights(2, 3, 8, 8)}, {"x": weights(2, 3, 8, 8, scale=100)}
    assert "Mul_0" not in skipped(transform("fp16", model, calibrated(quiet, quiet, quiet)))
    assert "Mul_0" in skipped(transform("fp16", model, calibrated(quiet, quiet, loud)))
    assert "Mul_0" not in skipped(transform("fp16{samples=2}", model, calibrated(quiet, quiet, loud)))


def test_margin() -> None:
    model = build("y = Mul(x, k)", k=np.float32(1).reshape(()))
    context = calibrated({"x": np.full((1, 3, 8, 8), 20000, np.float32)})
    assert skipped(transform("fp16{margin=3}", model, context)) == {}
    assert "(margin 4)" in skipped(transform("fp16{margin=4.0}", model, context))["Mul_0"]


def test_constants_out_of_range_stay() -> None:
    model = build(
        "a = Where(m, x, low)  b = Sigmoid(a)  c = Add(x, eps)  y = Div(b, c)",
        m=np.ones((1, 1, 8, 8), bool),
        low=np.float32(-3.4e38).reshape(()),
        eps=np.float32(1e-12).reshape(()),
    )
    found = skipped(transform("fp16", model, images()))
    assert "constant low holds 3.4e+38" in found["Where_0"]
    assert "flushes to zero" in found["Add_0"]


def test_infinite_constants_are_the_same_in_float16() -> None:
    model = build("y = Max(x, low)", low=np.float32(-np.inf).reshape(()))
    assert skipped(transform("fp16", model, images())) == {}


def test_flushed_weights_and_results_are_reported() -> None:
    w = weights(4, 3, 3, 3)
    w[0, 0] = 1e-9
    model = build(
        "c = Conv(x, w)  t = Mul(x, u)  y = Relu(c)  z = Relu(t)",
        outputs="float[a,b,c1,d] y, float[n,3,8,8] z",
        w=w,
        u=np.full((3, 1, 1), 1e-6, np.float32),
    )
    context = calibrated({"x": np.full((1, 3, 8, 8), 0.01, np.float32)})
    found = {f.where: f for f in transform("fp16", model, context).findings}
    assert found["w"].action == "warning" and found["w"].reason.startswith("9 of 108 values")
    assert found["t"].action == "warning" and "all values are below" in found["t"].reason


def test_without_calibration_data_the_inputs_are_random_and_it_says_so() -> None:
    model = build("y = Relu(x)")
    findings = transform("fp16", model).findings
    assert findings[0].action == "warning" and "no calibration data" in findings[0].reason


def test_keep_list_and_excluded_nodes() -> None:
    model = build(
        "c = Conv(x, w)  m = ReduceMean(c, ax)  r = Relu(m)  y = Sigmoid(r)", w=weights(4, 3, 3, 3), ax=np.array([2, 3])
    )
    result = transform('fp16{exclude=["Rel*",nothing]}', model, images())
    found = skipped(result)
    assert found == {
        "ReduceMean_0": "ReduceMean stays float32: its kind is on the keep-list",
        "Relu_0": "Relu stays float32: excluded",
    }
    assert [f.reason for f in result.findings if f.action == "warning"] == ["exclude: no such node as 'nothing'"]
    # One cast down, one up for the two that stay, one down, one up at the end.
    assert ops(result.model) == ["Cast", "Conv", "Cast", "ReduceMean", "Relu", "Cast", "Sigmoid", "Cast"]
    close(model, result.model)
    assert skipped(transform("fp16{keep=[Sigmoid]}", model, images())) == {
        "Sigmoid_0": "Sigmoid stays float32: its kind is on the keep-list"
    }


def test_integers_quantized_parts_and_unknown_operators_stay() -> None:
    model = build(
        "q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)  r = Relu(d)  i = Cast<to=7>(r)  f = Cast<to=1>(i)"
        "  sh = Shape(r)  y = Reshape(f, sh)",
        s=np.float32(0.05).reshape(()),
        z=np.int8(0).reshape(()),
    )
    result = transform("fp16", model, images())
    assert set(skipped(result)) == {"QuantizeLinear_0", "DequantizeLinear_0", "Cast_0"}
    close(model, result.model)


def test_subgraphs_read_float32() -> None:
    body = """r = Relu(x)  t = ReduceMax<keepdims=0>(r)  p = Greater(t, zero)
        y = If (p) <then_branch = g1 () => (float[n,3,8,8] a) { a = Add(r, r) },
                    else_branch = g2 () => (float[n,3,8,8] b) { b = Neg(r) }>"""
    model = build(body, outputs="float[n,3,8,8] y", zero=np.float32(0).reshape(()))
    result = transform("fp16", model, images())
    assert "it holds a subgraph" in skipped(result)["If_0"]
    close(model, result.model)


def test_output_that_is_also_read_inside_keeps_its_name() -> None:
    model = build("y = Relu(x)  z = Neg(y)", outputs="float[n,3,8,8] y, float[n,3,8,8] z")
    result = transform("fp16", model, images())
    assert [o.name for o in result.model.graph.outputs] == ["y", "z"]
    close(model, result.model)


def test_recursive_use_of_one_weight_by_both_kinds() -> None:
    model = build("a = MatMul(x, w)  b = MatMul(a, w)  y = Relu(b)", "float[n,7] x", "float[a,b] y", w=weights(7, 7))
    result = transform("fp16{exclude=[MatMul_1]}", model, calibrated({"x": weights(2, 7)}))
    assert {name: str(v.dtype) for name, v in result.model.graph.initializers.items()} == {
        "w": "FLOAT",
        "w_fp16": "FLOAT16",
    }
    close(model, result.model)


def test_bad_calibration_is_one_line() -> None:
    model = build("y = Relu(x)", "float[n,3,8,8] x")
    with pytest.raises(DataError, match=r"pass fp16 \(the first pass\): calibration sample 0 does not run"):
        transform("fp16", model, calibrated({"x": weights(2, 3, 9)}))
    with pytest.raises(DataError, match="the calibration data is empty"):
        transform("fp16", model, calibrated())
    with pytest.raises(UsageError, match="margin must be at least 1"):
        transform("fp16{margin=0.5}", model)


@pytest.mark.parametrize(
    ("name", "kind", "word"), [("bf16", "bfloat16", "bfloat16"), ("tf32", "tensorfloat32", "TF32")]
)
def test_products_are_marked_and_what_is_left_is_told(name: str, kind: str, word: str) -> None:
    model = build(
        "c = Conv(x, w)  f = Flatten(c)  g = Gemm(f, u)  h = DequantizeLinear(i, s)  k = MatMul(g, h)"
        "  y = MatMul(k, v)",
        outputs="float[a,b] y",
        w=weights(4, 3, 3, 3),
        u=weights(144, 5),
        i=np.ones((5, 5), np.int8),
        s=np.float32(0.1).reshape(()),
        v=weights(5, 5),
    )
    result = transform(f"{name}{{exclude=[Gemm_*,Nothing]}}", model)
    marks = {n.name: n.metadata_props.get("optkit.compute_type") for n in result.model.graph}
    assert {node for node, mark in marks.items() if mark == kind} == {"Conv_0", "MatMul_1"}
    assert skipped(result) == {
        "Gemm_0": f"Gemm not in {word}: excluded",
        "MatMul_0": f"MatMul not in {word}: it is quantized",
    }
    assert [f.reason for f in result.findings if f.action == "warning"] == ["exclude: no such operator as 'Nothing'"]
    assert result.modified and not transform(f"{name}{{exclude=[Gemm_*]}}", result.model).modified
    assert precision_of(result.model) == "int8"


def test_tf32_is_for_targets_that_have_it() -> None:
    model = build("c = Conv(x, w)  y = Relu(c)", w=weights(4, 3, 3, 3))
    assert precision_of(transform("tf32", model, PassContext(target=find_target("cuda:sm_80"))).model) == "tf32"
    for before in ("", "bf16,"):
        result = transform(f"{before}tf32", model, PassContext(target=find_target("icelake-server")))
        assert precision_of(result.model) == "fp32"
        warned = [f.reason for f in result.findings if f.action == "warning"]
        assert warned == ["icelake-server has no TF32: products stay float32"]
