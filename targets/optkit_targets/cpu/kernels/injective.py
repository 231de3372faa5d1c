"""Element-wise and moving functions: everything inlined into one pass over the output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tvm.s_tir import ScheduleError

from optkit.compiler.extents import name_sums
from optkit.kernel import Choice
from optkit.target import Target
from optkit_targets.cpu.kernels.tools import (
    PARALLEL_ELEMENTS,
    View,
    annotation,
    extent,
    finish,
    kinds,
    look,
    write_dtype,
)

_CHANNELS = 2048
"""Of an image that has code of its own for each."""


class InjectiveRule:
    """Takes functions without a reduction whose every block but the last can be inlined."""

    name = "cpu.injective"

    def choices(self, func: Any, target: Target) -> list[Choice] | None:
        """One template; `lanes` is the vector width."""
        view = look(func)
        if not view.blocks or any(kinds(view.sch, b)[1] or not kinds(view.sch, b)[0] for b in view.blocks):
            return None
        if any(axis.iter_type not in (0, 2) for b in view.blocks for axis in view.sch.get(b).iter_vars):
            return None
        try:
            for block in view.blocks[:-1]:
                view.sch.compute_inline(block)
        except ScheduleError:
            return None

        def apply(function: Any, chosen: Mapping[str, int]) -> Any:
            return schedule(look(function), chosen["lanes"])

        dtype = write_dtype(view.sch, view.last)
        space = {"lanes": (target.lanes // 2, target.lanes, target.lanes * 2)}
        return [Choice(self.name, "map", 1, {"lanes": target.lanes}, space, apply, compute=dtype)]


def schedule(view: View, lanes: int) -> Any:
    """Apply the template."""
    sch = view.sch
    for block in view.blocks[:-1]:
        sch.compute_inline(block)
    view = look(name_sums(sch.mod["main"]))
    if annotation(view.sch, view.last, "optkit.op") != "channels" or not _by_channel(view.sch, view.last):
        vectorize_map(view.sch, view.last, lanes)
    return finish(view.sch)


def _by_channel(sch: Any, block: Any) -> bool:
    """Every channel of a blocked image from its own place, a number where the channel is one; False for too many."""
    images, blocks, *space, lane = sch.get_loops(block)
    count, size = extent(sch, blocks), extent(sch, lane)
    if count is None or size is None or count * size > _CHANNELS or not space:
        return False
    *rows, position = space
    sch.reorder(images, *rows, blocks, position, lane)
    sch.parallel(sch.fuse(images, *rows) if rows else images)
    sch.unroll(blocks)
    sch.unroll(lane)
    return True


def vectorize_map(sch: Any, block: Any, lanes: int) -> None:
    """Vectors over the innermost axis where it holds whole ones, else over all axes fused; parallel outside.

    Rows that are no whole vectors, and are not read as they are written, keep their remainders.

    A remainder that is no multiple of any vector width is left to LLVM's loop vectorizer.
    """
    loops = sch.get_loops(block)
    sizes = [extent(sch, loop) for loop in loops]
    known = 1
    for size in sizes:
        known *= size or 1
    symbolic = any(s is None for s in sizes)
    large = symbolic or known >= PARALLEL_ELEMENTS
    inner = sizes[-1] or 1
    if len(loops) > 1 and (inner % lanes == 0 or symbolic):
        *outer, last = loops
        if inner % lanes == 0:
            _, vector = sch.split(last, [None, lanes])
            sch.vectorize(vector)
        if large:
            sch.parallel(sch.fuse(*outer) if len(outer) > 1 else outer[0])
        return
    if len(loops) > 1 and not symbolic and inner > lanes and not _flat(sch, block):
        # Fused, every index would be quotients; so each row has vectors, and a few elements of its own.
        *outer, last = loops
        main, _ = sch.loop_partition(last, [inner // lanes * lanes, None])
        _, vector = sch.split(main, [None, lanes])
        sch.vectorize(vector)
        if large:
            sch.parallel(sch.fuse(*outer) if len(outer) > 1 else outer[0])
        return
    fused = sch.fuse(*loops) if len(loops) > 1 else loops[0]
    width = next((w for w in (lanes, lanes // 2, 4) if w > 1 and known % w == 0), 1)
    if symbolic or width == 1:
        if large:
            sch.parallel(fused)
        return
    outer, vector = sch.split(fused, [None, width])
    sch.vectorize(vector)
    if large:
        sch.parallel(outer)


def _flat(sch: Any, block: Any) -> bool:
    """Whether everything a block reads has the shape of what it writes: its elements are then simply in a row."""
    realized = sch.get(block)
    shape = [str(size) for size in realized.writes[0].source.shape]
    return all([str(size) for size in read.source.shape] == shape for read in realized.reads)
