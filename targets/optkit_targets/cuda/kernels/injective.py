"""Element-wise and moving functions: everything inlined, a few neighbouring output elements a thread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tvm.s_tir import Schedule, ScheduleError

from optkit.kernel import Choice
from optkit.target import Target
from optkit_targets.cpu.kernels.tools import View, extent, finish, kinds, look, write_dtype
from optkit_targets.cuda.kernels.tools import launch

LANES = 4
"""Elements of a thread, which it loads and stores at once where they lie side by side."""
_VECTORS = {"float32", "float16", "int8", "uint8", "int32"}


class InjectiveRule:
    """Takes functions without a reduction of which every block that writes no output can be inlined."""

    name = "cuda.injective"

    def choices(self, func: Any, target: Target) -> list[Choice] | None:
        """One template: `threads` threads a block, of `lanes` elements each; a kernel an output."""
        view = look(func)
        if not view.blocks or any(kinds(view.sch, b)[1] or not kinds(view.sch, b)[0] for b in view.blocks):
            return None
        if any(axis.iter_type not in (0, 2) for b in view.blocks for axis in view.sch.get(b).iter_vars):
            return None
        try:
            outputs = inline(view)
        except ScheduleError:
            return None

        def apply(function: Any, chosen: Mapping[str, int]) -> Any:
            return schedule(function, chosen["threads"], chosen["lanes"])

        dtype = write_dtype(view.sch, view.last)
        lanes = (1, LANES) if all(may_be_vector(view.sch, block) for block in outputs) else (1,)
        params, space = {"threads": 256, "lanes": lanes[-1]}, {"threads": (64, 128, 256, 512, 1024), "lanes": lanes}
        return [Choice(self.name, "map", 2, params, space, apply, compute=dtype)]


def inline(view: View) -> list[Any]:
    """The blocks that write outputs, all others inlined.

    Raises:
        ScheduleError: one cannot be.
    """
    sch = view.sch
    inner = list(sch.get(sch.get_sblock("root")).alloc_buffers)

    def kept(block: Any) -> bool:
        return any(write.source.same_as(buffer) for write in sch.get(block).writes for buffer in inner)

    outputs = [block for block in view.blocks if not kept(block)]
    for block in view.blocks:
        if block not in outputs:
            sch.compute_inline(block)
    return outputs


def may_be_vector(sch: Schedule, output: Any) -> bool:
    """Whether the output's rows are of whole vectors, and CUDA has vectors of all types that are read and written."""
    size = extent(sch, sch.get_loops(output)[-1])
    block = sch.get(output)
    types = {str(region.source.dtype) for region in (*block.reads, *block.writes)}
    return size is not None and size % LANES == 0 and types <= _VECTORS


def schedule(func: Any, threads: int, lanes: int) -> Any:
    """Apply the template."""
    view = look(func)
    for block in inline(view):
        *outer, inner = view.sch.get_loops(block)
        if lanes > 1:
            inner, vector = view.sch.split(inner, [None, lanes])
            view.sch.vectorize(vector)
        launch(view.sch, [*outer, inner], threads)
    return finish(view.sch)
