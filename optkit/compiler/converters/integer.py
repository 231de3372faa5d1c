"""Operators that only move or compare values work on quantized integers as they are.

f(dequantize(q)) = dequantize(f(q)) for every f that copies or picks elements, so such a node between Q/DQ
pairs runs on bytes and costs no rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

from optkit.compiler.lowering import Converter, Lowering, Node
from optkit.compiler.values import Affine, Dequantized, Value

_MOVERS = frozenset(
    [
        "MaxPool",
        "Reshape",
        "Flatten",
        "Transpose",
        "Squeeze",
        "Unsqueeze",
        "Concat",
        "Slice",
        "Split",
        "Identity",
        "DepthToSpace",
        "SpaceToDepth",
        "Expand",
        "Tile",
        "Gather",
        "Dropout",
    ]
)


def _moves(node: Node) -> bool:
    if node.op_type == "Resize":
        return bool(node.get("mode", "nearest") == "nearest")
    if node.op_type == "MaxPool":
        return node.outputs == 1
    return node.op_type in _MOVERS


def move(low: Lowering, node: Node, inputs: list[Value | None], convert: Converter) -> Value | Sequence[Value] | None:
    """Convert on integers where all real inputs share one affine map; None where that does not apply."""
    if not _moves(node) or not inputs or not isinstance(inputs[0], Dequantized):
        return None
    first = inputs[0].affine
    shared = inputs if node.op_type == "Concat" else inputs[:1]
    for value in shared:
        if not isinstance(value, Dequantized):
            return None
        if (value.affine.scale, value.affine.zero) != (first.scale, first.zero):
            return None
    raw = [v.affine.q if isinstance(v, Dequantized) and i < len(shared) else v for i, v in enumerate(inputs)]
    result = convert(low, node, raw)
    if result is None:
        return None
    if isinstance(result, Value):
        return Dequantized(low, Affine(result, first.scale, first.zero, first.signed))
    return [Dequantized(low, Affine(v, first.scale, first.zero, first.signed)) for v in result]
