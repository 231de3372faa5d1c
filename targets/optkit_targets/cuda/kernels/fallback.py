"""The rule that answers for anything: dlight's schedule where a function has blocks, else a single thread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.s_tir import ScheduleError, dlight

from optkit.kernel import Choice
from optkit.target import Target


class FallbackRule:
    """Never declines. Code that launches threads of its own stays as it is."""

    name = "cuda.fallback"

    def choices(self, func: Any, target: Target) -> list[Choice] | None:
        """One template without parameters."""
        machine = tvm.target.Target(dict(target.tvm))

        def apply(function: Any, chosen: Mapping[str, int]) -> Any:
            return schedule(function, machine)

        return [Choice(self.name, "generic", 1, {}, {}, apply)]


def schedule(func: Any, machine: Any) -> Any:
    """One output element a thread, reductions serial in it; a function without blocks runs in one thread."""
    if launches(func):
        return func
    try:
        found = dlight.gpu.Fallback().apply(func, machine, False)
    except (ScheduleError, ValueError):
        found = None
    result = func if found is None else found.mod["main"]
    return result if launches(result) else single_thread(result)


def launches(func: Any) -> bool:
    """Whether anything in the function is bound to threads."""
    found = []

    def attribute(node: Any) -> None:
        if node.attr_key == "thread_extent":
            found.append(node)

    def loop(node: Any) -> None:
        if node.kind == tirx.ForKind.THREAD_BINDING:
            found.append(node)

    tvm_ffi.structural_walk(func.body, [(tirx.AttrStmt, attribute), (tirx.For, loop)])
    return bool(found)


def single_thread(func: Any) -> Any:
    """Launch the whole body as one thread: slow, but where the data is."""
    body = func.body
    root = isinstance(body, s_tir.SBlockRealize)
    inside = body.block.body if root else body
    for tag in ("threadIdx.x", "blockIdx.x"):
        variable = tirx.Var(tag.replace(".", "_"), "int32")
        binding = tirx.IterVar(None, tirx.Var("", "int32"), tirx.IterVar.ThreadIndex, tag)
        inside = tirx.For(variable, 0, 1, tirx.ForKind.THREAD_BINDING, inside, binding)
    if not root:
        return func.with_body(inside)
    block = body.block
    whole = s_tir.SBlock(
        block.iter_vars,
        block.reads,
        block.writes,
        block.name_hint,
        inside,
        block.init,
        block.alloc_buffers,
        block.match_buffers,
        block.annotations,
    )
    return func.with_body(s_tir.SBlockRealize(body.iter_values, body.predicate, whole))
