"""Depthwise convolution and pooling: a thread sums the windows of neighbouring positions, a block of channels wide."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from optkit.kernel import Choice
from optkit.target import Target
from optkit_targets.cpu.kernels.tools import (
    REDUCE,
    View,
    divisors,
    extent,
    finish,
    inline_rest,
    kinds,
    look,
    read_dtype,
    same,
)
from optkit_targets.cuda.kernels.intrinsics import contract_products
from optkit_targets.cuda.kernels.tools import WARP, launch, load_stage, place_stage, unroll

THREADS = (64, 128, 256, 512)
SHORT = 4
"""Channels of a block: what a thread loads at once."""
MOST = 4
"""Positions of a thread."""
_UNROLLED = 49
"""Elements of the largest window whose loops are unrolled."""


class _WindowRule:
    """Takes functions with a block annotated `operator`."""

    name: str
    operator: str

    def choices(self, func: Any, target: Target) -> list[Choice] | None:
        """One template: `positions` neighbours along a row a thread, `threads` threads a block."""
        view = look(func)
        if self.operator not in view.ops:
            return None
        sch = view.sch
        dtype = read_dtype(sch, view.ops[self.operator])
        loops = sch.get_loops(view.last)
        sizes = [extent(sch, loop) for loop in loops]
        few = len(loops) >= 5 and sizes[-1] == SHORT and None not in sizes[2:] and dtype != "bfloat16"
        width = sizes[-2] if few else None
        space = {"threads": THREADS, "positions": divisors(width or 1, MOST) if few else (1,)}

        def apply(function: Any, chosen: Mapping[str, int]) -> Any:
            view = look(function)
            if few:
                return schedule_blocks(view, self.operator, chosen["threads"], chosen["positions"])
            return schedule(view, self.operator, chosen["threads"])

        params = {
            "threads": 128,
            "positions": _positions([size or 1 for size in sizes[:-1]], space["positions"], target.cores),
        }
        compute = "int8" if dtype == "uint8" else dtype
        return [Choice(self.name, "window", 2, params, space, apply, compute=compute)]


def _positions(sizes: Sequence[int], offered: Sequence[int], cores: int) -> int:
    """As many as leave every multiprocessor 16 warps."""
    return max((n for n in offered if math.prod(sizes) // n >= cores * 16 * WARP), default=1)


class DepthwiseRule(_WindowRule):
    """One filter a channel."""

    name, operator = "cuda.depthwise", "depthwise"


class PoolRule(_WindowRule):
    """Window and global maxima and sums."""

    name, operator = "cuda.pool", "pool"


def schedule_blocks(view: View, operator: str, threads: int, positions: int) -> Any:
    """Apply the template to activations in blocks of channels; padding is a condition on the read.

    Images and blocks of channels are thread blocks of their own: fused with positions, indices would be quotients
    that TVM cannot take apart again.
    """
    sch, window = view.sch, view.ops[operator]
    # Products become calls, which are no vectors: then what they read is loaded as one.
    products = read_dtype(sch, window) not in ("uint8", "int8") and len(sch.get(window).reads) > 1
    pad = view.ops.get("pad") if products else None
    inline_rest(view, [window, *([] if pad is None else [pad])])
    out = view.last
    if same(sch, out, window):
        out = sch.cache_write(window, 0, "local")
    n, c, *rows, x, v = sch.get_loops(out)
    xo, xi = sch.split(x, [None, positions])
    size = math.prod(extent(sch, loop) or 1 for loop in (*rows, xo))
    if size == 1:
        thread = launch(sch, [n, c], threads)
    else:
        block, thread = sch.split(sch.fuse(*rows, xo), [None, min(threads, -(-size // WARP) * WARP)])
        for loop, axis in ((sch.fuse(n, c), "blockIdx.x"), (block, "blockIdx.y"), (thread, "threadIdx.x")):
            sch.bind(loop, axis)
    sch.compute_at(window, thread, preserve_unit_loops=True)
    sch.set_scope(window, 0, "local")
    axes = sch.get(window).iter_vars
    loops = sch.get_loops(window)[-len(axes) :]
    steps = [loop for loop, axis in zip(loops, axes, strict=True) if axis.iter_type == REDUCE]
    xs, lane = [loop for loop, axis in zip(loops, axes, strict=True) if axis.iter_type != REDUCE][-2:]
    sch.reorder(*steps, xs, lane)
    if pad is not None:
        place_stage(sch, pad, xs, 1)
        sch.set_scope(pad, 0, "local")
    elif products:
        load_stage(sch, window, 0, xs, 1)
    if products:
        load_stage(sch, window, 1, xs, 1)
    if math.prod(extent(sch, step) or _UNROLLED + 1 for step in steps) <= _UNROLLED:
        unroll(sch, steps)
    sch.unroll(xs)
    (sch.unroll if products else sch.vectorize)(lane)
    first, last = sch.get_loops(sch.decompose_reduction(window, steps[0]))[-2:]
    for outer, inner in ((first, last), (xi, v)):
        sch.unroll(outer)
        sch.vectorize(inner)
    return contract_products(finish(sch))


def schedule(view: View, operator: str, threads: int) -> Any:
    """Apply the template to anything else: one element a thread."""
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
