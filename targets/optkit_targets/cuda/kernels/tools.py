"""Schedule steps that the GPU templates share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import tvm
import tvm_ffi
from tvm import DataType, tirx
from tvm.s_tir import Schedule

from optkit_targets.cpu.kernels.tools import divisors, extent, read_dtype
from optkit_targets.cuda.kernels.device_code import around

MAX_THREADS = 1024
"""Threads a block may have on every GPU since compute capability 2.0."""
WARP = 32
LOAD_BITS = 128
"""The widest load there is."""
_MOST = 2**30
"""Elements along an axis of open extent, in registers, where TVM has yet to find out that few are used."""


def launch(sch: Schedule, loops: Sequence[Any], threads: int = 256) -> Any:
    """Fuse adjacent spatial loops and spread them over blocks of `threads` threads; returns the thread's loop."""
    fused = sch.fuse(*loops) if len(loops) > 1 else loops[0]
    size = extent(sch, fused)
    if size is not None:
        # As many as there are of few: TVM holds a thread back from what it has beside a single element, but lets it
        # write that where the element was computed in a register.
        threads = min(threads, size if size < WARP else -(-size // WARP) * WARP)
    block, thread = sch.split(fused, [None, threads])
    sch.bind(block, "blockIdx.x")
    sch.bind(thread, "threadIdx.x")
    return thread


def launch_open(sch: Schedule, n: Any, block: Any, y: Any, x: Any, threads: int, *between: Any) -> Any:
    """Spread images of open size over thread blocks of a few rows, or pieces of them; returns the thread's loop.

    A place is no quotient by an open extent, of which TVM takes none for a reduction's, and only an image's second open
    extent and the batch are held to the fewer thread blocks of a grid's other axes.

    Args:
        n, block, y, x: loops over images, blocks of channels, rows and positions of a row.
        between: loops to be inside of the thread blocks', and outside of the thread's.
    """
    across = min(extent(sch, x) or WARP, WARP)
    xb, xt = sch.split(x, [None, across])
    yb, yt = sch.split(y, [None, max(1, threads // across)])
    known = [loop for loop in (yb, xb) if extent(sch, loop) is not None]
    first, *second = [loop for loop in (yb, xb) if extent(sch, loop) is None]
    sch.reorder(n, *second, first, *known, block, *between, yt, xt)
    for loop, axis in zip((sch.fuse(first, *known, block), *second), ("blockIdx.x", "blockIdx.y"), strict=False):
        sch.bind(loop, axis)
    sch.bind(n, "blockIdx.z")
    thread = sch.fuse(yt, xt)
    sch.bind(thread, "threadIdx.x")
    return thread


def unroll(sch: Schedule, loops: Iterable[Any]) -> None:
    """Unroll loops whose bodies index registers."""
    for loop in loops:
        sch.unroll(loop)


def largest(n: int, most: int) -> int:
    """The largest divisor of n up to `most`.

    >>> largest(14, 4)
    2
    """
    return divisors(n, most)[-1]


def bounded(func: Any) -> Any:
    """The function with tensors in registers as large in open extents as can be, before TVM makes them what is used.

    It would make them the smaller of that and the extent, which nobody knows.
    """
    root = func.body.block
    wide = [(buffer, _bounded(buffer)) for buffer in root.alloc_buffers if _open(buffer)]
    if not wide:
        return func

    def replaced(buffer: Any) -> Any:
        return next((new for old, new in wide if old.same_as(buffer)), buffer)

    def load(node: Any) -> Any:
        return tirx.BufferLoad(replaced(node.source), node.indices)

    def region(node: Any) -> Any:
        return tirx.BufferRegion(replaced(node.source), node.region)

    def store(node: Any) -> Any:
        return tirx.BufferStore(replaced(node.buffer), node.value, node.indices)

    maps = [(tvm.ir.TensorLoad, load), (tvm.ir.TensorRegion, region), (tirx.BufferStore, store)]
    body = tvm_ffi.structural_map(root.body, maps)
    return func.with_body(around(func.body, body, [replaced(buffer) for buffer in root.alloc_buffers]))


def _open(buffer: Any) -> bool:
    return buffer.scope() == "local" and not all(isinstance(d, (int, tirx.IntImm)) for d in buffer.shape)


def _bounded(buffer: Any) -> Any:
    extents = [d if isinstance(d, (int, tirx.IntImm)) else tirx.const(_MOST, d.ty.dtype) for d in buffer.shape]
    return tirx.decl_buffer(extents, str(buffer.dtype), buffer.name, scope="local")


def staged(sch: Schedule, block: Any) -> bool:
    """Whether operands of `block` pass through registers of their own.

    TVM's legalization of bfloat16 leaves buffers of it inside a kernel with values of another type, so that
    such operands are read where they are used.
    """
    return read_dtype(sch, block) != "bfloat16"


def load_stage(sch: Schedule, block: Any, index: int, at: Any, vector: int) -> Any:
    """Read operand `index` of `block` into registers at loop `at`, `vector` innermost axes in one load."""
    stage = sch.cache_read(block, index, "local")
    place_stage(sch, stage, at, vector)
    return stage


def place_stage(sch: Schedule, stage: Any, at: Any, vector: int) -> None:
    """Compute `stage` at `at` and load its `vector` innermost axes at once, the others unrolled.

    No load is of more than 128 bits; CUDA has no vector of 16 halves either.
    """
    sch.compute_at(stage, at, preserve_unit_loops=True)
    loops = sch.get_loops(stage)[-len(sch.get(stage).iter_vars) :]
    inner = sch.fuse(*loops[-vector:]) if vector > 1 else loops[-1]
    most = LOAD_BITS // DataType(read_dtype(sch, stage)).bits
    size = extent(sch, inner) or 0
    if size > most and size % most == 0:
        outer, inner = sch.split(inner, [None, most])
        sch.unroll(outer)
    # CUDA has no vector of three halves.
    if extent(sch, inner) in (2, 4, 8, 16):
        sch.vectorize(inner)
    else:
        sch.unroll(inner)
    unroll(sch, loops[:-vector])
