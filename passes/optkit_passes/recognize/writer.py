"""New nodes of a quantized model, in the graph, with names, types and shapes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from optkit_passes.graph import add_constant


def insert(
    before: ir.Node,
    op_type: str,
    inputs: list[ir.Value],
    stem: str,
    dtype: ir.DataType | None,
    attributes: Mapping[str, int] | None = None,
    shape: ir.Shape | None = None,
) -> ir.Value:
    """The output of a new node in front of another."""
    graph = before.graph
    assert graph is not None
    name = _free(graph, stem)
    shape = shape if shape is not None else inputs[0].shape
    output = ir.Value(name=name, shape=shape, type=None if dtype is None else ir.TensorType(dtype))
    node = ir.node(op_type, inputs, dict(attributes or {}), outputs=[output], name=f"{name}_{op_type}")
    graph.insert_before(before, node)
    return node.outputs[0]


def quantize(before: ir.Node, x: ir.Value, scale: float, zero: np.ndarray, stem: str) -> ir.Value:
    """`x` quantized by one scale, in front of a node; `zero` has the type that it is quantized to."""
    parameters = parameters_of(before, scale, zero, stem)
    dtype = parameters[1].dtype
    return insert(before, "QuantizeLinear", [x, *parameters], f"{stem}_q", dtype)


def dequantize(before: ir.Node, q: ir.Value, scale: float, zero: np.ndarray, stem: str) -> ir.Value:
    """The real value of a quantized tensor, in front of a node."""
    parameters = parameters_of(before, scale, zero, stem)
    return insert(before, "DequantizeLinear", [q, *parameters], f"{stem}_dq", ir.DataType.FLOAT)


def parameters_of(before: ir.Node, scale: float, zero: np.ndarray, stem: str) -> list[ir.Value]:
    """Initializers of a scale and a zero point."""
    assert before.graph is not None
    return [
        add_constant(before.graph, f"{stem}_scale", np.asarray(scale, np.float32)),
        add_constant(before.graph, f"{stem}_zero_point", zero),
    ]


def _free(graph: ir.Graph | ir.Function, stem: str) -> str:
    taken = {v.name for n in graph for v in n.outputs} | {v.name for v in graph.inputs}
    if isinstance(graph, ir.Graph):
        taken |= set(graph.initializers)
    name, number = stem, 1
    while name in taken:
        name, number = f"{stem}_{number}", number + 1
    return name


__all__ = ["dequantize", "insert", "parameters_of", "quantize"]
