"""Kernels that only give a tensor another shape: none is needed, where nothing became part of it.

TVM knows them by their loops; of open extents that are quotients it cannot tell. So they are marked when they are made.
"""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import relax, tirx, topi

from optkit.compiler.extents import name_extents
from optkit.compiler.rebinding import with_bindings

_VIEW = "optkit.view"
"""Attribute of a kernel that gives its first parameter another shape, and does nothing else."""


def reshapes(func: Any) -> bool:
    """Whether all that a kernel does is to give a tensor another shape, as far as one can tell."""
    if _marked(func):
        return True
    try:
        return bool(relax.analysis.has_reshape_pattern(func))
    except RuntimeError:
        return False


@tvm.transform.module_pass(opt_level=0)  # type: ignore[untyped-decorator]
def merge_reshapes(module: Any, _context: Any) -> Any:
    """The module with every relax.reshape of another one's result reading what that reads.

    Two would become one kernel, of which nothing could tell that it only copies.
    """

    def merged(func: Any) -> Any:
        sources: dict[Any, Any] = {}

        def direct(binding: Any) -> list[Any]:
            call: Any = getattr(binding, "value", None)
            if getattr(getattr(call, "op", None), "name", "") != "relax.reshape":
                return [binding]
            data, shape = call.args
            sources[binding.var] = sources.get(data, data)
            if data not in sources:
                return [binding]
            made = relax.op.reshape(sources[data], shape)
            return [relax.VarBinding(binding.var, relax.BlockBuilder().normalize(made))]

        return with_bindings(func, direct)

    changed = {}
    for var, func in module.functions.items():
        blocks = isinstance(func, relax.Function) and isinstance(func.body, relax.SeqExpr)
        changed[var] = merged(func) if blocks else func
    return tvm.IRModule(changed, attrs=module.attrs)


def legalize_reshape(builder: Any, call: Any) -> Any:
    """TVM's own kernel of relax.reshape, marked."""
    data, shape = call.args
    if isinstance(shape, relax.Var):
        shape = builder.lookup_binding(shape)
    return builder.call_te(topi.reshape, data, shape, primfunc_name_hint="reshape", primfunc_attrs={_VIEW: 1})


def _marked(func: Any) -> bool:
    return isinstance(func, tirx.PrimFunc) and bool(func.attrs) and _VIEW in func.attrs


@tvm.transform.module_pass(opt_level=0)  # type: ignore[untyped-decorator]
def view_reshapes(module: Any, _context: Any) -> Any:
    """The module with marked kernels as relax.reshape again, which copies nothing; but for those that make outputs."""

    def viewed(binding: Any) -> list[Any]:
        call: Any = getattr(binding, "value", None)
        kernel = getattr(getattr(call, "op", None), "name", "") == "relax.call_tir"
        if not kernel or not isinstance(binding.var, relax.DataflowVar) or not _marked(module[call.args[0]]):
            return [binding]
        view = relax.op.reshape(call.args[1].fields[0], binding.var.ty.shape)
        return [relax.VarBinding(binding.var, relax.BlockBuilder().normalize(view))]

    changed = {}
    for var, func in module.functions.items():
        blocks = isinstance(func, relax.Function) and isinstance(func.body, relax.SeqExpr)
        changed[var] = with_bindings(func, viewed) if blocks else func
    return tvm.IRModule(changed, attrs=module.attrs)


@tvm.transform.module_pass(opt_level=0)  # type: ignore[untyped-decorator]
def name_unclear(module: Any, _context: Any) -> Any:
    """The module with names for the extents of kernels that TVM cannot tell about, which would end its pass."""
    changed = {}
    for var, func in module.functions.items():
        if isinstance(func, tirx.PrimFunc) and not _clear(func):
            func = name_extents(func)
            func = func if _clear(func) else _copied(func)
        changed[var] = func
    return tvm.IRModule(changed, attrs=module.attrs)


def _clear(func: Any) -> bool:
    try:
        relax.analysis.has_reshape_pattern(func)
    except RuntimeError:
        return False
    return True


def _copied(func: Any) -> Any:
    """The kernel with stores of what is more than a load, at which TVM looks no closer."""

    def store(node: Any) -> Any:
        value = node.value
        twice = tirx.And if str(value.ty.dtype) == "bool" else tirx.Max
        return tirx.BufferStore(node.buffer, twice(value, value), node.indices)

    return func.with_body(tvm_ffi.structural_map(func.body, [(tirx.BufferStore, store)]))
