"""What a Q/DQ graph computes in integer kernels, so that float16 may begin and end around them only.

An integer kernel reads bytes, adds in int32 and ends with an epilogue in float32 registers, whose result is written
once: as bytes, where a QuantizeLinear follows, else as real numbers. A conversion inside the epilogue would round and
win nothing. Three kinds of nodes are computed so:

    layers      convolutions and products of a dequantized activation and a dequantized constant
    epilogues   element-wise functions of one layer's result alone
    between     element-wise functions and movement whose every operand is dequantized, or one of these, and whose every
                result is quantized again, maybe after others of the kind

What is decided is the structure alone; a product of two dequantized activations is no layer: its operands are real
numbers in every kernel there is.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from optkit.exact import DOMAIN
from optkit.exact.formulas import UNARY
from optkit_passes.graph import constant, is_op, producer
from optkit_passes.quantize.roles import ANCHORS, AVERAGES, POINTWISE, TRANSPARENT

_MOVING = (*TRANSPARENT, "Concat", "Expand", "Gather", "Pad", "SpaceToDepth", "Tile")


def integer_kernels(graph: ir.Graph) -> dict[ir.Node, str]:
    """The nodes that integer kernels compute, each with what it is to them; `graph` is sorted."""
    layers = {node for node in graph if _is_layer(node)}
    roots: dict[ir.Value, ir.Node] = {layer.outputs[0]: layer for layer in layers}
    found = dict.fromkeys(layers, "it is computed in integers")
    for node in graph:
        origins = {roots.get(value) for value in _variable(node)}
        if _is_pointwise(node) and len(origins) == 1 and None not in origins:
            roots.update(dict.fromkeys(node.outputs, next(filter(None, origins))))
            found[node] = "it ends an integer kernel"
    for node in _between(graph, found):
        found.setdefault(node, "it is between integers")
    return found


def _is_layer(node: ir.Node) -> bool:
    if not is_op(node, *ANCHORS) or len(node.inputs) < 2:
        return False
    data, weight = (producer(value, "DequantizeLinear") for value in node.inputs[:2])
    return data is not None and weight is not None and not _frozen(data.inputs[0]) and _frozen(weight.inputs[0])


def _frozen(value: ir.Value | None) -> bool:
    """Whether a value is a constant, or one that is quantized when the model is compiled."""
    quantize = producer(value, "QuantizeLinear")
    return constant(value if quantize is None else quantize.inputs[0]) is not None


def _between(graph: ir.Graph, computed: Collection[ir.Node]) -> set[ir.Node]:
    """The largest set of nodes that reads nothing but integers, layers and itself, and is read by quantizations."""
    inside = {n for n in graph if _is_pointwise(n) or is_op(n, *_MOVING, *AVERAGES)}
    while True:
        ends = inside | set(computed)
        refused = {
            node
            for node in inside
            if not all(_real(value, ends) for value in _variable(node))
            or not all(is_op(user, "QuantizeLinear") or user in inside for v in node.outputs for user, _ in v.uses())
            or not any(v.uses() for v in node.outputs)
        }
        if not refused:
            return inside
        inside -= refused


def _real(value: ir.Value, computed: Collection[ir.Node]) -> bool:
    """Whether an operand costs an integer kernel no other tensor than one of integers."""
    maker = value.producer()
    return maker is not None and (is_op(maker, "DequantizeLinear") or maker in computed)


def _is_pointwise(node: ir.Node) -> bool:
    return is_op(node, *POINTWISE) or (node.domain == DOMAIN and node.op_type in UNARY)


def _variable(node: ir.Node) -> list[ir.Value]:
    """Floating-point operands that are no constants."""
    return [v for v in node.inputs if v is not None and v.dtype == ir.DataType.FLOAT and constant(v) is None]
