"""Softmax and normalization: one warp a row, sums and maxima reduced across its lanes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optkit.kernel import Choice
from optkit.target import Target
from optkit_targets.cpu.kernels.tools import View, annotation, finish, look, read_dtype
from optkit_targets.cuda.kernels.tools import WARP


class RowsRule:
    """Takes functions whose stages are annotated "row_map", "row_lanes" and "row_total"."""

    name = "cuda.rows"

    def choices(self, func: Any, target: Target) -> list[Choice] | None:
        """One template: `threads` threads a row."""
        view = look(func)
        if "row_map" not in view.ops or "row_lanes" not in view.ops:
            return None

        def apply(function: Any, chosen: Mapping[str, int]) -> Any:
            return schedule(look(function), chosen["threads"])

        dtype = read_dtype(view.sch, view.blocks[0])
        params, space = {"threads": WARP}, {"threads": (WARP, 64, 128, 256)}
        return [Choice(self.name, "rows", 1, params, space, apply, compute=dtype)]


def schedule(view: View, threads: int) -> Any:
    """Apply the template: every stage of a row in shared memory, read by the whole thread block."""
    sch = view.sch
    stages = {id(b): str(annotation(sch, b, "optkit.op") or "") for b in view.blocks}
    out = view.last
    for block in view.blocks[:-1]:
        if stages[id(block)] in ("", "row_map"):
            # Cheaper to compute an exponential again than to keep a row of them in shared memory.
            sch.compute_inline(block)
    kept = [b for b in view.blocks if b is out or stages[id(b)] not in ("", "row_map")]
    *lead, _ = sch.get_loops(out)
    row = sch.fuse(*lead) if len(lead) > 1 else lead[0]
    sch.bind(row, "blockIdx.x")
    for block in reversed(kept[:-1]):
        sch.compute_at(block, row, preserve_unit_loops=True)
        sch.set_scope(block, 0, "shared")
    for block in kept:
        kind = stages[id(block)]
        loops = sch.get_loops(block)
        if kind == "row_lanes" or block is out:
            _, thread = sch.split(loops[-1], [None, threads])
            sch.bind(thread, "threadIdx.x")
        else:
            # One number: every thread computes it for itself from the lanes.
            sch.set_scope(block, 0, "local")
    return finish(sch)
