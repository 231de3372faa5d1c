"""Direct and pointwise convolution: a thread holds a tile of positions x output channel blocks in registers.

Threads of a warp are neighbouring positions: their input words lie side by side, and all of them read the
same weights. Every step of the reduction loads one vector of input a position and one of weights an output
block into registers; with bytes, one dp4a takes a step of four channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optkit.kernel import Choice
from optkit.target import Target
from optkit_targets.cpu.kernels.tools import View, divisors, extent, finish, inline_rest, kinds, look, read_dtype
from optkit_targets.cuda.kernels.intrinsics import contract_products, use_dp4a
from optkit_targets.cuda.kernels.tools import (
    WARP,
    bounded,
    largest,
    launch_open,
    load_stage,
    place_stage,
    staged,
    unroll,
)

_POSITIONS = 64 * 64
"""Of an image of open size, as if there were so many."""


class ConvRule:
    """Takes functions with a block annotated "conv"."""

    name = "cuda.conv"

    def choices(self, func: Any, target: Target) -> list[Choice] | None:
        """One template: `rows` positions and `blocks` channel blocks a thread, `warps` warps a thread block."""
        view = look(func)
        if "conv" not in view.ops:
            return None
        sch, conv = view.sch, view.ops["conv"]
        spatial, reduce = kinds(sch, conv)
        _, c, y, x, _ = (extent(sch, loop) for loop in sch.get_loops(view.last))
        if c is None:
            return None
        if y is None or x is None:
            y, x = _POSITIONS, 1  # one a thread
        # A grouped convolution's output blocks start at input blocks of their own.
        whole = extent(sch, reduce[0]) == int(sch.get(conv).reads[0].source.shape[1])
        params = _tile(c if whole else 1, x, y * x, target.cores)
        space = {"rows": divisors(x, 8), "blocks": divisors(c, 8) if whole else (1,), "warps": (1, 2, 4, 8)}
        dtype = read_dtype(sch, conv)
        dot = dtype == "uint8" and extent(sch, reduce[-1]) == 4 and target.has("int8_dot")

        def apply(function: Any, chosen: Mapping[str, int]) -> Any:
            return schedule(look(function), chosen, dot)

        template = "pointwise" if len(spatial) == 4 else "direct"
        return [Choice(self.name, template, 1, params, space, apply, compute="int8" if dtype == "uint8" else dtype)]


def _tile(blocks: int, width: int, positions: int, cores: int) -> dict[str, int]:
    """The largest tile of up to 4 x 4 that leaves every multiprocessor four warps, else the one with most threads."""
    best = {"rows": 1, "blocks": 1, "warps": 4}
    for rows in divisors(width, 4):
        for columns in divisors(blocks, 4):
            threads = positions // rows * (blocks // columns)
            if rows * columns > best["rows"] * best["blocks"] and threads >= cores * 4 * WARP:
                best = {"rows": rows, "blocks": columns, "warps": 4}
    return best


def schedule(view: View, params: Mapping[str, int], dot: bool) -> Any:
    """Apply the template."""
    sch, conv, pad = view.sch, view.ops["conv"], view.ops.get("pad")
    axes = len(sch.get(conv).iter_vars)
    _, reduce = kinds(sch, conv)
    steps = len(reduce)
    stages = staged(sch, conv)
    if not stages:
        pad = None
    inline_rest(view, [conv] if pad is None else [conv, pad])
    out = view.last
    n, c, y, x, v = sch.get_loops(out)
    co, ci = sch.split(c, [None, params["blocks"]])
    xo, xi = sch.split(x, [None, params["rows"]])
    sch.reorder(n, co, y, xo, ci, xi, v)
    warps = largest(extent(sch, co) or 1, params["warps"])
    cb, ct = sch.split(co, [None, warps])
    if extent(sch, y) is None or extent(sch, xo) is None:
        pt = launch_open(sch, n, cb, y, xo, WARP, ct)
    else:
        pb, pt = sch.split(sch.fuse(y, xo), [None, WARP])
        sch.reorder(n, cb, pb, ct, pt)
        for loop, axis in ((n, "blockIdx.z"), (cb, "blockIdx.y"), (pb, "blockIdx.x"), (pt, "threadIdx.x")):
            sch.bind(loop, axis)
    sch.bind(ct, "threadIdx.y")
    sch.compute_at(conv, pt, preserve_unit_loops=True)
    sch.set_scope(conv, 0, "local")
    inner = sch.get_loops(conv)[-axes:]
    spatial, reduce = inner[:-steps], inner[-steps:]
    tile = (spatial[1], spatial[-2], spatial[-1])
    *outer, channels, four = reduce
    sch.reorder(*outer, channels, *tile, four)
    # The input vector of a step holds the channels of all its groups of four.
    if pad is not None:
        place_stage(sch, pad, outer[-1], 1)
        sch.set_scope(pad, 0, "local")
    elif stages:
        load_stage(sch, conv, 0, outer[-1], 1)
    if stages:
        load_stage(sch, conv, 1, channels, 2)
    unroll(sch, (channels, *tile))
    init = sch.decompose_reduction(conv, outer[0])
    unroll(sch, sch.get_loops(init)[-3:])
    unroll(sch, (ci, xi, v))
    func = bounded(finish(sch))
    return use_dp4a(func) if dot else contract_products(func)
