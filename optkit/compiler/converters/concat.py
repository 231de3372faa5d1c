"""Concatenation along channels without leaving the blocked layout."""

from __future__ import annotations

from tvm import topi

from optkit.compiler.joins import JOIN
from optkit.compiler.lowering import Lowering, Node
from optkit.compiler.operators.layout import concat_blocked
from optkit.compiler.values import INJECTIVE, OUT_FUSABLE, PLAIN, Value

_REAL = ("float16", "float32", "float64")


def concat(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """Channel concatenation of images of which at least one is blocked, and what is read more than once.

    A concatenation is a choice for every element: fused into several readers, and those into one another, it is made
    again for each of them. Such a one is stored; element-wise operators that follow still become part of it. Others
    are left to TVM.
    """
    values = [v for v in inputs if v is not None]
    rank = len(values[0].shape) if values[0].dtype != "shape" else 0
    blocks = {v.block for v in values if v.block}
    channelwise = rank >= 3 and int(node.get("axis", 0)) % rank == 1
    if not channelwise or not blocks or any(not isinstance(v.shape[1], int) for v in values):
        return _stored(low, node, values) if rank and len(node.source.outputs[0].uses()) > 1 else None
    block = min(blocks)
    channels = [v.shape[1] for v in values]
    parts = [v.form(block) for v in values]
    whole = len(set(parts)) == len(parts) and not any(c % block for c in channels)
    out = low.emit(
        lambda *tensors: concat_blocked(tensors, channels),
        *parts,
        name="concatenate",
        kind=INJECTIVE,
        marks={JOIN: 1} if whole else None,
    )
    first = values[0]
    return low.blocked((first.shape[0], sum(channels), *first.shape[2:]), first.dtype, block, out)


def _stored(low: Lowering, node: Node, values: list[Value]) -> Value | None:
    """A concatenation of plain tensors that no other operator is merged with but element-wise ones behind it."""
    if values[0].dtype not in _REAL or all(v.const is not None for v in values):
        return None
    if not all(isinstance(d, int) for v in values for d in v.shape):
        return None
    axis = int(node.get("axis", 0)) % len(values[0].shape)
    parts = [v.plain() for v in values]
    out = low.emit(lambda *tensors: topi.concatenate(tensors, axis), *parts, name="concatenate", kind=OUT_FUSABLE)
    shape = list(values[0].shape)
    shape[axis] = sum(v.shape[axis] for v in values)
    return low.blocked(shape, values[0].dtype, PLAIN, out)


CONVERTERS = {"Concat": concat}
