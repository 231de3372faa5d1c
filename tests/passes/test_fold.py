"""Constants and shapes are folded, the quantization is not."""

from __future__ import annotations

import numpy as np
import pytest
from optkit_passes.fold import Fold

from optkit.errors import UsageError
from tests.graphs import build, fused, ops, same, skipped, transform, weights


def test_constants_are_computed() -> None:
    model = build(
        "k = Constant<value_float=2.0>()  s = Mul(k, w)  t = Transpose<perm=[1,0]>(s)  y = MatMul(x, t)",
        "float[n,7] x",
        "float[a,b] y",
        w=weights(5, 7),
    )
    found, result = fused(model, "fold")
    assert found == ["MatMul"]
    assert result.modified
    assert result.findings[0].reason == "removed 1 Constant, 1 Mul, 1 Transpose"


def test_a_second_run_changes_nothing() -> None:
    model = build("a = Identity(x)  s = Mul(w, w)  y = Add(a, s)", w=weights(1, 3, 1, 1))
    once = transform("fold", model)
    assert once.modified
    twice = transform("fold", once.model)
    assert not twice.modified and twice.findings == ()


SHAPES = [
    # TorchScript's way
    (
        """sh = Shape(x)  i = Constant<value = int64 {0}>()  b = Gather(sh, i)  ax = Constant<value = int64[1] {0}>()
        u = Unsqueeze(b, ax)  m = Constant<value = int64[1] {-1}>()  t = Concat<axis=0>(u, m)  y = Reshape(x, t)""",
        "float[a,b] y",
        [0, -1],
    ),
    # the dynamo exporter's
    (
        """b = Shape<start=0, end=1>(x)  m = Constant<value = int64[2] {12, 16}>()  t = Concat<axis=0>(b, m)
        y = Reshape<allowzero=1>(x, t)""",
        "float[a,b,c] y",
        [0, 12, 16],
    ),
    # products of fixed axes
    (
        """sh = Shape(x)  i = Constant<value = int64 {1}>()  j = Constant<value = int64 {2}>()  c = Gather(sh, i)
        h = Gather(sh, j)  p = Mul(c, h)  ax = Constant<value = int64[1] {0}>()  u = Unsqueeze(p, ax)
        m = Constant<value = int64[1] {-1}>()  t = Concat<axis=0>(m, u)  y = Reshape(x, t)""",
        "float[a,b] y",
        [-1, 24],
    ),
    (
        """sh = Shape(x)  s = Constant<value = int64[1] {2}>()  e = Constant<value = int64[1] {9223372036854775807}>()
        k = Slice(sh, s, e)  m = Constant<value = int64[1] {-1}>()  t = Concat<axis=0>(m, k)  y = Reshape(x, t)""",
        "float[a,b,c] y",
        [-1, 8, 8],
    ),
]


@pytest.mark.parametrize(("body", "outputs", "target"), SHAPES)
def test_shape_arithmetic_becomes_a_constant_with_a_dynamic_batch(body: str, outputs: str, target: list[int]) -> None:
    found, result = fused(build(body, outputs=outputs), "fold")
    assert found == ["Reshape"]
    assert list(result.model.graph[0].inputs[1].const_value.numpy()) == target


def test_two_dynamic_axes_stay_computed() -> None:
    body = """sh = Shape(x)  i = Constant<value = int64[4] {1, 0, 3, 2}>()  t = Gather(sh, i)  y = Reshape(x, t)"""
    assert fused(build(body, "float[n,3,h,w] x"), "fold")[0] == ["Shape", "Gather", "Reshape"]


def test_quantization_is_never_folded() -> None:
    model = build(
        "qw = QuantizeLinear(w, s, z)  dw = DequantizeLinear(qw, s, z)  di = DequantizeLinear(i, s, z)"
        "  sum = Add(dw, di)  y = Conv(x, sum)",
        w=weights(4, 3, 3, 3),
        i=np.arange(108, dtype=np.int8).reshape(4, 3, 3, 3),
        s=np.float32(0.05).reshape(()),
        z=np.int8(0).reshape(()),
    )
    assert fused(model, "fold")[0] == ["QuantizeLinear", "DequantizeLinear", "DequantizeLinear", "Add", "Conv"]


def test_integer_weights_are_transposed_as_integers() -> None:
    model = build(
        "t = Transpose<perm=[1,0]>(i)  d = DequantizeLinear(t, s)  y = MatMul(x, d)",
        "float[n,7] x",
        "float[a,b] y",
        i=np.arange(35, dtype=np.int8).reshape(5, 7),
        s=np.float32(0.05).reshape(()),
    )
    found, result = fused(model, "fold")
    assert found == ["DequantizeLinear", "MatMul"]
    assert result.model.graph[0].inputs[0].dtype.name == "INT8"


def test_what_would_blow_up_is_left_alone_and_named() -> None:
    model = build("e = Expand(w, s)  y = Add(x, e)", w=weights(1, 3, 1, 1), s=np.array([2, 3, 8, 8], np.int64))
    result = transform("fold{limit=383}", model)
    assert ops(result.model) == ["Expand", "Add"]
    assert skipped(result) == {"Expand_0": "Expand not folded: it would store 384 elements (limit 383)"}
    assert ops(transform("fold{limit=384}", model).model) == ["Add"]


def test_large_weights_are_folded_where_nothing_grows() -> None:
    model = build("t = Transpose<perm=[1,0]>(w)  y = MatMul(x, t)", "float[n,7] x", "float[a,b] y", w=weights(50, 7))
    assert fused(model, "fold{limit=10}")[0] == ["MatMul"]


def test_common_work_is_done_once_and_equal_constants_are_shared() -> None:
    model = build(
        "a = Add(x, k)  b = Add(x, l)  c = Relu(a)  d = Relu(b)  y = Mul(c, d)", k=weights(3, 1, 1), l=weights(3, 1, 1)
    )
    found, result = fused(model, "fold")
    assert found == ["Add", "Relu", "Mul"]
    assert len(result.model.graph.initializers) == 1


def test_outputs_keep_their_names_when_they_are_constant_or_equal() -> None:
    model = build(
        "s = Mul(w, w)  y = Identity(s)  r = Relu(x)  z = Identity(r)  v = Relu(x)",
        outputs="float[3,1,1] y, float[n,3,8,8] z, float[n,3,8,8] v",
        w=weights(3, 1, 1),
    )
    result = transform("fold", model)
    same(model, result.model)
    assert [o.name for o in result.model.graph.outputs] == ["y", "z", "v"]


def test_random_numbers_stay_random() -> None:
    model = build("r = RandomNormal<shape=[1,3,8,8]>()  y = Add(x, r)", "float[1,3,8,8] x")
    assert ops(transform("fold", model).model) == ["RandomNormal", "Add"]


def test_nodes_that_fail_to_evaluate_stay() -> None:
    model = build("q = Gather(w, i)  y = Add(x, q)", w=weights(3, 1, 1), i=np.array([0, 1, 7], np.int64))
    result = transform("fold", model)
    assert ops(result.model) == ["Gather", "Add"]
    assert "could not be evaluated" in skipped(result)["Gather_0"]


@pytest.mark.parametrize("text", ["fold{limit=0}", "fold{share=-1}", "fold{limit=1.5}"])
def test_limits_out_of_range(text: str) -> None:
    with pytest.raises(UsageError, match="fold"):
        transform(text, build("y = Relu(x)"))


def test_defaults_are_what_the_documentation_says() -> None:
    assert Fold() == Fold(limit=1 << 20, share=1024)
