"""Depthwise convolution and pooling: one output element a thread, its window summed in a register."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optkit.kernel import Choice
from optkit.target import Target
from optkit_targets.cpu.kernels.tools import View, finish, inline_rest, kinds, look, read_dtype, same
from optkit_targets.cuda.kernels.intrinsics import contract_products
from optkit_targets.cuda.kernels.tools import launch

THREADS = (64, 128, 256, 512)


class _WindowRule:
    """Takes functions with a block annotated `operator`."""

    name: str
    operator: str

    def choices(self, func: Any, target: Target) -> list[Choice] | None:
        """One template: `threads` elements a thread block."""
        view = look(func)
        if self.operator not in view.ops:
            return None
        dtype = read_dtype(view.sch, view.ops[self.operator])

        def apply(function: Any, chosen: Mapping[str, int]) -> Any:
            return schedule(look(function), self.operator, chosen["threads"])

        params, space = {"threads": 128}, {"threads": THREADS}
        compute = "int8" if dtype == "uint8" else dtype
        return [Choice(self.name, "window", 1, params, space, apply, compute=compute)]


class DepthwiseRule(_WindowRule):
    """One filter a channel."""

    name, operator = "cuda.depthwise", "depthwise"


class PoolRule(_WindowRule):
    """Window and global maxima and sums."""

    name, operator = "cuda.pool", "pool"


def schedule(view: View, operator: str, threads: int) -> Any:
    """Apply the template; padding is a condition on the read."""
    sch, window = view.sch, view.ops[operator]
    inline_rest(view, [window])
    out = view.last
    if same(sch, out, window):
        spatial, _ = kinds(sch, window)
        store = sch.cache_write(window, 0, "local")
        thread = launch(sch, spatial, threads)
        sch.reverse_compute_at(store, thread, preserve_unit_loops=True)
    else:
        thread = launch(sch, sch.get_loops(out), threads)
        sch.compute_at(window, thread, preserve_unit_loops=True)
        sch.set_scope(window, 0, "local")
    return contract_products(finish(sch))
