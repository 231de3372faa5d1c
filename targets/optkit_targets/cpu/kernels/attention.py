"""Attention: a band of rows in one thread, scores and their softmax in its cache, both products in register tiles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optkit.kernel import Choice
from optkit.target import Target
from optkit_targets.cpu.kernels.rows import schedule_stage
from optkit_targets.cpu.kernels.tile import register_tile
from optkit_targets.cpu.kernels.tools import (
    View,
    annotation,
    arithmetic,
    divisors,
    extent,
    finish,
    look,
    number,
    parallel,
    same,
)


class AttentionRule:
    """Takes functions with a block annotated "attention"."""

    name = "cpu.attention"

    def choices(self, func: Any, target: Target) -> list[Choice] | None:
        """One template: `rows` x `blocks` accumulators of either product, `band` rows of scores at a time."""
        view = look(func)
        if "attention" not in view.ops or not same(view.sch, view.ops["attention"], view.last):
            return None
        sch = view.sch
        params = {"band": number(sch, view.ops["attention"], "optkit.band")}
        for product in ("scores", "weighted"):
            for name in ("rows", "blocks"):
                params[f"{product}_{name}"] = number(sch, view.ops[product], f"optkit.{name}")
        space: dict[str, tuple[int, ...]] = {name: (value,) for name, value in params.items()}
        space |= {f"{product}_rows": divisors(params["band"], target.registers) for product in ("scores", "weighted")}

        def apply(function: Any, chosen: Mapping[str, int]) -> Any:
            return schedule(look(function), chosen, target)

        return [Choice(self.name, "attention", 1, params, space, apply, compute=arithmetic(sch, view.ops["scores"]))]


def schedule(view: View, params: Mapping[str, int], target: Target) -> Any:
    """Apply the template."""
    sch, lanes = view.sch, target.lanes
    stages = {id(b): str(annotation(sch, b, "optkit.op") or "") for b in view.blocks}
    for block in view.blocks[:-1]:
        if not stages[id(block)]:
            sch.compute_inline(block)
    kept = [b for b in view.blocks if stages[id(b)]]
    out, scores, weighted = view.last, view.ops["scores"], view.ops["weighted"]
    *batch, m, d = sch.get_loops(out)
    band, inner = sch.split(m, [None, params["band"]])
    tiles, row = sch.split(inner, [None, params["weighted_rows"]])
    outer, block, lane = sch.split(d, [None, params["weighted_blocks"], lanes])
    sch.reorder(*batch, band, outer, tiles, row, block, lane)
    at = parallel(sch, *batch, band)
    sch.compute_at(weighted, tiles, preserve_unit_loops=True)
    sch.set_scope(weighted, 0, "local")
    loops = sch.get_loops(weighted)
    reduce = len([a for a in sch.get(weighted).iter_vars if a.iter_type == 2])
    register_tile(sch, weighted, out, tuple(loops[-reduce - 3 : -reduce]), loops[-reduce:], target)
    steps = [b for b in kept if stages[id(b)].startswith("row_")]
    for stage in reversed(steps):
        sch.compute_at(stage, at, preserve_unit_loops=True)
    sch.compute_at(scores, at, preserve_unit_loops=True)
    _scores(sch, scores, params, target)
    for stage in steps:
        schedule_stage(sch, stage, stages[id(stage)], lanes)
    for name in ("key", "value"):
        pack = view.ops[name]
        *rest, last = sch.get_loops(pack)
        if (extent(sch, last) or 0) == 2:  # pairs are written together
            last = sch.fuse(rest.pop(), last)
        sch.vectorize(last)
        parallel(sch, *rest)
    return finish(sch)


def _scores(sch: Any, scores: Any, params: Mapping[str, int], target: Target) -> None:
    """A share of the keys serves all rows of the band from the nearest cache."""
    reduce = len([a for a in sch.get(scores).iter_vars if a.iter_type == 2])
    loops = sch.get_loops(scores)
    m, o, v = loops[-reduce - 3 : -reduce]
    tiles, row = sch.split(m, [None, params["scores_rows"]])
    blocks, block = sch.split(o, [None, params["scores_blocks"]])
    sch.reorder(blocks, tiles, row, block, v, *loops[-reduce:])
    store = sch.cache_write(scores, 0, "local")
    sch.reverse_compute_at(store, tiles, preserve_unit_loops=True)
    register_tile(sch, scores, store, (row, block, v), loops[-reduce:], target)
