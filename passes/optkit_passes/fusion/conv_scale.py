"""Mul | Div | Add | Sub of a per-channel constant after a linear operator -> its weights and bias.

s*(W*x + b) + t = (s*W)*x + (s*b + t).  A MatMul of two matrices that gets a bias becomes a Gemm; with more
axes it keeps its Add, because Gemm takes matrices only and kernels fuse the Add anyway.
Refused for a constant that is not one number a channel, a zero divisor, a large shared weight, and where
the operator's own output is wanted by others.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from optkit.transform import Finding
from optkit_passes.fusion.linear import LINEAR, Linear, absorb, per_channel, read_linear
from optkit_passes.graph import add_constant, bypass, constant, is_op, producer, replace, why_not_absorbed


def fuse(node: ir.Node, opset: int) -> Finding | None:
    """Fold the arithmetic `node` into the linear operator before it."""
    del opset
    if not is_op(node, "Mul", "Div", "Add", "Sub"):
        return None
    for side in (0, 1):
        linear_node = producer(node.inputs[side], *LINEAR)
        array = constant(node.inputs[1 - side])
        if linear_node is not None and array is not None:
            break
    else:
        return None
    linear = read_linear(linear_node)
    if isinstance(linear, str):
        return Finding("skipped", linear_node.name or "", f"{node.name} is not fused: {linear}")
    if linear_node.op_type == "MatMul" and node.op_type in ("Add", "Sub") and linear.rank != 2:
        return None
    reason = why_not_absorbed(linear_node.outputs[0], node) or _fuse(node, linear, array, constant_first=side == 1)
    if reason:
        return Finding("skipped", linear_node.name or "", f"{node.name} is not fused: {reason}")
    return Finding("changed", linear_node.name or "", f"absorbed {node.name}")


def _fuse(node: ir.Node, linear: Linear, array: np.ndarray, *, constant_first: bool) -> str | None:
    vector = per_channel(array, linear)
    if vector is None:
        return f"its constant of shape {list(array.shape)} is not one number a channel"
    scale: np.ndarray | None = None
    shift: np.ndarray | None = None
    if node.op_type == "Mul":
        scale = vector
    elif node.op_type == "Div":
        if constant_first:
            return "the operator is the divisor"
        if not np.all(vector):
            return "it divides by zero"
        scale = 1.0 / vector
    elif node.op_type == "Add":
        shift = vector
    elif constant_first:
        scale, shift = -np.ones_like(vector), vector
    else:
        shift = -vector
    if linear.node.op_type == "MatMul" and shift is not None:
        return _gemm(node, linear, scale, shift)
    reason = absorb(linear, scale, shift)
    if reason is None:
        bypass(node, linear.node.outputs[0])
    return reason


def _gemm(node: ir.Node, linear: Linear, scale: np.ndarray | None, shift: np.ndarray) -> str | None:
    data, weight = linear.node.inputs[0], linear.node.inputs[1]
    if linear.weight.ndim != 2 or data is None or weight is None or node.graph is None:
        return "its weight is no matrix"
    if data.shape is None or len(data.shape) != 2:
        return "its input is no matrix"
    reason = None if scale is None else absorb(linear, scale, None)
    if reason is None:
        bias = add_constant(node.graph, f"{weight.name}_bias", shift.astype(linear.weight.dtype))
        name = linear.node.name
        gemm = replace(node, "Gemm", [data, linear.node.inputs[1], bias], {})
        gemm.name = name
        linear.node.graph.remove(linear.node, safe=True)  # type: ignore[union-attr]
    return reason
