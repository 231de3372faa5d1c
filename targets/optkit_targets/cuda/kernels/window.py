"""Depthwise convolution and pooling: a thread sums the windows of neighbouring positions, four channels wide."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tvm import DataType
from tvm.s_tir import Schedule

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
from optkit_targets.cuda.kernels.tools import (
    WARP,
    bounded,
    largest,
    launch,
    launch_open,
    load_stage,
    place_stage,
    unroll,
)

THREADS = (64, 128, 256, 512)
SHORT = 4
"""Channels that a thread loads at once."""
MOST = 4
"""Positions of a thread."""
_UNROLLED = 49
"""Elements of the largest window whose loops are unrolled."""
_REGISTERS = 48
"""32-bit registers that what a thread's windows read may take."""
_STEPS = 8
"""Loads in flight of a thread that walks through an image."""
_DEEP = 64
"""The most threads along the third axis of a thread block."""


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
        # The window itself may be what is written: then its own steps come after.
        sizes = [extent(sch, loop) for loop in kinds(sch, view.last)[0]]
        blocks = len(sizes) >= 5 and (None not in sizes[1:] or (len(sizes) == 5 and sizes[1] is not None))
        few = blocks and (sizes[-1] or 1) % SHORT == 0 and dtype != "bfloat16"
        width = sizes[-2] if few else None
        space = {"threads": THREADS, "positions": divisors(width or 1, MOST) if few else (1,)}

        def apply(function: Any, chosen: Mapping[str, int]) -> Any:
            view = look(function)
            if few:
                return schedule_blocks(view, self.operator, chosen["threads"], chosen["positions"])
            return schedule(view, self.operator, chosen["threads"])

        # Threads of a warp then read words side by side: more positions share taps, and scatter what a warp reads.
        params = {"threads": 128, "positions": 1}
        compute = "int8" if dtype == "uint8" else dtype
        return [Choice(self.name, "window", 3, params, space, apply, compute=compute)]


class DepthwiseRule(_WindowRule):
    """One filter a channel."""

    name, operator = "cuda.depthwise", "depthwise"


class PoolRule(_WindowRule):
    """Window and global maxima and sums."""

    name, operator = "cuda.pool", "pool"


def schedule_blocks(view: View, operator: str, threads: int, positions: int) -> Any:
    """Apply the template to activations in blocks of channels, four of them a thread.

    Axes of the thread block divide those of the output, so that no thread is idle and no index a quotient: behind a
    condition of its own every load would wait for the one before. Padding is a condition on the read.
    """
    sch, window = view.sch, view.ops[operator]
    # Products become calls, which are no vectors: then what they read is loaded as one.
    products = read_dtype(sch, window) not in ("uint8", "int8") and len(sch.get(window).reads) > 1
    alone = all(extent(sch, loop) == 1 for loop in kinds(sch, view.last)[0][2:-1])
    if operator == "pool" and alone and len(sch.get(window).reads) == 1:
        return schedule_whole(view, window, threads)
    pad = view.ops.get("pad")
    inline_rest(view, [window, *([] if pad is None else [pad])])
    out = view.last
    if same(sch, out, window):
        out = sch.cache_write(window, 0, "local")
    n, c, *rows, x, v = sch.get_loops(out)
    xo, xi = sch.split(x, [None, positions])
    quarter, v = sch.split(v, [None, SHORT])
    sch.reorder(xo, quarter, xi, v)
    thread = _bind(sch, [n, c], rows, sch.fuse(xo, quarter), threads)
    sch.compute_at(window, thread, preserve_unit_loops=True)
    sch.set_scope(window, 0, "local")
    axes = sch.get(window).iter_vars
    loops = sch.get_loops(window)[-len(axes) :]
    steps = [loop for loop, axis in zip(loops, axes, strict=True) if axis.iter_type == REDUCE]
    xs, lane = [loop for loop, axis in zip(loops, axes, strict=True) if axis.iter_type != REDUCE][-2:]
    sch.reorder(*steps, xs, lane)
    small = math.prod(extent(sch, step) or _UNROLLED + 1 for step in steps) <= _UNROLLED
    if small:
        unroll(sch, steps)
    # What is read is read together, the whole window or a row of it, so that one wait is for all.
    words = SHORT * DataType(read_dtype(sch, window)).bits // 32 * (2 if products else 1)
    reach = [extent(sch, step) or _REGISTERS for step in steps]
    reach[-1] += positions - 1
    places = [(thread, math.prod(reach)), *([(steps[-2], reach[-1])] if len(steps) > 1 else [])]
    at = next((place for place, count in places if small and count * words <= _REGISTERS), xs)
    if pad is not None:
        place_stage(sch, pad, at, 1)
        sch.set_scope(pad, 0, "local")
    else:
        load_stage(sch, window, 0, at, 1)
    if products:
        load_stage(sch, window, 1, at, 1)
    sch.unroll(xs)
    (sch.unroll if products else sch.vectorize)(lane)
    first, last = sch.get_loops(sch.decompose_reduction(window, steps[0]))[-2:]
    for outer, inner in ((first, last), (xi, v)):
        sch.unroll(outer)
        sch.vectorize(inner)
    return contract_products(bounded(finish(sch)))


