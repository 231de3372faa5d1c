"""The rule that answers for anything: inline what can be, vectorize and parallelize what allows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tvm.s_tir import ScheduleError

from optkit.kernel import Choice
from optkit.target import Target
from optkit_targets.cpu.kernels.injective import vectorize_map
from optkit_targets.cpu.kernels.tools import PARALLEL_ELEMENTS, REDUCE, View, extent, finish, kinds, look


class FallbackRule:
    """Never declines. A function without blocks (an external call, a loop written by hand) stays as it is."""

    name = "cpu.fallback"

    def choices(self, func: Any, target: Target) -> list[Choice] | None:
        """One template without parameters."""

        def apply(function: Any, chosen: Mapping[str, int]) -> Any:
            try:
                view = look(function)
            except (ScheduleError, ValueError):
                return function
            loops = [loop for block in view.blocks for loop in view.sch.get_loops(block)]
            if any(extent(view.sch, loop) == 0 for loop in loops):
                return function  # nothing to compute, and no vector divides it
            return schedule(view, target.lanes)

        return [Choice(self.name, "generic", 1, {}, {}, apply)]


def schedule(view: View, lanes: int) -> Any:
    """Apply the template."""
    sch = view.sch
    kept = []
    for block in view.blocks[:-1]:
        try:
            sch.compute_inline(block)
        except ScheduleError:
            kept.append(block)
    for block in [*kept, *view.blocks[-1:]]:
        if len(sch.get_loops(block)) != len(sch.get(block).iter_vars):
            continue
        if any(axis.iter_type not in (0, 2) for axis in sch.get(block).iter_vars):
            continue
        spatial, reduce = kinds(sch, block)
        if reduce and spatial:
            _reduction(sch, block, spatial, reduce, lanes)
        elif spatial and not reduce:
            vectorize_map(sch, block, lanes)
    return finish(sch)


def _reduction(sch: Any, block: Any, spatial: list[Any], reduce: list[Any], lanes: int) -> None:
    """The innermost output axis as vectors around the reduction, the others in parallel.

    Of rows of open number that lie in memory one after the other, each is reduced for itself.
    """
    *outer, last = spatial
    size = extent(sch, last) or 0
    if not size and _along_rows(sch, block):
        sch.parallel(sch.fuse(*spatial) if outer else last)
        return
    if size % lanes == 0 and size:
        vo, last = sch.split(last, [None, lanes])
        outer.append(vo)
    sch.reorder(*outer, *reduce, last)
    work = 1
    for loop in (*spatial[:-1], *reduce):
        work *= extent(sch, loop) or 1
    if outer and work * (size or 1) >= PARALLEL_ELEMENTS:
        sch.parallel(sch.fuse(*outer) if len(outer) > 1 else outer[0])
    whole = size % lanes == 0 and size
    if whole:
        sch.vectorize(last)
    if sch.get(block).init is not None:
        init = sch.decompose_reduction(block, reduce[0])
        if whole:
            sch.vectorize(sch.get_loops(init)[-1])


def _along_rows(sch: Any, block: Any) -> bool:
    """Whether what a block reduces over is the last axis of what it reads."""
    realized = sch.get(block)
    reduced = [axis.var for axis in realized.iter_vars if axis.iter_type == REDUCE]
    last = [read.region[-1].min for read in realized.reads if len(read.region)]
    return any(var.same_as(index) for index in last for var in reduced)
