"""The smallest ONNX model with an operator, and what usually is fused to it: bias, and ReLU or requantization.

Tuning compiles it as any model is compiled, so that a candidate is measured in the layouts, with the packing and the
epilogue that it will have.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from optkit.compiler.operator import BATCH_MATMUL, CONV, MATMUL, TENSOR_FLOAT, Operator

_OPSET = 18
_STEP = 1 / 64
"""Scale of quantized samples: products then keep within int32 and outputs within uint8's range at random."""


_HALF_TILE = 32
"""Channels of blocks that only a convolution for tile registers makes, of bytes."""


class _Graph:
    """ONNX nodes as they are added."""

    def __init__(self, operator: Operator) -> None:
        self.operator = operator
        self.int8 = operator.compute == "int8"
        self.dtype = np.dtype("float16" if operator.compute == "float16" else "float32")
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []
        self.random = np.random.default_rng(0)

    def constant(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        number = len(self.nodes)
        node = helper.make_node(op_type, list(inputs), [f"v{number}"], f"n{number}")
        node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
        if self.operator.compute in ("bfloat16", TENSOR_FLOAT):
            node.metadata_props.add(key="optkit.compute_type", value=self.operator.compute)
        self.nodes.append(node)
        return str(node.output[0])

    def real(self, *shape: int) -> np.ndarray:
        return self.random.standard_normal(shape, "float32").astype(self.dtype)

    def weight(self, *shape: int) -> str:
        if not self.int8:
            return self.constant(self.real(*shape))
        q = self.constant(self.random.integers(-127, 128, shape, "int8"))
        return self.node("DequantizeLinear", q, self.constant(np.float32(_STEP)), self.constant(np.int8(0)))

    def widened(self, name: str) -> str:
        """An input as the product reads it."""
        return self.node("DequantizeLinear", name, *self.scale()) if self.int8 else name

    def narrowed(self, name: str) -> str:
        """A product as it is passed on."""
        return self.node("QuantizeLinear", name, *self.scale()) if self.int8 else self.node("Relu", name)

    def scale(self) -> tuple[str, str]:
        return self.constant(np.float32(_STEP)), self.constant(np.uint8(128))


def sample_model(operator: Operator) -> ir.Model:
    """A model whose lowering meets `operator`, with seeded random weights."""
    graph, s = _Graph(operator), operator.named()
    inputs: list[tuple[str, tuple[int, ...]]]
    if operator.kind == MATMUL:
        inputs = [("x", (s["m"], s["k"]))]
        product = graph.node("MatMul", graph.widened("x"), graph.weight(s["k"], s["n"]))
        out = graph.narrowed(graph.node("Add", product, graph.constant(graph.real(s["n"]))))
    elif operator.kind == BATCH_MATMUL:
        inputs = [("x", (s["batch"], s["m"], s["k"])), ("y", (s["batch"], s["k"], s["n"]))]
        out = graph.node("MatMul", "x", "y")
    else:
        inputs = [("x", (s["n"], s["c"], s["h"], s["w"]))]
        data = graph.widened("x")
        if operator.kind == CONV and (s["b"] > s["c"] or s["b"] == _HALF_TILE):
            # Few channels in a whole block, or half a tile's: what another convolution made, and not an equal one.
            side = 3 if s["kh"] == s["kw"] == 1 else 1
            before = graph.weight(s["c"], s["c"], side, side)
            data = graph.widened(graph.narrowed(graph.node("Conv", data, before, pads=[side // 2] * 4)))
        filters, groups = (s["o"], s["groups"]) if operator.kind == CONV else (s["c"], s["c"])
        weight = graph.weight(filters, s["c"] // groups, s["kh"], s["kw"])
        out = graph.node(
            "Conv",
            data,
            weight,
            graph.constant(graph.real(filters)),
            group=groups,
            strides=[s["sh"], s["sw"]],
            dilations=[s["dh"], s["dw"]],
            pads=[s["pt"], s["pl"], s["pb"], s["pr"]],
        )
        out = graph.narrowed(out)
    return _finished(graph, inputs, out)


def _finished(graph: _Graph, inputs: list[tuple[str, tuple[int, ...]]], out: str) -> ir.Model:
    kind = TensorProto.UINT8 if graph.int8 else helper.np_dtype_to_tensor_dtype(graph.dtype)
    made = helper.make_graph(
        graph.nodes,
        "sample",
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs],
        [helper.make_empty_tensor_value_info(out)],
        graph.constants,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=10)
    return ir.from_proto(onnx.shape_inference.infer_shapes(model))
