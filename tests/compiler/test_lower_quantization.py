"""QuantizeLinear and DequantizeLinear of every granularity and type against onnx's reference."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import optkit.backend

Case = tuple[str, list[np.ndarray], dict[str, Any], str]


def check(cases: list[Case]) -> None:
    """All cases in one model, every parameter an input, against the reference evaluator."""
    nodes, inputs, outputs, feeds = [], [], [], {}
    for i, (op, arrays, attributes, result) in enumerate(cases):
        names = [f"x{i}_{j}" for j in range(len(arrays))]
        for name, array in zip(names, arrays, strict=True):
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            inputs.append(helper.make_tensor_value_info(name, kind, array.shape))
            feeds[name] = array
        nodes.append(helper.make_node(op, names, [f"y{i}"], **attributes))
        number = TensorProto.DataType.Value(result)
        outputs.append(helper.make_tensor_value_info(f"y{i}", number, arrays[0].shape))
    graph = helper.make_graph(nodes, "quantize", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=12)
    expected = ReferenceEvaluator(model).run(None, feeds)
    found = optkit.backend.prepare(model).run(list(feeds.values()))
    for case, a, b in zip(cases, expected, found, strict=True):
        label = f"{case[0]} to {case[3]}, {case[2]}"
        assert a.dtype == b.dtype and a.shape == b.shape, label
        wide = [v.astype("float64") for v in (a, b)]
        assert np.array_equal(*wide, equal_nan=True), f"{label}: {int((wide[0] != wide[1]).sum())} differ"


def test_quantize() -> None:
    """By tensor, axis and block, to 16, 8, 4 and 2 bits and to the small floats."""
    generator = np.random.default_rng(0)
    x = (10 * generator.standard_normal((3, 10, 4))).astype("float32")
    axis = generator.uniform(0.01, 0.5, 10).astype("float32")
    blocks = generator.uniform(0.01, 0.5, (3, 4, 4)).astype("float32")
    cases: list[Case] = []
    for name in ("uint16", "int16", "int8", "uint4", "int4", "uint2", "int2"):
        kind = np.dtype(getattr(ml_dtypes, name, name))
        zeros = generator.integers(0, 2, 10).astype("int32").astype(kind)
        cases.append(("QuantizeLinear", [x, axis, zeros], {"axis": 1}, name.upper()))
    for name in ("FLOAT8E4M3FN", "FLOAT8E5M2", "FLOAT4E2M1"):
        more = {"axis": -2, "block_size": 3, "output_dtype": TensorProto.DataType.Value(name)}
        cases.append(("QuantizeLinear", [x, blocks], more, name))
    cases.append(("QuantizeLinear", [x, blocks], {"axis": 1, "block_size": 3}, "UINT8"))
    half = [x.astype("float16"), np.float16(0.25).reshape(())]
    cases.append(("QuantizeLinear", half, {"output_dtype": TensorProto.INT8}, "INT8"))
    check(cases)


def test_dequantize() -> None:
    generator = np.random.default_rng(1)
    axis = generator.uniform(0.01, 0.5, 6).astype("float32")
    blocks = generator.uniform(0.01, 0.5, (2, 6, 2)).astype("float32")
    cases: list[Case] = []
    for name in ("uint16", "int16", "uint8", "uint4", "int4", "int2"):
        kind = np.dtype(getattr(ml_dtypes, name, name))
        low, high = int(ml_dtypes.iinfo(kind).min), int(ml_dtypes.iinfo(kind).max)
        q = generator.integers(low, high + 1, (2, 6, 5)).astype("int32").astype(kind)
        zeros = generator.integers(0, 2, 6).astype("int32").astype(kind)
        cases.append(("DequantizeLinear", [q, axis, zeros], {}, "FLOAT"))
        spread = generator.integers(0, 2, blocks.shape).astype("int32").astype(kind)
        cases.append(("DequantizeLinear", [q, blocks, spread], {"axis": 2, "block_size": 3}, "FLOAT"))
    codes = np.arange(256, dtype=np.uint8)
    for name in ("float8_e4m3fn", "float8_e5m2"):
        codes_of = codes.view(getattr(ml_dtypes, name))
        cases.append(("DequantizeLinear", [codes_of, np.float32(0.5).reshape(())], {}, "FLOAT"))
        cases.append(("DequantizeLinear", [codes_of, np.float16(0.5).reshape(())], {}, "FLOAT16"))
    q = np.arange(-9, 9, dtype="int32").reshape(2, 9)
    cases.append(("DequantizeLinear", [q, np.asarray(0.3, ml_dtypes.bfloat16)], {}, "BFLOAT16"))
    check(cases)
