"""Transpose; one of a transposed tensor is one of what that was made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import relax

from optkit.compiler.lower import Lowering, Node
from optkit.compiler.values import PLAIN, Value


def origin(low: Lowering, expr: Any) -> tuple[Any, list[int]]:
    """The expression that a transposition made this one of, and its axes; itself and axes in order where none did."""
    made = low.bb.lookup_binding(expr) if isinstance(expr, relax.Var) else None
    if isinstance(made, relax.Call) and getattr(made.op, "name", "") == "relax.permute_dims":
        return made.args[0], [int(axis) for axis in made.attrs.axes or reversed(range(len(expr.ty.shape)))]
    return expr, list(range(expr.ty.ndim))


def permuted(low: Lowering, expr: Any, axes: Sequence[int]) -> Any:
    """`expr` with its axes in another order."""
    source, before = origin(low, expr)
    order = [before[axis] for axis in axes]
    return source if order == sorted(order) else low.bind(relax.op.permute_dims(source, order))


def transpose(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """Of tensors of known rank."""
    x = inputs[0]
    if x is None or x.const is not None or x.dtype == "shape" or not x.shape:
        return None
    rank = len(x.shape)
    axes = [int(axis) % rank for axis in node.get("perm", range(rank)[::-1])]
    expr = permuted(low, x.plain(), axes)
    return low.blocked([x.shape[axis] for axis in axes], x.dtype, PLAIN, expr)


CONVERTERS = {"Transpose": transpose}
