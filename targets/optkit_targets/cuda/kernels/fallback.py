"""The rules for what has no template: functions that say themselves what threads do, and any other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.s_tir import ScheduleError, dlight

from optkit.compiler.operators.loops import INDEPENDENT
from optkit.kernel import Choice
from optkit.target import Target
from optkit_targets.cuda.kernels.device_code import around, bound
from optkit_targets.cuda.kernels.tools import WARP

_THREADS, _MANY = 128, 16384
"""Of a thread block, for at least so many iterations."""


class OwnThreadsRule:
    """Takes functions that launch threads of their own: sorting, running sums, suppression. They stay as they are."""

    name = "cuda.own_threads"

    def choices(self, func: Any, target: Target) -> list[Choice] | None:
        """One template without parameters."""
        if not launches(func):
            return None
        return [Choice(self.name, "written", 1, {}, {}, lambda function, _: function)]


class FallbackRule:
    """Never declines: dlight's schedule where a function has blocks, else its parallel loops, or a single thread."""

    name = "cuda.fallback"

    def choices(self, func: Any, target: Target) -> list[Choice] | None:
        """One template without parameters."""
        machine = tvm.target.Target(dict(target.tvm))

        def apply(function: Any, chosen: Mapping[str, int]) -> Any:
            return schedule(function, machine)

        return [Choice(self.name, "generic", 3, {}, {}, apply)]


def schedule(func: Any, machine: Any) -> Any:
    """One output element a thread, reductions serial in it; of loops written by hand the parallel ones are spread."""
    try:
        found = dlight.gpu.Fallback().apply(func, machine, False)
    except (ScheduleError, ValueError):
        found = None
    result = func if found is None else found.mod["main"]
    return result if launches(result) else by_hand(result)


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


def by_hand(func: Any) -> Any:
    """Parallel loops with an iteration a thread; anything else as one thread: slow, but where the data is.

    Without vectors: TVM stores them at any address, which only a CPU takes.
    """
    body = tvm_ffi.structural_map(func.body, (tirx.For, _without_vectors))
    spread = _spread(body)
    if spread is not None:
        return func.with_body(spread)
    if not isinstance(body, s_tir.SBlockRealize):
        return func.with_body(_single_thread(body))
    return func.with_body(around(body, _single_thread(body.block.body)))


def _without_vectors(loop: Any) -> Any:
    if loop.kind != tirx.ForKind.VECTORIZED:
        return loop
    return tirx.For(loop.loop_var, loop.min, loop.extent, tirx.ForKind.UNROLLED, loop.body)


def _spread(node: Any) -> Any:
    """The statement with its outermost loops over threads; None where it does anything outside of parallel ones.

    Few iterations, which are long ones, go to blocks of one warp: to as many multiprocessors as there are.
    """
    if isinstance(node, s_tir.SBlockRealize):
        inner = None if node.block.iter_vars else _spread(node.block.body)
        return None if inner is None else around(node, inner)
    if isinstance(node, tirx.SeqStmt):
        parts = [_spread(part) for part in node.seq]
        return None if any(part is None for part in parts) else tirx.SeqStmt(parts)
    if not isinstance(node, tirx.For) or node.kind != tirx.ForKind.PARALLEL:
        return None
    nest = [node]
    while isinstance(nest[-1].body, tirx.For) and INDEPENDENT in nest[-1].body.annotations:
        nest.append(nest[-1].body)
    wide = "int64" if any(str(loop.loop_var.ty.dtype) == "int64" for loop in nest) else "int32"
    block, thread = (tirx.Var(name, wide) for name in ("block", "thread"))
    extents = [tirx.Cast(wide, loop.extent) for loop in nest]
    total = math.prod(extents[1:], start=extents[0])
    if isinstance(total, tirx.IntImm) and int(total) == 0:
        return tirx.Evaluate(0)
    few = isinstance(total, tirx.IntImm) and int(total) < _MANY
    count = tirx.const(WARP if few else _THREADS, wide)
    rest = at = block * count + thread
    places = []
    for loop, extent in zip(reversed(nest), reversed(extents), strict=True):
        index = rest if loop is node else tirx.floormod(rest, extent)
        places.append((loop.loop_var, loop.min + tirx.Cast(str(loop.loop_var.ty.dtype), index)))
        rest = tirx.floordiv(rest, extent)
    body = tvm_ffi.structural_map(
        nest[-1].body, (tirx.Var, lambda v: next((place for variable, place in places if v.same_as(variable)), v))
    )
    threads = bound("threadIdx.x", thread, int(count), tirx.IfThenElse(at < total, body, None))
    return bound("blockIdx.x", block, tirx.floordiv(total + (count - 1), count), threads)


def _single_thread(body: Any) -> Any:
    for tag in ("threadIdx.x", "blockIdx.x"):
        body = bound(tag, tirx.Var(tag.replace(".", "_"), "int32"), 1, body)
    return body
