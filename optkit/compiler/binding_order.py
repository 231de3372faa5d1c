"""Symbolic extents are defined before they are used: FuseOps does not see that a fused call needs one.

It puts a group of operators where the group's first member was. Where a member's extent comes from a match_cast
in between, the call would stand before it, and the extent would be another variable to every pass behind.
"""

from __future__ import annotations

from typing import Any

from tvm import relax, tirx


def _order(func: Any, _module: Any, _context: Any) -> Any:
    if not isinstance(func.body, relax.SeqExpr):
        return func
    if not any(isinstance(b, relax.MatchCast) for block in func.body.blocks for b in block.bindings):
        return func
    known: set[Any] = set()
    for parameter in func.params:
        known |= _extents(parameter.ty)
    blocks = []
    changed = False
    for block in func.body.blocks:
        ordered = _sorted(list(block.bindings), known)
        changed |= any(not a.same_as(b) for a, b in zip(ordered, block.bindings, strict=True))
        kind = relax.DataflowBlock if isinstance(block, relax.DataflowBlock) else relax.BindingBlock
        blocks.append(kind(ordered))
    if not changed:
        return func
    body = relax.SeqExpr(blocks, func.body.body)
    return relax.Function(func.params, body, func.ret_ty, func.is_pure, func.attrs)


def _sorted(bindings: list[Any], known: set[Any]) -> list[Any]:
    """The bindings, each one delayed until the extents and values it uses are there."""
    here = {b.var for b in bindings}
    done: list[Any] = []
    waiting: list[Any] = list(bindings)
    made: set[Any] = set()
    while waiting:
        rest = []
        for binding in waiting:
            values, extents = _uses(binding)
            # Once something waits, what follows may pass it, but nothing may pass what it needs.
            if values & here <= made and extents <= known:
                done.append(binding)
                made.add(binding.var)
                known |= _extents(binding.var.ty)
            else:
                rest.append(binding)
        if len(rest) == len(waiting):
            return done + rest
        waiting = rest
    return done


def _uses(binding: Any) -> tuple[set[Any], set[Any]]:
    """The variables that a binding reads, and the extents that it needs and does not define."""
    values: set[Any] = set()
    extents: set[Any] = set()

    def visit(expr: Any) -> None:
        if isinstance(expr, relax.Var):
            values.add(expr)
        elif isinstance(expr, relax.ShapeExpr):
            extents.update(*[_variables(e) for e in expr.values])

    relax.analysis.post_order_visit(binding.value, visit)
    if not isinstance(binding, relax.MatchCast):
        extents |= _extents(binding.var.ty)
    return values, extents


def _variables(expr: Any) -> set[Any]:
    return set(tirx.analysis.undefined_vars(expr)) if not isinstance(expr, tirx.IntImm) else set()


def _extents(ty: Any) -> set[Any]:
    """The symbolic variables in a type."""
    return set(relax.analysis.tir_vars_in_type(ty))


order_bindings: Any = relax.transform.function_pass(_order, opt_level=0, name="optkit.order_bindings")
"""A pass to run after FuseOps."""

__all__ = ["order_bindings"]
