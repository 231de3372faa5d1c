"""Writes the decisions into the graph: QuantizeLinear, DequantizeLinear and integer initializers.

Activations: `x -> Q -> DQ -> consumer`, one Q a tensor and one DQ a consumer, so that each consumer can
absorb its own. Weights: `int8 initializer -> DQ -> consumer`, biases the same with int32 and scale
s_x * s_w. What comes out is standard ONNX that computes in float what integers will compute exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir

from optkit_passes.quantize.anchors import Anchor
from optkit_passes.quantize.params import Params
from optkit_passes.quantize.placement import Placement
from optkit_passes.quantize.weights import QuantizedWeight, bias_scale


def rewrite(
    graph: ir.Graph,
    placement: Placement,
    params: Mapping[ir.Value, Params],
    weights: Iterable[tuple[Anchor, QuantizedWeight]],
) -> None:
    """Insert Q and DQ nodes in place.

    Args:
        params: by tensor; those of a placement group are one object and become one pair of initializers.
        weights: every anchor with a constant weight.
    """
    writer = _Writer(graph)
    weights = list(weights)
    for anchor, weight in weights:
        writer.weight(anchor, weight, params[_first(anchor)])
    for group in placement.groups:
        first = group.tensors[0]
        scale, zero = writer.parameters(first.name or "tensor", params[first])
        for value in group.tensors:
            quantized = writer.quantize(value, scale, zero)
            for edge in placement.readers[value]:
                dequantized = writer.dequantize(str(value.name), quantized, scale, zero, edge.node)
                edge.node.replace_input_with(edge.index, dequantized)


def _first(anchor: Anchor) -> ir.Value:
    value = anchor.node.inputs[0]
    assert value is not None
    return value


class _Writer:
    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        values = [v for n in graph.all_nodes() for v in n.outputs]
        self.taken = {v.name for v in (*graph.inputs, *graph.initializers.values(), *values)}
        self.taken |= {n.name for n in graph.all_nodes()}
        self.shared: dict[tuple[object, ...], ir.Value] = {}

    def name(self, stem: str) -> str:
        name, number = stem, 1
        while name in self.taken:
            name, number = f"{stem}_{number}", number + 1
        self.taken.add(name)
        return name

    def initializer(self, stem: str, array: np.ndarray) -> ir.Value:
        name = self.name(stem)
        tensor = ir.tensor(array, name=name)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def parameters(self, stem: str, params: Params) -> tuple[ir.Value, ir.Value]:
        return (
            self.initializer(f"{stem}_scale", np.asarray(params.scale)),
            self.initializer(f"{stem}_zero_point", np.asarray(params.zero_point)),
        )

    def quantize(self, value: ir.Value, scale: ir.Value, zero: ir.Value) -> ir.Value:
        assert zero.dtype is not None
        node = self._node("QuantizeLinear", [value, scale, zero], f"{value.name}_q", zero.dtype, value.shape)
        producer = value.producer()
        if producer is None:
            self.graph.insert_before(self.graph[0], node)
        else:
            self.graph.insert_after(producer, node)
        return node.outputs[0]

    def dequantize(
        self,
        stem: str,
        quantized: ir.Value,
        scale: ir.Value,
        zero: ir.Value,
        before: ir.Node,
        axis: int | None = None,
    ) -> ir.Value:
        inputs = [quantized, scale, zero]
        shape = quantized.shape
        node = self._node("DequantizeLinear", inputs, f"{stem}_dq", ir.DataType.FLOAT, shape, axis)
        self.graph.insert_before(before, node)
        return node.outputs[0]

    def weight(self, anchor: Anchor, weight: QuantizedWeight, source: Params) -> None:
        node = anchor.node
        self._constant(node, 1, weight.q, weight.scale, weight.axis)
        if weight.bias is not None:
            scale = bias_scale(weight.scale, float(source.scale))
            self._constant(node, 2, weight.bias, scale, 0 if scale.ndim else None)
        for name in ("alpha", "beta"):  # Gemm's are in the weight and the bias now
            if name in node.attributes:
                node.attributes[name] = ir.AttrFloat32(name, 1.0)

    def _constant(self, node: ir.Node, index: int, q: np.ndarray, scale: np.ndarray, axis: int | None) -> None:
        old = node.inputs[index]
        assert old is not None
        stem = old.name or "weight"
        # a weight that two nodes share stays one initializer where both quantize it alike
        key = (old, q.dtype, axis, scale.tobytes(), q.tobytes())
        if key not in self.shared:
            self.shared[key] = self.initializer(f"{stem}_quantized", q)
        scales = self._shared_scale((*key, "scale"), f"{stem}_scale", scale)
        zeros = self._shared_scale((*key, "zero"), f"{stem}_zero_point", np.zeros(scale.shape, q.dtype))
        node.replace_input_with(index, self.dequantize(stem, self.shared[key], scales, zeros, node, axis))
        self._drop(old)

    def _shared_scale(self, key: tuple[object, ...], stem: str, array: np.ndarray) -> ir.Value:
        if key not in self.shared:
            self.shared[key] = self.initializer(stem, array)
        return self.shared[key]

    def _drop(self, value: ir.Value) -> None:
        if value.uses() or value.is_graph_output():
            return
        producer = value.producer()
        if producer is not None:
            self.graph.remove(producer, safe=True)
        elif value.name is not None and value.name in self.graph.initializers:
            del self.graph.initializers[value.name]

    def _node(
        self,
        op_type: str,
        inputs: list[ir.Value],
        stem: str,
        dtype: ir.DataType,
        shape: ir.Shape | None,
        axis: int | None = None,
    ) -> ir.Node:
        name = self.name(stem)
        output = ir.Value(name=name, shape=shape, type=ir.TensorType(dtype))
        attributes = {} if axis is None else {"axis": axis}
        return ir.node(op_type, inputs, attributes, outputs=[output], name=self.name(f"{name}_{op_type}"))
