"""Extents that kernels are given as numbers, in one order: TVM's depends on where objects lie in memory.

What a shape is computed of and no tensor has as an extent of its own, such as h where there is (h - 1) // 2 + 1, is
collected in sets, whose order differs from build to build; so would the bytes of libraries, and which kernels are
seen to be equal.
"""

from __future__ import annotations

import functools
from typing import Any

import tvm
import tvm_ffi
from tvm import relax, tirx
from tvm.relax import block_builder
from tvm.relax.expr_functor import PyExprMutator, mutator


@functools.cache
def order_made_extents() -> None:
    """From now on, kernels made of tensor expressions have their numbers in the order in which shapes name them."""
    made = block_builder.gen_call_tir_inputs

    @functools.wraps(made)
    def ordered(*args: Any, **kwargs: Any) -> tuple[Any, list[Any], Any]:
        func, given, types = made(*args, **kwargs)
        places = _places(func)
        return (func, given, types) if places is None else (_moved(func, places), _at(given, places), types)

    block_builder.gen_call_tir_inputs = ordered


def _order(module: Any, _context: Any) -> Any:
    moves = {}
    for var, func in module.functions.items():
        if isinstance(func, tirx.PrimFunc) and (places := _places(func)) is not None:
            moves[var] = places
            module.update_func(var, _moved(func, places))
    if moves:
        for var, func in list(module.functions.items()):
            if isinstance(func, relax.Function):
                module.update_func(var, _Calls(moves).visit_expr(func))
    return module


def _places(func: Any) -> list[int] | None:
    """Where each parameter was before; None where they are in order."""
    numbers = [i for i, param in enumerate(func.params) if tvm.ir.is_prim_var(param) and param.ty.dtype == "int64"]
    if len(numbers) < 2:
        return None
    found: list[Any] = []
    for param in func.params:
        for extent in getattr(param.ty, "shape", ()):
            tvm_ffi.structural_walk(extent, (tirx.Var, found.append))
    tvm_ffi.structural_walk(func.body, (tirx.Var, found.append))
    first = {i: next((n for n, v in enumerate(found) if v.same_as(func.params[i])), len(found)) for i in numbers}
    ordered = sorted(numbers, key=lambda i: (first[i], func.params[i].name))
    if ordered == numbers:
        return None
    places = list(range(len(func.params)))
    for place, i in zip(numbers, ordered, strict=True):
        places[place] = i
    return places


def _moved(func: Any, places: list[int]) -> Any:
    return tirx.PrimFunc(_at(func.params, places), func.body, func.ret_type, func.attrs, func.span)


def _at(given: Any, places: list[int]) -> list[Any]:
    return [given[place] for place in places[: len(given)]]


@mutator
class _Calls(PyExprMutator):  # type: ignore[misc]
    """Calls of kernels whose parameters have changed places."""

    def __init__(self, moves: dict[Any, list[int]]) -> None:
        super().__init__()
        self.moves = moves

    def visit_call_(self, call: Any) -> Any:
        """A call, its arguments in their new places."""
        call = self.visit_expr_post_order(call)
        if getattr(call.op, "name", "") != "relax.call_tir" or call.args[0] not in self.moves:
            return call
        made = call.ty_args[0]
        types = list(made.fields) if isinstance(made, relax.TupleType) else made
        return relax.call_tir(call.args[0], _at(call.args[1].fields, self.moves[call.args[0]]), types)


order_fused_extents: Any = tvm.transform.module_pass(_order, opt_level=0, name="optkit.order_fused_extents")
"""A pass to run where every call has a kernel."""
