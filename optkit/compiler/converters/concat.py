"""Concatenation along channels without leaving the blocked layout."""

from __future__ import annotations

from optkit.compiler.lower import Lowering, Node
from optkit.compiler.operators.layout import concat_blocked
from optkit.compiler.values import INJECTIVE, Value


def concat(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """Channel concatenation of images of which at least one is blocked; others are left to TVM."""
    values = [v for v in inputs if v is not None]
    rank = len(values[0].shape) if values[0].dtype != "shape" else 0
    if rank < 3 or int(node.get("axis", 0)) % rank != 1:
        return None
    blocks = {v.block for v in values if v.block}
    if len(blocks) != 1 or any(not isinstance(v.shape[1], int) for v in values):
        return None
    block = blocks.pop()
    channels = [v.shape[1] for v in values]
    parts = [v.form(block) for v in values]
    out = low.emit(lambda *tensors: concat_blocked(tensors, channels), *parts, name="concatenate", kind=INJECTIVE)
    first = values[0]
    return low.blocked((first.shape[0], sum(channels), *first.shape[2:]), first.dtype, block, out)


CONVERTERS = {"Concat": concat}
