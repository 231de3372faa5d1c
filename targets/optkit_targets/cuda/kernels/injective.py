"""Element-wise and moving functions: everything inlined, a few neighbouring output elements a thread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tvm.s_tir import ScheduleError

from optkit.kernel import Choice
from optkit.target import Target
from optkit_targets.cpu.kernels.tools import View, extent, finish, kinds, look, write_dtype
from optkit_targets.cuda.kernels.tools import launch

LANES = 4
"""Elements of a thread, which it loads and stores at once where they lie side by side."""
_VECTORS = {"float32", "float16", "int8", "uint8", "int32"}


class InjectiveRule:
    """Takes functions without a reduction whose every block but the last can be inlined."""

    name = "cuda.injective"

    def choices(self, func: Any, target: Target) -> list[Choice] | None:
        """One template: `threads` threads a block, of `lanes` elements each."""
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
            return schedule(look(function), chosen["threads"], chosen["lanes"])

        dtype = write_dtype(view.sch, view.last)
        lanes = (1, LANES) if may_be_vector(view) else (1,)
        params, space = {"threads": 256, "lanes": lanes[-1]}, {"threads": (64, 128, 256, 512, 1024), "lanes": lanes}
        return [Choice(self.name, "map", 2, params, space, apply, compute=dtype)]


def may_be_vector(view: View) -> bool:
    """Whether the output's rows are of whole vectors, and CUDA has vectors of all types that are read and written."""
    loops = view.sch.get_loops(view.last)
    size = extent(view.sch, loops[-1])
    block = view.sch.get(view.last)
    types = {str(region.source.dtype) for region in (*block.reads, *block.writes)}
    return size is not None and size % LANES == 0 and types <= _VECTORS


def schedule(view: View, threads: int, lanes: int) -> Any:
    """Apply the template."""
    sch = view.sch
    for block in view.blocks[:-1]:
        sch.compute_inline(block)
    *outer, inner = sch.get_loops(view.last)
    if lanes > 1:
        inner, vector = sch.split(inner, [None, lanes])
        sch.vectorize(vector)
    launch(sch, [*outer, inner], threads)
    return finish(sch)
