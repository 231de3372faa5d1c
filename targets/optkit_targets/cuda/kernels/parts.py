"""Sums of which thread blocks compute a part each: one kernel leaves the parts in global memory, another adds them up.

For deep sums of small tensors, whose tiles are fewer than multiprocessors. The second kernel also computes what is
fused behind. Sums of floats are added in the same order in every run.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx

from optkit_targets.cpu.kernels.tools import finish
from optkit_targets.cuda.kernels.device_code import (
    SHORT,
    Call,
    around,
    bound,
    calling,
    opaque,
    tile_of,
    whole_of,
    without,
)
from optkit_targets.cuda.kernels.tools import launch


@dataclass(frozen=True)
class Shared:
    """What thread blocks share.

    Attributes:
        parts: how many share a tile.
        extents: images, blocks of channels and positions.
        index: image, block, position and channel from the indices of the sums' tensor.
        columns_outside: whether positions lie side by side, rather than blocks.
    """

    parts: int
    extents: tuple[int, int, int]
    index: Callable[[Sequence[Any]], tuple[Any, Any, Any, Any]]
    columns_outside: bool

    def place(self, part: Any, image: Any, block: Any, position: Any, channel: Any) -> list[Any]:
        """Where the sum lies in the tensor of all parts."""
        inner = (block, position) if self.columns_outside else (position, block)
        return [part, image, *inner, channel]


def compute_parts(sch: Any, block: Any, call: Call, shared: Shared, loops: Sequence[Any], channels: Any) -> Any:
    """The function as two kernels.

    Args:
        block: with the sums.
        call: of the device code, which is told its part first.
        loops: of the output, which threads of the second kernel are spread over.
        channels: the innermost loop, over the channels of a block.
    """
    launch(sch, loops)
    sch.vectorize(channels)
    sums = sch.get(block).writes[0].source
    func = finish(sch)
    root = func.body.block
    dtype = str(sums.dtype)
    parts = tirx.decl_buffer(shared.place(shared.parts, *shared.extents, SHORT), dtype, "parts")
    tile = tile_of(call, dtype)

    def load(node: Any) -> Any:
        if not node.source.same_as(sums):
            return node
        place = shared.index(node.indices)
        return functools.reduce(
            operator.add, (tirx.BufferLoad(parts, shared.place(part, *place)) for part in range(shared.parts))
        )

    def region(node: Any) -> Any:
        return whole_of(parts) if node.source.same_as(sums) else node

    second = without(root.body, root.alloc_buffers)
    second = tvm_ffi.structural_map(second, [(tvm.ir.TensorLoad, load), (tvm.ir.TensorRegion, region)])
    body = tirx.SeqStmt([_first(call, shared, tile, parts), second])
    return func.with_body(around(func.body, body, [tile, parts]))


def _first(call: Call, shared: Shared, tile: Any, parts: Any) -> Any:
    """The kernel that leaves the parts of the sums."""
    images, blocks, positions = shared.extents
    down, across, deep = (tirx.Var(name, "int32") for name in ("down", "across", "deep"))
    part, image = deep % shared.parts, deep // shared.parts
    mine = replace(call, numbers=lambda _: (tirx.Cast("int32", part),))
    sums = calling(mine, tile, across * call.columns, down * call.rows, [image])
    left = _leave(call, shared, tile, parts, (part, image, across, down))
    grid = bound("blockIdx.x", down, -(-positions // call.rows), tirx.SeqStmt([sums, left]))
    grid = bound("blockIdx.y", across, -(-blocks * SHORT // call.columns), grid)
    return bound("blockIdx.z", deep, images * shared.parts, grid)


def _leave(call: Call, shared: Shared, tile: Any, parts: Any, at: tuple[Any, Any, Any, Any]) -> Any:
    """A thread block's loop over its threads, which write the tile that lies in shared memory to their part."""
    part, image, across, down = at
    _, blocks, positions = shared.extents
    wide, rows = call.columns // SHORT, call.rows
    thread, turn, channel = (tirx.Var(name, "int32") for name in ("thread", "turn", "channel"))
    item = turn * call.threads + thread
    o, p = (item // rows, item % rows) if shared.columns_outside else (item % wide, item // wide)
    block, position = across * wide + o, down * rows + p
    value = tirx.BufferLoad(tile, [o, p, channel])
    store = tirx.BufferStore(parts, value, shared.place(part, image, block, position, channel))
    vector = tirx.For(channel, 0, SHORT, tirx.ForKind.VECTORIZED, store)
    inside = tirx.all(block < blocks, position < positions, item < wide * rows)
    turns = tirx.For(
        turn, 0, -(-wide * rows // call.threads), tirx.ForKind.SERIAL, tirx.IfThenElse(inside, vector, None)
    )
    read = s_tir.SBlock([], [whole_of(tile)], [whole_of(parts)], "parts", turns)
    return bound("threadIdx.x", thread, call.threads, opaque(read))
