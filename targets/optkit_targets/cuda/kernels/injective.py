"""Element-wise and moving functions: everything inlined, one output element a thread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tvm.s_tir import ScheduleError

from optkit.kernel import Choice
from optkit.target import Target
from optkit_targets.cpu.kernels.tools import View, finish, kinds, look, write_dtype
from optkit_targets.cuda.kernels.tools import launch


class InjectiveRule:
    """Takes functions without a reduction whose every block but the last can be inlined."""

    name = "cuda.injective"

    def choices(self, func: Any, target: Target) -> list[Choice] | None:
        """One template: `threads` elements a thread block."""
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
            return schedule(look(function), chosen["threads"])

        dtype = write_dtype(view.sch, view.last)
        params, space = {"threads": 256}, {"threads": (64, 128, 256, 512, 1024)}
        return [Choice(self.name, "map", 1, params, space, apply, compute=dtype)]


def schedule(view: View, threads: int) -> Any:
    """Apply the template."""
    sch = view.sch
    for block in view.blocks[:-1]:
        sch.compute_inline(block)
    launch(sch, sch.get_loops(view.last), threads)
    return finish(sch)
