"""Convolution and matrix product in tile registers, what follows them fused to it.

Tiles of sums, up to four, stay in registers while the reduction runs over blocks of channels and the kernel's taps;
then they are stored to a buffer that is in the first-level cache, from which the epilogue reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from optkit.compiler.matrix_tiles import COLUMNS, ROWS, SHAPES, SUMS
from optkit.compiler.operators.common import PAIR
from optkit.compiler.operators.tile_conv import PITCH
from optkit.kernel import Choice
from optkit.target import Target
from optkit_targets.cpu.kernels.matmul import flatten_rows, kinds_of, schedule_pack, vectorize_rows
from optkit_targets.cpu.kernels.tile_code import INIT, MARK, STEP, STORE, tile_code
from optkit_targets.cpu.kernels.tools import (
    View,
    arithmetic,
    extent,
    finish,
    inline_rest,
    kinds,
    look,
    number,
    parallel,
    read_dtype,
    schedule_pad,
)


class TileRule:
    """Takes functions with a block "conv" or "matmul" that is planned for tile registers."""

    name = "cpu.tiles"
    templates: ClassVar[Mapping[str, int]] = {"tiles": 1}

    def choices(self, func: Any, target: Target) -> list[Choice] | None:
        """One template.

        `rows` are those of all tiles of sums, of which `tall` lie along rows and `blocks` along columns; order 0 goes
        over all positions with a share of the weights, order 1 over all weights with a share of the positions.
        """
        view = look(func)
        kind = next((kind for kind in ("conv", "matmul") if kind in view.ops), "")
        if not kind:
            return None
        sch, block = view.sch, view.ops[kind]
        names = ("rows", "tall", "blocks", "order")
        params = {name: number(sch, block, f"optkit.{name}") for name in names}
        if not params["tall"]:
            return None
        space = {
            "rows": tuple(range(1, SUMS * ROWS + 1)),
            "tall": tuple(sorted({tall for tall, _ in SHAPES})),
            "blocks": tuple(sorted({wide for _, wide in SHAPES})),
            "order": (0, 1),
        }
        schedule = _conv if kind == "conv" else _matmul
        lanes = extent(sch, kinds(sch, block)[0][-1])
        layout = f"NCHW{lanes}c OIHW{lanes}o" if kind == "conv" else f"MK NK{lanes}n"

        def apply(function: Any, chosen: Mapping[str, int]) -> Any:
            made = schedule(look(function), chosen)
            if not target.has("tile_registers"):
                return made  # the loops as they are: what stands in for a target where it cannot run
            return tile_code(made, chosen["rows"] // chosen["tall"], chosen["tall"])

        dtype = arithmetic(sch, block)
        return [Choice(self.name, "tiles", self.templates["tiles"], params, space, apply, compute=dtype, layout=layout)]


def _conv(view: View, params: Mapping[str, int]) -> Any:
    sch, conv, pad = view.sch, view.ops["conv"], view.ops.get("pad")
    inline_rest(view, [conv] if pad is None else [conv, pad])
    out, rows = view.last, params["rows"]
    n, c, y, x, v = sch.get_loops(out)
    lanes, columns, across = extent(sch, v) or 0, COLUMNS * params["blocks"], number(sch, conv, PITCH)
    if across == extent(sch, x):
        # Rows and columns become one axis of the block itself: a tile then never straddles two loops.
        sch.transform_block_layout(out, lambda n, c, y, x, v: (n, c, y * across + x, v))
        n, c, x, v = sch.get_loops(out)
        lines = []
    else:
        lines = [y]
    co, ci = sch.split(c, [None, max(1, columns // lanes)])
    vo, vi = sch.split(v, [None, min(columns, lanes)])
    # Images of a known number go by while their weights are in the cache.
    shares = [n, co, vo] if extent(sch, n) is None else [co, vo, n]
    if across and lines:
        # Positions between lines are no result's: what follows goes over the lines of the whole image.
        outer = shares
        sch.reorder(*outer, ci, y, x, vi)
        _inside(sch, conv, out, parallel(sch, *outer), rows)
    else:
        xo, xi = sch.split(x, [None, rows])
        outer = [n, *lines, xo, co, vo] if params["order"] else [*shares, *lines, xo]
        sch.reorder(*outer, ci, xi, vi)
        parallel(sch, *outer[: -2 if params["order"] else -1])
        _inside(sch, conv, out, outer[-1])
    if pad is not None:
        schedule_pad(sch, pad)
    return finish(sch)


def _matmul(view: View, params: Mapping[str, int]) -> Any:
    sch, product, pad, pack = view.sch, view.ops["matmul"], view.ops.get("pad"), view.ops.get("pack")
    inline_rest(view, [block for block in (product, pad, pack) if block is not None])
    out, columns = view.last, COLUMNS * params["blocks"]
    (*batch, m, n, v), reduce = kinds(sch, product)
    if (extent(sch, sch.get_loops(out)[-1]) or 0) % columns:
        # Columns do not fill whole tiles: the sums go to a buffer, the epilogue is a pass of its own.
        mo, mi = sch.split(m, [None, params["rows"]])
        no, ni = sch.split(n, [None, params["blocks"]])
        sch.reorder(*batch, no, mo, reduce[0], mi, ni, v, *reduce[1:])
        parallel(sch, *batch, no, mo)
        _mark(sch, product, [mi, ni, v], reduce[0])
        vectorize_rows(sch, out, COLUMNS)
    else:
        flatten_rows(sch, out, len(batch))
        *batch, m, n = sch.get_loops(out)
        mo, mi = sch.split(m, [None, params["rows"]])
        no, ni = sch.split(n, [None, columns])
        outer = [*batch, mo, no] if params["order"] else [*batch, no, mo]
        sch.reorder(*outer, mi, ni)
        parallel(sch, *outer[:-1])
        _inside(sch, product, out, outer[-1])
    if pad is not None:
        schedule_pad(sch, pad)
    if pack is not None:
        schedule_pack(sch, pack)
    return finish(sch)


def _inside(sch: Any, product: Any, out: Any, at: Any, rows: int = 0) -> None:
    """Compute the sums at a loop of the epilogue, in a buffer of a tile; or of several with so many rows each."""
    spatial, reduce = (len(axes) for axes in kinds_of(sch, product))
    sch.compute_at(product, at, preserve_unit_loops=True)
    sch.set_scope(product, 0, "local")
    loops = sch.get_loops(product)[-spatial - reduce :]
    inner = 1 if read_dtype(sch, product) in ("int32", PAIR) else 2
    tile, steps, terms = loops[:spatial], loops[spatial:-inner], loops[-inner:]
    over = []
    if rows:
        *front, p, v = tile
        tiles, p = sch.split(p, [None, rows])
        over, tile = [tiles], [*front, p, v]
    sch.reorder(*over, *steps, *tile, *terms)
    _mark(sch, product, tile, steps[0])
    sch.vectorize(sch.get_loops(out)[-1])


def _mark(sch: Any, product: Any, tile: list[Any], steps: Any) -> None:
    """Tell `tile_code` of the loops of a tile, and of the outermost one over the steps of its sums."""
    init = sch.decompose_reduction(product, steps)
    sch.annotate(sch.get_loops(init)[-len(tile)], MARK, INIT)
    sch.annotate(tile[0], MARK, STEP)
    sch.annotate(steps, MARK, STORE)
