"""Kernels that only give a tensor another shape, which TVM knows by their loops; on some open extents it gives up."""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import relax, tirx

from optkit.compiler.extents import name_extents


def reshapes(func: Any) -> bool:
    """Whether all that a kernel does is to give a tensor another shape, as far as TVM can tell."""
    try:
        return bool(relax.analysis.has_reshape_pattern(func))
    except RuntimeError:
        return False


@tvm.transform.module_pass(opt_level=0)  # type: ignore[untyped-decorator]
def name_unclear(module: Any, _context: Any) -> Any:
    """The module with names for the extents of kernels that TVM cannot tell about, which would end its pass."""
    changed = {}
    for var, func in module.functions.items():
        if isinstance(func, tirx.PrimFunc) and not _clear(func):
            func = name_extents(func, results=True)
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
