"""Normalizations and functions of rows over any axes, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from optkit.compiler.build import build
from optkit.registry import find_target
from tests.compiler.bundle import Bundle, run

SHAPES = (2, 6, 5, 3), (6,), (6,)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_over_any_axis(dtype: str) -> None:
    b = Bundle()
    x = b.input(3, 5, 17, dtype=dtype)
    for axis in (0, 1, 2, -2):
        # ONNX Runtime has Hardmax in float32 only.
        for op in ("Softmax", "LogSoftmax", "Hardmax")[: 3 if dtype == "float32" else 2]:
            b.case(b.op(op, x, axis=axis), f"{op} {axis}")
    if dtype == "float32":
        tied = b.input(2, 4, values=np.array([[1, 3, 3, 0], [2, 2, 2, 2]]))
        b.case(b.op("Hardmax", tied), "hardmax takes the first")
    b.check(limit=1e-6)


def test_rows_without_anything_to_choose_are_not_numbers() -> None:
    b = Bundle()
    values = np.full((4, 17), -np.inf)
    values[1, 3] = 0.5
    values[2] = np.finfo("float32").min
    values[3, :5] = [1, 2, -np.inf, 3, 4]
    x = b.input(4, 17, values=values)
    b.case(b.op("Softmax", x), "softmax")
    b.case(b.op("ReduceMax", x, b.const(np.array([1]))), "maximum")
    b.check()


def test_layer_normalization_with_all_outputs() -> None:
    b = Bundle()
    x = b.input(2, 3, 4, 5)
    for axis in range(4):
        tail = (2, 3, 4, 5)[axis:]
        made = b.op(
            "LayerNormalization", x, b.const(b.normal(*tail)), b.input(*tail), outputs=3, axis=axis, epsilon=1e-2
        )
        for name, value in zip(("y", "mean", "deviation"), made, strict=True):
            b.case(value, f"axis {axis} {name}")
    b.case(b.op("LayerNormalization", x, b.const(b.normal(5)), axis=2), "one scale for several rows")
    b.check()


def test_normalizations() -> None:
    b = Bundle()
    x, v = b.input(2, 6, 5, 3), b.input(2, 6, 9)
    for data, label in ((x, "image"), (v, "sequence"), (b.input(3, 6, 2, 4, 3), "volume")):
        scale, shift = b.input(6), b.const(b.normal(6))
        b.case(b.op("InstanceNormalization", data, scale, shift, epsilon=1e-2), f"instance {label}")
    b.case(b.op("MeanVarianceNormalization", x, axes=[0, 2, 3]), "mean variance")
    b.case(b.op("MeanVarianceNormalization", x, axes=[1, 3]), "mean variance of two axes")
    for p in (1, 2):
        for axis in (0, 1, -1):
            b.case(b.op("LpNormalization", x, p=p, axis=axis), f"lp {p} {axis}")
    b.case(b.op("LpNormalization", b.input(2, 3, values=np.zeros((2, 3)))), "zeros stay zeros")
    free = b.input(2, 6, 5, free="n")
    b.case(b.op("InstanceNormalization", free, b.const(b.normal(6)), b.const(b.normal(6))), "symbolic batch")
    b.check()


def test_root_mean_square_normalization() -> None:
    b = Bundle(opset=23)
    x = b.input(2, 6, 5, 3)
    for axis in (1, 2, -1):
        b.case(b.op("RMSNormalization", x, b.const(b.normal(*(2, 6, 5, 3)[axis:])), axis=axis), f"rms {axis}")
    b.check()


def test_group_normalization() -> None:
    """ONNX infers no shape of it in a bundle, so the definition is spelled out here."""
    x, scale, shift = (np.random.default_rng(i).standard_normal(s).astype("float32") for i, s in enumerate(SHAPES))
    for groups in (1, 2, 6):
        split = x.reshape(2, groups, -1)
        centred = split - split.mean(2, keepdims=True)
        wanted = (centred / np.sqrt(split.var(2, keepdims=True) + 1e-5)).reshape(x.shape)
        wanted = wanted * scale[:, None, None] + shift[:, None, None]
        node = helper.make_node("GroupNormalization", ["x", "s", "t"], ["y"], num_groups=groups)
        infos = [
            helper.make_tensor_value_info(n, 1, list(a.shape)) for n, a in zip("xst", (x, scale, shift), strict=True)
        ]
        graph = helper.make_graph([node], "g", infos, [helper.make_tensor_value_info("y", 1, list(x.shape))])
        model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))
        found = run(build(model, find_target("cpu")), [x, scale, shift])[0]
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_batch_normalization_in_training() -> None:
    b = Bundle()
    x = b.input(4, 3, 5)
    moments = [b.const(b.normal(3)), b.const(b.normal(3)), b.input(3), b.input(3, values=np.array([0.5, 1.0, 2.0]))]
    made = b.op("BatchNormalization", x, *moments, outputs=3, training_mode=1, momentum=0.7)
    for name, value in zip(("y", "mean", "variance"), made, strict=True):
        b.case(value, name)
    built = b.build()
    data, mean, var = (b.feeds[i.name] for i in built.inputs)
    found = run(built, [data, mean, var])
    centre, spread = data.mean((0, 2)), data.var((0, 2))
    scale, shift = (np.asarray(c.float_data or np.frombuffer(c.raw_data, "float32")) for c in b.constants)
    wanted = (data - centre[:, None]) / np.sqrt(spread + 1e-5)[:, None] * scale[:, None] + shift[:, None]
    np.testing.assert_allclose(found[0], wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[1], 0.7 * mean + 0.3 * centre, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[2], 0.7 * var + 0.3 * spread, rtol=1e-5)