def _bind(sch: Schedule, lead: list[Any], rows: list[Any], x: Any, threads: int) -> Any:
    """Spread (images, blocks of channels), rows and positions of a row over threads; returns the innermost loop.

    Where no useful number of threads divides a long row, some of its last ones are idle.
    """
    n, c = lead
    y = sch.fuse(*rows) if len(rows) > 1 else rows[0]
    if extent(sch, x) is None or extent(sch, y) is None:
        return launch_open(sch, n, c, y, x, threads)
    wide = extent(sch, x) or 1
    across = largest(wide, threads)
    xb, xt = sch.split(x, [None, across if across >= min(wide, WARP) else threads])
    yb, yt = sch.split(y, [None, largest(extent(sch, y) or 1, max(1, threads // (extent(sch, xt) or 1)))])
    left = threads // ((extent(sch, xt) or 1) * (extent(sch, yt) or 1))
    cb, ct = sch.split(c, [None, largest(extent(sch, c) or 1, min(_DEEP, max(1, left)))])
    sch.reorder(n, cb, yb, xb, ct, yt, xt)
    for loop, axis in ((sch.fuse(n, cb), "blockIdx.x"), (sch.fuse(yb, xb), "blockIdx.y")):
        sch.bind(loop, axis)
    for loop, axis in ((ct, "threadIdx.z"), (yt, "threadIdx.y"), (xt, "threadIdx.x")):
        sch.bind(loop, axis)
    return xt


def schedule_whole(view: View, window: Any, threads: int) -> Any:
    """Apply the template to windows as large as the image: a warp divides one among its lanes, four channels wide."""
    sch = view.sch
    inline_rest(view, [window])
    out = None if same(sch, view.last, window) else view.last
    spatial, taps = kinds(sch, window)
    _, lane = sch.split(sch.fuse(*taps) if len(taps) > 1 else taps[0], [None, WARP])
    part = sch.rfactor(lane, len(spatial) - 1)
    # From the parts on: moved to the sums, they would lose the condition that the last positions are inside.
    n, *group, v, step, lane = sch.get_loops(part)
    quarter, v = sch.split(v, [None, SHORT])
    block = sch.fuse(*group, quarter)
    cb, ct = sch.split(block, [None, largest(extent(sch, block) or 1, threads // WARP)])
    for loop, axis in ((sch.fuse(n, cb), "blockIdx.x"), (ct, "threadIdx.y"), (lane, "threadIdx.x")):
        sch.bind(loop, axis)
    step, few = sch.split(step, [None, min(_STEPS, extent(sch, step) or _STEPS)])
    sch.reorder(lane, step, few, v)
    sch.unroll(few)
    sch.vectorize(v)
    sch.vectorize(sch.get_loops(sch.decompose_reduction(part, step))[-1])
    sch.set_scope(part, 0, "local")
    sch.reverse_compute_at(window, ct, preserve_unit_loops=True)
    lane, *ones, v = sch.get_loops(window)[2:]
    sch.reorder(*ones, v, lane)  # TVM reduces across threads where nothing is inside
    sch.bind(lane, "threadIdx.x")
    if out is not None:
        sch.set_scope(window, 0, "local")
        sch.reverse_compute_at(out, ct, preserve_unit_loops=True)
        sch.vectorize(sch.get_loops(out)[-1])
    return finish(sch)


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
