"""Relax functions with other bindings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from tvm import relax


def with_bindings(func: Any, rewrite: Callable[[Any], Iterable[Any]]) -> Any:
    """The function with other bindings in the place of each of its own."""
    blocks = []
    for block in func.body.blocks:
        kind = relax.DataflowBlock if isinstance(block, relax.DataflowBlock) else relax.BindingBlock
        blocks.append(kind([new for binding in block.bindings for new in rewrite(binding)]))
    return relax.Function(
        func.params, relax.SeqExpr(blocks, func.body.body), func.ret_ty, func.is_pure, func.attrs, func.span
    )
