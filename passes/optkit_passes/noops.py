"""Removing operators whose output equals their input.

Identity, Dropout at inference, a Transpose that permutes nothing, Cast to the type a value has, Reshape,
Flatten and Expand to the shape it has, + 0, - 0, * 1, / 1, Pad by nothing, Clip without bounds, and sums or
concatenations of one thing.  Kept where removing it would rename an input or output of the model.
"""

from __future__ import annotations

import onnx_ir as ir

from optkit.transform import Finding
from optkit_passes.graph import bypass, can_bypass, constant, is_op, scalar

_NEUTRAL = {"Add": 0.0, "Sub": 0.0, "Mul": 1.0, "Div": 1.0}
_SINGLE = ("Concat", "Sum", "Mean", "Max", "Min")


def fuse(node: ir.Node, opset: int) -> Finding | None:
    """Remove `node` where it changes nothing."""
    del opset
    source = source_of(node)
    if source is None or not can_bypass(node, source):
        return None
    name, op_type = node.name or "", node.op_type
    bypass(node, source)
    return Finding("changed", name, f"{op_type} without effect removed")


def source_of(node: ir.Node) -> ir.Value | None:
    """The input that the node's only used output equals; None where there is none."""
    if node.domain or not node.inputs or not node.outputs:
        return None
    data = node.inputs[0]
    if is_op(node, *_NEUTRAL):
        return _neutral(node)
    if data is None or any(o.uses() or o.is_graph_output() for o in node.outputs[1:]):
        return None
    return data if _keeps(node, data) else None


def _keeps(node: ir.Node, data: ir.Value) -> bool:
    match node.op_type:
        case "Identity":
            return True
        case "Dropout":
            training = node.inputs[2] if len(node.inputs) > 2 else None
            return training is None or scalar(training) == 0
        case "Transpose":
            order = node.attributes.get_ints("perm")
            return order is not None and list(order) == list(range(len(order)))
        case "Cast":
            return data.dtype is not None and node.attributes.get_int("to") == data.dtype.value
        case "Reshape" | "Flatten" | "Expand":
            return _same_shape(data, node.outputs[0])
        case "Pad":
            amounts = constant(node.inputs[1]) if len(node.inputs) > 1 else None
            return amounts is not None and not amounts.any()
        case "Clip":
            return all(bound is None for bound in node.inputs[1:]) and not node.attributes
        case _:
            return node.op_type in _SINGLE and len(node.inputs) == 1


def _neutral(node: ir.Node) -> ir.Value | None:
    for side in (0, 1) if node.op_type in ("Add", "Mul") else (0,):
        data, other = node.inputs[side], node.inputs[1 - side]
        if data is None or other is None or data.shape is None or other.shape is None:
            continue
        # A constant with more axes than the data would add axes to the result.
        if scalar(other) == _NEUTRAL[node.op_type] and len(other.shape) <= len(data.shape):
            return data
    return None


def _same_shape(a: ir.Value, b: ir.Value) -> bool:
    """Whether the shapes are known to be the same; axes of one symbol are."""
    if a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
        return False
    return all(x == y and (isinstance(x, int) or x.value is not None) for x, y in zip(a.shape, b.shape, strict=True))
