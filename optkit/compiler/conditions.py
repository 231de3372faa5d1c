"""Conditions that a whole vector shares: TVM's CUDA C++ for a choice between vectors gives them the values' type."""

from __future__ import annotations

from typing import Any

import tvm_ffi
from tvm import tirx


@tirx.transform.prim_func_pass(opt_level=0)  # type: ignore[untyped-decorator]
def ask_once(func: Any, _module: Any, _context: Any) -> Any:
    """Let a device's function choose between vectors by one condition where all elements have the same."""
    return func.with_body(tvm_ffi.structural_map(func.body, (tirx.Select, _by_one)))


def _by_one(select: Any) -> Any:
    if not isinstance(select.condition, tirx.Broadcast):
        return select
    return tirx.if_then_else(select.condition.value, select.true_value, select.false_value)
