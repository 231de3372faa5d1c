"""Kernels over extents that the model derives from its inputs' open axes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import tvm
import tvm_ffi
from onnx import TensorProto, helper, numpy_helper, save
from tvm import te, tirx

import optkit
from optkit.compiler.extents import name_extents


def _function(*extents: object, scalars: tuple[object, ...] = ()) -> object:
    data = te.placeholder((*extents, 4), name="data")
    double = te.compute(data.shape, lambda *i: data(*i) * 2, name="double")
    return te.create_prim_func([data, double, *scalars])


def test_quotient_becomes_a_variable() -> None:
    w = te.var("w", "int64")
    quotient = (w - 5) // 8
    func = name_extents(_function(quotient + 1, quotient + 3, scalars=(w,)))
    rows, columns, _ = func.params[0].ty.shape
    assert isinstance(rows, tirx.Var)
    assert tvm.sym.Analyzer().can_prove_equal(columns, rows + 2)
    loops: list[object] = []
    tvm_ffi.structural_walk(func.body, [(tirx.For, lambda loop: loops.append(loop.extent))])
    assert any(extent.same_as(rows) for extent in loops), "loops count by the tensor's own extents"
    assert not any(isinstance(e, tirx.FloorDiv) for e in loops)


def test_product_becomes_a_variable() -> None:
    n, s = te.var("n", "int64"), te.var("s", "int64")
    func = name_extents(_function(n * s, scalars=(n, s)))
    assert isinstance(func.params[0].ty.shape[0], tirx.Var)


def test_multiple_of_a_variable_stays() -> None:
    h = te.var("h", "int64")
    func = _function(h, h * 2)
    assert tvm_ffi.structural_equal(name_extents(func), func)


@pytest.mark.parametrize("columns", [13, 133])
def test_product_over_derived_rows(tmp_path: Path, columns: int) -> None:
    """Columns that fill no tile: the product has a nest of its own over every row, of which there is a quotient."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((20, columns)).astype("float32")
    nodes = [
        helper.make_node("MaxPool", ["x"], ["every"], kernel_shape=[1, 5], strides=[1, 8]),
        helper.make_node("Squeeze", ["every", "two"], ["rows"]),
        helper.make_node("Transpose", ["rows"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["turned", "w"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "rows",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 20, 1, "length"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", None, columns])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array([2]), "two")],
    )
    path = tmp_path / "rows.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    artifact = optkit.compile(path, output=tmp_path / "rows.optk", verify=False)
    session = ort.InferenceSession(path)
    with optkit.load(artifact.path) as runner:
        for batch, length in [(1, 5), (3, 29), (2, 100)]:
            x = rng.standard_normal((batch, 20, 1, length)).astype("float32")
            (expected,) = session.run(None, {"x": x})
            np.testing.assert_allclose(runner(x=x)["y"], expected, rtol=1e-5, atol=1e-5)
