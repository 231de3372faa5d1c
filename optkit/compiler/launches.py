"""Launches of no thread blocks: TVM launches one then, whose threads write where nothing is.

A grid is empty where extents are found at run time, as of an image without objects, and threads whose number divides
the rest of the extents do not ask whether they are within.
"""

from __future__ import annotations

from typing import Any

import tvm_ffi
from tvm import tirx

_LAUNCH, _BYTES = "tirx.call_ffi_kernel", "tirx.use_dyn_shared_memory"


@tirx.transform.prim_func_pass(opt_level=0)  # type: ignore[untyped-decorator]
def skip_empty(func: Any, _module: Any, _context: Any) -> Any:
    """Launch kernels of a host's function only where there are thread blocks."""
    return func.with_body(tvm_ffi.structural_map(func.body, (tirx.Evaluate, _where_any)))


def _where_any(stmt: Any) -> Any:
    call = stmt.value
    if getattr(getattr(call, "op", None), "name", "") != _LAUNCH:
        return stmt
    # Extents follow the kernel's arguments, and the bytes of shared memory come last.
    tags = [str(tag) for tag in call.attrs.launch_params]
    axes = [tag for tag in tags if "Idx." in tag]
    end = len(call.args) - (_BYTES in tags)
    extents = zip(axes, call.args[end - len(axes) : end], strict=True)
    found = [extent for axis, extent in extents if axis.startswith("blockIdx.") and not isinstance(extent, tirx.IntImm)]
    for extent in found:
        stmt = tirx.IfThenElse(extent > tirx.const(0, extent.ty.dtype), stmt, None)
    return stmt
