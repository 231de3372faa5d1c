"""float16 models and bfloat16 arithmetic against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

from tests.compiler.bundle import Bundle, relative, run


def network(b: Bundle, dtype: str) -> None:
    """A bit of everything in one type."""

    def w(*shape: int) -> str:
        return b.const(b.normal(*shape, scale=float(np.prod(shape[1:]) or 1) ** -0.5, dtype=dtype))

    x = b.input(2, 3, 11, 9, dtype=dtype)
    stem = b.op("Relu", b.op("Conv", x, w(21, 3, 3, 3), w(21), pads=[1, 1, 1, 1], strides=[2, 1]))
    deep = b.op(
        "Clip", b.op("Conv", stem, w(21, 1, 3, 3), group=21, pads=[1, 1, 1, 1]), "", b.const(np.array(6, dtype))
    )
    wide = b.op("Conv", deep, w(21, 21, 1, 1), w(21))
    total = b.op("Add", wide, stem)
    b.case(total, "residual")
    b.case(b.op("MaxPool", total, kernel_shape=[2, 2]), "maximum")
    b.case(b.op("AveragePool", total, kernel_shape=[2, 2]), "mean")
    b.case(b.op("Concat", stem, wide, axis=1), "join")
    for name in ("Sigmoid", "Tanh", "HardSwish", "Erf", "Exp", "LeakyRelu"):
        b.case(b.op(name, total), name)
    flat = b.op("Flatten", b.op("GlobalAveragePool", total))
    b.case(b.op("Gemm", flat, w(10, 21), w(10), transB=1), "classifier")
    rows = b.input(2, 5, 24, dtype=dtype)
    q, k = b.op("MatMul", rows, w(24, 24)), b.op("MatMul", rows, w(24, 24))
    scores = b.op("Softmax", b.op("MatMul", q, b.op("Transpose", k, perm=[0, 2, 1])))
    b.case(b.op("MatMul", scores, rows), "attention")
    b.case(b.op("LayerNormalization", rows, w(24), w(24)), "layer norm")


@pytest.mark.parametrize("target", ["cpu", "x86-64-v3"])
def test_float16(target: str) -> None:
    b = Bundle()
    network(b, "float16")
    built = b.check(target)
    assert {t.dtype for t in (*built.inputs, *built.outputs)} == {"float16"}


def test_float16_constants_keep_their_range() -> None:
    """Reciprocals and batch norm factors are float32: in float16 they would overflow or lose their digits."""
    b = Bundle()
    x = b.input(2, 19, 3, 3, dtype="float16", values=1e-3 * b.normal(2, 19, 3, 3))
    b.case(b.op("Div", x, b.const(np.float16(1e-5))), "division by a small number")
    parameters = [np.ones(19), np.zeros(19), np.zeros(19), np.full(19, 1e-7)]
    given = [b.const(p.astype("float16")) for p in parameters]
    b.case(b.op("BatchNormalization", x, *given, epsilon=1e-12), "small variance")
    b.check()


@pytest.mark.parametrize("target", ["cpu", "x86-64-v3"])
def test_bfloat16_products(target: str) -> None:
    """Marked nodes multiply in bfloat16 and sum in float32: as if both operands had been rounded."""
    import ml_dtypes

    from optkit.compiler.build import build
    from optkit.registry import find_target

    b = Bundle()
    network(b, "float32")
    model = b.model()
    for node in model.graph:
        if node.op_type in ("Conv", "MatMul", "Gemm"):
            node.metadata_props["optkit.compute_type"] = "bfloat16"
    built = build(model, find_target(target))
    assert {r.compute for r in built.nodes} == {"bfloat16"}
    found = run(built, [b.feeds[i.name] for i in built.inputs])
    for label, a, y in zip(b.labels.values(), b.reference(), found, strict=True):
        error = relative(a.astype("float64"), y.astype("float64"))
        assert error < 2e-2, label
        assert error > 1e-6 or label == "layer norm", f"{label} was not computed in bfloat16"
    one = Bundle()
    x = one.input(3, 33)
    weight = one.normal(33, 20)
    one.case(one.op("MatMul", x, one.const(weight)), "product")
    model = one.model()
    next(n for n in model.graph if n.op_type == "MatMul").metadata_props["optkit.compute_type"] = "bfloat16"
    (found,) = run(build(model, find_target(target)), [one.feeds[x]])
    rounded = [a.astype(ml_dtypes.bfloat16).astype("float64") for a in (one.feeds[x], weight)]
    assert relative(rounded[0] @ rounded[1], found.astype("float64")) < 1e-6
