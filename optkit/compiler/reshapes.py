"""Kernels that only give a tensor another shape, which TVM knows by their loops; on some open extents it gives up."""

from __future__ import annotations

from typing import Any

import tvm
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
        if isinstance(func, tirx.PrimFunc):
            try:
                relax.analysis.has_reshape_pattern(func)
            except RuntimeError:
                func = name_extents(func, results=True)
        changed[var] = func
    return tvm.IRModule(changed, attrs=module.attrs)
