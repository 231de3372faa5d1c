"""Winograd convolution: tiles transformed into one matrix product a place, and back into the epilogue.

Three parallel regions: input tiles, each transformed in registers; the products, a register tile of accumulators as in
any matrix product; output tiles, transformed in registers and written through the epilogue.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from optkit.kernel import Choice
from optkit.target import Target
from optkit_targets.cpu.kernels.tile import register_tile
from optkit_targets.cpu.kernels.tools import (
    View,
    arithmetic,
    divisors,
    extent,
    finish,
    inline_rest,
    look,
    number,
    parallel,
)

KEPT = ("load", "half", "transform", "winograd", "back")


class WinogradRule:
    """Takes functions with a block annotated "winograd"."""

    name = "cpu.winograd"
    templates: ClassVar[Mapping[str, int]] = {"winograd2x3": 1, "winograd4x3": 1}

    def choices(self, func: Any, target: Target) -> list[Choice] | None:
        """One template; the register tile of its product is the parameter."""
        view = look(func)
        if "winograd" not in view.ops:
            return None
        sch, block = view.sch, view.ops["winograd"]
        _, blocks, tiles, lanes = (extent(sch, loop) or 1 for loop in sch.get_loops(block)[:4])
        side = number(sch, block, "optkit.side")
        params = {name: number(sch, block, f"optkit.{name}") for name in ("rows", "blocks")}
        limit = target.registers
        space = {"rows": divisors(tiles, limit), "blocks": divisors(blocks, limit)}

        def apply(function: Any, chosen: Mapping[str, int]) -> Any:
            return schedule(look(function), chosen, side, target)

        layout = f"NCHW{lanes}c {side * side}OI{lanes}i{lanes}o"
        name = f"winograd{side - 2}x3"
        version = self.templates[name]
        dtype = arithmetic(sch, block)
        return [Choice(self.name, name, version, params, space, apply, compute=dtype, layout=layout)]


def schedule(view: View, params: Mapping[str, int], side: int, target: Target) -> Any:
    """Apply the template."""
    sch = view.sch
    load, half, transform, product, back = (view.ops[kind] for kind in KEPT)
    inline_rest(view, [load, half, transform, product, back])
    p, o, t, _ = sch.get_loops(transform)
    row, column = sch.split(p, [side, side])
    sch.reorder(o, t, row, column)
    at = parallel(sch, o, t)
    _unrolled(sch, transform)
    for stage in (half, load):
        _beside(sch, stage, at)
    _product(sch, product, params, target)
    out, m = view.last, side - 2
    n, c, y, x, v = sch.get_loops(out)
    down, inner_y = sch.split(y, [None, m])
    across, inner_x = sch.split(x, [None, m])
    sch.reorder(n, c, down, across, inner_y, inner_x, v)
    parallel(sch, n, c, down)
    _unrolled(sch, out)
    _beside(sch, back, across)
    return finish(sch)


def _product(sch: Any, product: Any, params: Mapping[str, int], target: Target) -> None:
    """Places and output channels in parallel; the weights of one share serve all image tiles from the cache."""
    p, o, t, v, *reduce = sch.get_loops(product)
    outer, inner = sch.split(t, [None, params["rows"]])
    blocks, block = sch.split(o, [None, params["blocks"]])
    sch.reorder(p, blocks, outer, block, inner, v, *reduce)
    store = sch.cache_write(product, 0, "local")
    parallel(sch, p, blocks)
    sch.reverse_compute_at(store, outer, preserve_unit_loops=True)
    register_tile(sch, product, store, (block, inner, v), reduce, target)


def _beside(sch: Any, stage: Any, loop: Any) -> None:
    """A stage of one tile, in registers."""
    sch.compute_at(stage, loop, preserve_unit_loops=True)
    sch.set_scope(stage, 0, "local")
    _unrolled(sch, stage)


def _unrolled(sch: Any, block: Any) -> None:
    """Vectors over channels, the two loops over the places of a tile unrolled."""
    *_, row, column, v = sch.get_loops(block)
    sch.vectorize(v)
    sch.unroll(column)
    sch.unroll(row)
