"""Relu, Clip, Min and Max by constants in a row -> one Relu or Clip.

With clamp(x; a, b) = min(max(x, a), b) and a <= b:
clamp(clamp(x; a, b); c, d) = clamp(x; clamp(a; c, d), clamp(b; c, d)).
A Relu6 written as Min(Max(x, 0), 6) so becomes Clip(x, 0, 6). A single Min or Max by a number becomes a Clip
too: one operator for kernels and quantization to know.
Refused where the inner result is wanted by others, and for bounds that are no constants.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from optkit.transform import Finding
from optkit_passes.graph import add_constant, is_op, producer, replace, scalar, why_not_absorbed

_CLAMPS = ("Relu", "Clip", "Min", "Max")
_FLOATS = {ir.DataType.FLOAT: np.float32, ir.DataType.FLOAT16: np.float16, ir.DataType.DOUBLE: np.float64}


def fuse(node: ir.Node, opset: int) -> Finding | None:
    """Merge the clamp `node` with the clamp before it, or give a lone Min or Max the form of a Clip."""
    if opset < 11 or not is_op(node, *_CLAMPS) or node.outputs[0].dtype not in _FLOATS:
        return None
    outer = read_clamp(node)
    if outer is None:
        return None
    source, low, high = outer
    inner_node = producer(source, *_CLAMPS)
    inner = read_clamp(inner_node) if inner_node is not None else None
    if inner_node is None or inner is None:
        if node.op_type in ("Relu", "Clip"):
            return None
        _write(node, source, low, high)
        return Finding("changed", node.name or "", "written as Clip")
    reason = why_not_absorbed(source, node)
    if reason:
        return Finding("skipped", node.name or "", f"{inner_node.name} is not merged: {reason}")
    data, inner_low, inner_high = inner
    _write(node, data, min(max(inner_low, low), high), min(max(inner_high, low), high))
    return Finding("changed", node.name or "", f"absorbed {inner_node.name}")


def read_clamp(node: ir.Node) -> tuple[ir.Value, float, float] | None:
    """What is clamped, and the lower and upper bound; None where it is no clamp by constants."""
    if not is_op(node, *_CLAMPS) or node.inputs[0] is None:
        return None
    if node.op_type == "Relu":
        return node.inputs[0], 0.0, math.inf
    if node.op_type == "Clip":
        bounds = [-math.inf, math.inf]
        for i, value in enumerate(node.inputs[1:3]):
            if value is not None:
                number = scalar(value)
                if number is None:
                    return None
                bounds[i] = number
        return (node.inputs[0], bounds[0], bounds[1]) if bounds[0] <= bounds[1] else None
    if len(node.inputs) != 2:
        return None
    for side in (0, 1):
        data, number = node.inputs[side], scalar(node.inputs[1 - side])
        bound = node.inputs[1 - side]
        if data is None or number is None or bound is None or data.shape is None or bound.shape is None:
            continue
        if len(bound.shape) <= len(data.shape):  # else it adds axes to the result
            return (data, -math.inf, number) if node.op_type == "Min" else (data, number, math.inf)
    return None


def _write(node: ir.Node, data: ir.Value, low: float, high: float) -> None:
    kind = _FLOATS[node.outputs[0].dtype or ir.DataType.FLOAT]
    if low == 0 and high == math.inf:
        replace(node, "Relu", [data], {})
        return
    bounds: list[ir.Value | None] = []
    for word, bound in (("low", low), ("high", high)):
        array = np.array(bound, kind)
        bounds.append(add_constant(node.graph, f"{node.name}_{word}", array) if math.isfinite(bound) else None)
    replace(node, "Clip", [data, *bounds] if bounds[1] is not None else [data, bounds[0]], {})
