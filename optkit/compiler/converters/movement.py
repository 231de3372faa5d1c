"""Transpose; one of a transposed tensor is one of what that was made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import relax

from optkit.compiler.converters import shuffle
from optkit.compiler.lowering import Lowering, Node
from optkit.compiler.values import PLAIN, Value

_MOVES = ("relax.reshape", "relax.permute_dims")


def origin(low: Lowering, expr: Any) -> tuple[Any, list[int]]:
    """The expression that a transposition made this one of, and its axes; itself and axes in order where none did."""
    made = _call(low, expr, ("relax.permute_dims",))
    if made is not None:
        return made.args[0], [int(axis) for axis in made.attrs.axes or reversed(range(len(expr.ty.shape)))]
    return expr, list(range(expr.ty.ndim))


def permuted(low: Lowering, expr: Any, axes: Sequence[int]) -> Any:
    """`expr` with its axes in another order."""
    source, before = origin(low, expr)
    order = [before[axis] for axis in axes]
    return source if order == sorted(order) else low.bind(relax.op.permute_dims(source, order))


def rounded(low: Lowering, expr: Any) -> Any:
    """The expression rounded to bfloat16: what it was widened from, where it was."""
    found = unwidened(low, expr)
    return low.bind(relax.op.astype(expr, "bfloat16")) if found is None else found


def narrowed(low: Lowering, expr: Any) -> Any:
    """The same, rounded before it is moved, so that whatever computes it can write it so."""
    source, moves = _unmoved(low, expr)
    return _moved(low, rounded(low, source), moves)


def before_reshapes(low: Lowering, expr: Any, compute: Callable[[Any], Any]) -> Any:
    """What `compute`, which is element by element, makes of an expression: of float16 numbers before they got their
    shape, where such were reshaped and widened, so that whatever computes them can write the result.
    """
    made = _call(low, expr, ("relax.astype",))
    if made is None or str(made.args[0].ty.dtype) != "float16":
        return compute(expr)
    source, moves = _unmoved(low, made.args[0])
    if not moves or any(move.op.name != "relax.reshape" for move in moves):
        return compute(expr)
    return _moved(low, compute(low.bind(relax.op.astype(source, made.ty.dtype))), moves)


def unwidened(low: Lowering, expr: Any) -> Any | None:
    """The bfloat16 numbers that a float32 expression was made of, moved as they were; None for any other."""
    source, moves = _unmoved(low, expr)
    made = _call(low, source, ("relax.astype",))
    if made is None or str(made.args[0].ty.dtype) != "bfloat16":
        return None
    return _moved(low, made.args[0], moves)


def _call(low: Lowering, expr: Any, names: Sequence[str]) -> Any | None:
    """The call of one of these operators that made an expression."""
    made = low.bb.lookup_binding(expr) if isinstance(expr, relax.Var) else None
    return made if isinstance(made, relax.Call) and getattr(made.op, "name", "") in names else None


def _unmoved(low: Lowering, expr: Any) -> tuple[Any, list[Any]]:
    """What an expression was before it was moved, and the calls that moved it, the last first."""
    moves = []
    while (made := _call(low, expr, _MOVES)) is not None:
        moves.append(made)
        expr = made.args[0]
    return expr, moves


def _moved(low: Lowering, expr: Any, moves: Sequence[Any]) -> Any:
    for made in reversed(moves):
        expr = low.bind(relax.Call(made.op, [expr, *made.args[1:]], made.attrs))
    return expr


def transpose(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """Of tensors of known rank."""
    x = inputs[0]
    if x is None or x.const is not None or x.dtype == "shape" or not x.shape:
        return None
    rank = len(x.shape)
    axes = [int(axis) % rank for axis in node.get("perm", range(rank)[::-1])]
    if (swapped := shuffle.transpose(low, x, axes)) is not None:
        return swapped
    expr = permuted(low, x.plain(), axes)
    return low.blocked([x.shape[axis] for axis in axes], x.dtype, PLAIN, expr)


CONVERTERS = {"Transpose": transpose}
