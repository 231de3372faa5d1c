"""Convolution over images of open size: the register tiles of `conv`, an unknown number of them a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optkit.kernel import Choice
from optkit.target import Target
from optkit_targets.cpu.kernels.tile import register_tile
from optkit_targets.cpu.kernels.tools import (
    View,
    annotation,
    arithmetic,
    divisors,
    extent,
    finish,
    look,
    parallel,
    schedule_pad,
)


class OpenConvRule:
    """Takes functions with a block annotated "conv_tiles" or "depthwise_tiles"."""

    name = "cpu.open_conv"

    def choices(self, func: Any, target: Target) -> list[Choice] | None:
        """One template; how many output channel blocks a tile has is its parameter."""
        view = look(func)
        kind = next((k for k in ("conv_tiles", "depthwise_tiles") if k in view.ops), None)
        if kind is None:
            return None
        sch, block = view.sch, view.ops[kind]
        blocks = extent(sch, sch.get_loops(block)[1])
        if blocks is None:
            return None
        dense = kind == "conv_tiles"
        params = {"blocks": int(annotation(sch, block, "optkit.blocks")) if dense else 1}
        space = {"blocks": divisors(blocks, 4)}
        dtype = arithmetic(sch, block)

        def apply(function: Any, chosen: Mapping[str, int]) -> Any:
            return schedule(look(function), kind, chosen["blocks"], target)

        return [Choice(self.name, kind, 1, params, space, apply, compute=dtype)]


def schedule(view: View, kind: str, blocks: int, target: Target) -> Any:
    """Apply the template."""
    sch, product = view.sch, view.ops[kind]
    axes = len(sch.get(product).iter_vars)
    store = sch.cache_write(product, 0, "local")
    n, c, y, t, r, v = sch.get_loops(store)
    co, ci = sch.split(c, [None, blocks])
    sch.reorder(n, co, y, t, ci, r, v)
    parallel(sch, n, co, y)
    sch.compute_at(product, t, preserve_unit_loops=True)
    loops = sch.get_loops(product)[-axes:]
    if kind == "conv_tiles":
        register_tile(sch, product, store, (loops[1], loops[4], loops[5]), loops[6:], target)
    else:
        _taps(sch, product, store, loops)
    schedule_pad(sch, view.ops["pad"])
    return finish(sch)


def _taps(sch: Any, product: Any, store: Any, loops: list[Any]) -> None:
    """A depthwise tile: taps outside, positions unrolled, channels a vector."""
    row, lane, ky, kx = loops[4:]
    sch.reorder(ky, kx, row, lane)
    sch.vectorize(lane)
    init = sch.decompose_reduction(product, ky)
    for loop in (row, kx, ky):
        sch.unroll(loop)
    for block in (store, init):
        *_, r, v = sch.get_loops(block)
        sch.vectorize(v)
        sch.unroll(r)
