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
    kinds,
    look,
    number,
    parallel,
)

KEPT = ("corner", "load", "half", "transform", "winograd", "back")


class WinogradRule:
    """Takes functions with a block annotated "winograd"."""

    name = "cpu.winograd"
    templates: ClassVar[Mapping[str, int]] = {"winograd2x3": 1, "winograd4x3": 1}

    def choices(self, func: Any, target: Target) -> list[Choice] | None:
        """One template; the register tile of its product is the parameter.

        Of images of open size the three steps are functions of their own, in which their tiles are counted by an axis.
        """
        view = look(func)
        step = next((kind for kind in ("winograd", "transform", "place") if kind in view.ops), None)
        if step is None:
            return None
        sch, block = view.sch, view.ops[step]
        side = number(sch, block, "optkit.side") or extent(sch, sch.get_loops(view.ops["half"])[-3])
        lanes = extent(sch, sch.get_loops(block)[-1] if step != "winograd" else kinds(sch, block)[0][-1])
        if side is None or lanes is None:
            return None
        params: dict[str, int] = {}
        space: dict[str, tuple[int, ...]] = {}
        if step == "winograd":
            _, blocks, *tiles, _ = (extent(sch, loop) or 1 for loop in kinds(sch, block)[0])
            params = {name: number(sch, block, f"optkit.{name}") for name in ("rows", "blocks")}
            limit = target.registers
            space = {"rows": divisors(tiles[-1], limit), "blocks": divisors(blocks, limit)}
            if number(sch, block, "optkit.by_rows"):
                space["rows"] = (params["rows"],)

        def apply(function: Any, chosen: Mapping[str, int]) -> Any:
            return schedule(look(function), chosen, side, target)

        layout = f"NCHW{lanes}c {side * side}OI{lanes}i{lanes}o"
        name = f"winograd{side - 2}x3"
        version = self.templates[name]
        dtype = arithmetic(sch, block)
        return [Choice(self.name, name, version, params, space, apply, compute=dtype, layout=layout)]


def schedule(view: View, params: Mapping[str, int], side: int, target: Target) -> Any:
    """Apply the template to as many of its steps as there are."""
    sch = view.sch
    inline_rest(view, [view.ops[kind] for kind in KEPT if kind in view.ops])
    if "winograd" in view.ops and number(sch, view.ops["winograd"], "optkit.by_rows"):
        return _by_rows(view, params, side, target)
    if "transform" in view.ops:
        transform = view.ops["transform"]
        p, o, *t, _ = sch.get_loops(transform)
        row, column = sch.split(p, [side, side])
        if "corner" in view.ops:
            # All channels of a tile in one share, that its corner is found once.
            sch.reorder(*t, o, row, column)
            tile, at = sch.fuse(*t), o
            sch.parallel(tile)
        else:
            sch.reorder(o, *t, row, column)
            at = parallel(sch, o, *t)
        _unrolled(sch, transform)
        for stage in (view.ops["half"], view.ops["load"]):
            _beside(sch, stage, at)
        if "corner" in view.ops:
            corner = view.ops["corner"]
            sch.compute_at(corner, tile, preserve_unit_loops=True)
            sch.set_scope(corner, 0, "local")
            sch.unroll(sch.get_loops(corner)[-1])
    if "winograd" in view.ops:
        _product(sch, view.ops["winograd"], params, target)
    if "back" in view.ops:
        out, m = view.last, side - 2
        n, c, y, x, v = sch.get_loops(out)
        down, inner_y = sch.split(y, [None, m])
        across, inner_x = sch.split(x, [None, m])
        sch.reorder(n, c, down, across, inner_y, inner_x, v)
        parallel(sch, n, c, down)
        _unrolled(sch, out)
        _beside(sch, view.ops["back"], across)
    return finish(sch)


def _by_rows(view: View, params: Mapping[str, int], side: int, target: Target) -> Any:
    """All steps of a row of tiles after each other, rows in parallel."""
    sch, out, m = view.sch, view.last, side - 2
    n, c, y, x, v = sch.get_loops(out)
    down, inner_y = sch.split(y, [None, m])
    across, inner_x = sch.split(x, [None, m])
    sch.reorder(n, down, c, across, inner_y, inner_x, v)
    # By a known number of rows TVM can divide, however many images there are.
    row_of_tiles = down if extent(sch, down) is None else sch.fuse(n, down)
    sch.parallel(row_of_tiles)
    _unrolled(sch, out)
    _beside(sch, view.ops["back"], across)
    product, transform = view.ops["winograd"], view.ops["transform"]
    sch.compute_at(product, row_of_tiles, preserve_unit_loops=True)
    p, o, _, _, g, t, v, *reduce = sch.get_loops(product)[-9:]
    blocks, block = sch.split(o, [None, params["blocks"]])
    sch.reorder(p, blocks, g, block, t, v, *reduce)
    store = sch.cache_write(product, 0, "local")
    sch.reverse_compute_at(store, g, preserve_unit_loops=True)
    register_tile(sch, product, store, (block, t, v), reduce, target)
    sch.compute_at(transform, row_of_tiles, preserve_unit_loops=True)
    p, o, _, _, g, t, v = sch.get_loops(transform)[-7:]
    row, column = sch.split(p, [side, side])
    sch.reorder(o, g, t, row, column)
    _unrolled(sch, transform)
    for stage in (view.ops["half"], view.ops["load"]):
        _beside(sch, stage, t)
    return finish(sch)


def _product(sch: Any, product: Any, params: Mapping[str, int], target: Target) -> None:
    """Places and output channels in parallel; the weights of one share serve all image tiles from the cache."""
    (p, o, *t, v), reduce = kinds(sch, product)
    outer, inner = sch.split(t[0], [None, params["rows"]]) if len(t) == 1 else t
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
