"""Moves that become part of the product before them, as if they were element by element."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx

EPILOGUE = "optkit.epilogue"
"""Attribute of such a kernel."""
_ELEMENTWISE = 0


@tirx.transform.prim_func_pass(opt_level=0)  # type: ignore[untyped-decorator]
def end_products(func: Any, _module: Any, _context: tvm.transform.PassContext) -> Any:
    """Tell fusion that such a kernel is element by element; TVM's annotation takes that kind, 0, for none."""
    return func.with_attr("op_pattern", _ELEMENTWISE) if func.attrs and EPILOGUE in func.attrs else func
