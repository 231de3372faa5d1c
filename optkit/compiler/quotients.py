"""Quotients by open extents: TVM does not know that these are no less than 0, and asks of every sign on the way.

A device's function gets extents as numbers among others, which may be negative. So which of them are extents is noted
before TVM takes the functions apart, by name.
"""

from __future__ import annotations

import re
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

Extents = dict[str, frozenset[str]]
"""Names of the variables that are extents, by function."""
_KERNEL = re.compile(r"_kernel(_\d+)?$")
_GROWING = (tirx.Add, tirx.Mul, tirx.Max, tirx.Min, tirx.FloorDiv, tirx.FloorMod, tirx.Div, tirx.Mod)


def note_extents(noted: Extents) -> Any:
    """A pass that notes the open extents of every function of a module, which it leaves as it is."""

    @tvm.transform.module_pass(opt_level=0)  # type: ignore[untyped-decorator]
    def note(module: Any, _context: Any) -> Any:
        for var, func in module.functions.items():
            if isinstance(func, tirx.PrimFunc):
                shapes = [param.ty.shape for param in func.params if hasattr(param.ty, "shape")]
                names = {str(d.name) for shape in shapes for d in shape if isinstance(d, tirx.Var)}
                noted[str(var.name_hint)] = frozenset(names)
        return module

    return note


def cut_quotients(noted: Extents) -> Any:
    """A pass over a device's functions: quotients of what is no less than 0 are the processor's own."""

    @tirx.transform.prim_func_pass(opt_level=0)  # type: ignore[untyped-decorator]
    def cut(func: Any, _module: Any, _context: Any) -> Any:
        names = noted.get(_KERNEL.sub("", str(func.attrs["global_symbol"])), frozenset())
        if not names:
            return func
        known = [param for param in func.params if str(param.name) in names] + _counters(func.body)
        bound: list[Any] = []
        tvm_ffi.structural_walk(func.body, [(tirx.Bind, bound.append)])

        def positive(expr: Any) -> bool:
            if isinstance(expr, int | tirx.IntImm):
                return int(expr) >= 0
            if isinstance(expr, tirx.Var):
                return any(expr.same_as(var) for var in known)
            if isinstance(expr, tirx.Cast):
                return positive(expr.value)
            return isinstance(expr, _GROWING) and positive(expr.a) and positive(expr.b)

        for bind in bound:  # each before what uses it
            if positive(bind.value):
                known.append(bind.var)

        def quotient(node: Any) -> Any:
            return tirx.Div(node.a, node.b) if positive(node.a) and positive(node.b) else node

        def rest(node: Any) -> Any:
            return tirx.Mod(node.a, node.b) if positive(node.a) and positive(node.b) else node

        return func.with_body(tvm_ffi.structural_map(func.body, [(tirx.FloorDiv, quotient), (tirx.FloorMod, rest)]))

    return cut


def _counters(body: Any) -> list[Any]:
    """Variables of loops from 0 on, and of threads."""
    loops: list[Any] = []
    marks: list[Any] = []
    tvm_ffi.structural_walk(body, [(tirx.For, loops.append), (tirx.AttrStmt, marks.append)])
    threads = [mark.node.var for mark in marks if mark.attr_key == "thread_extent"]
    return [*(loop.loop_var for loop in loops if isinstance(loop.min, tirx.IntImm) and int(loop.min) >= 0), *threads]
