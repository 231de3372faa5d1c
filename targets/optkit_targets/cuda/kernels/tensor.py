"""What the tensor-core templates share: a thread block's tile is summed by device code and finished by its threads.

The sums are device code (`device/tensor_core.cuh`), which needs whole tiles and nothing else: it guards what lies
outside. What is fused behind reads them from shared memory, four neighbouring channels a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.tirx import op

from optkit.target import Target
from optkit_targets.cpu.kernels.tools import finish

THREADS = 128
SHORT = 4
"""Channels of a block."""
STEP = {"uint8": 32, "float16": 16}
"""Terms that one instruction sums."""
GROUP = {"uint8": 4, "float16": 2}
"""Terms in a word."""
WEIGHT = {"uint8": "int8", "float16": "float16"}
SUM = {"uint8": "int", "float16": "float"}
SPACE = {"rows": (64, 128), "columns": (32, 64)}
_TILES = ((128, 64), (64, 64), (64, 32))
"""Rows x columns, the most work a word read first."""


def has_tensor_cores(target: Target) -> bool:
    """Whether the device code runs there: the instructions came with compute capability 8.0."""
    return target.has("tensor_core") and target.has("async_copy")


def tile_size(batch: int, rows: int, columns: int, cores: int) -> dict[str, int]:
    """The largest tile of which there is one for every multiprocessor, else the smallest."""
    for down, across in _TILES:
        if batch * -(-rows // down) * -(-columns // across) >= cores:
            break
    return {"rows": down, "columns": across}


@dataclass(frozen=True)
class Sums:
    """Where a scheduled function computes its sums, and what is to do it.

    Attributes:
        name: of the device function.
        block: the block's new name.
        outermost: variable of the outermost loop around the sums alone.
        across, down: variables of the tile's column and row.
        rows, columns: the tile's size.
        index: channel block, row and channel in the block, from the indices of the sums' tensor.
        image: leading indices of the data that the tile reads.
    """

    name: str
    block: str
    outermost: Any
    across: Any
    down: Any
    rows: int
    columns: int
    index: Callable[[Sequence[Any]], tuple[Any, Any, Any]]
    image: tuple[Any, ...] = ()


def use_device_code(sch: Any, sums: Sums) -> Any:
    """The function with the loops of its sums replaced by the device function, and their tensor by the tile.

    The sums' tensor is the only one in shared memory, its block reads data and weights.
    """
    func = finish(sch)
    root = func.body.block
    (tensor,) = [buffer for buffer in root.alloc_buffers if buffer.scope() == "shared"]
    wide = sums.across.ty.dtype
    # A row more than there is, which keeps threads that read down or across it off each other's banks.
    tile = tirx.decl_buffer((sums.columns // SHORT, sums.rows + 1, SHORT), str(tensor.dtype), "tile", scope="shared")

    def const(value: int) -> Any:
        return tirx.const(value, wide)

    column, row = sums.across * const(sums.columns // SHORT), sums.down * const(sums.rows)

    def moved(indices: Sequence[Any]) -> list[Any]:
        o, p, v = sums.index(indices)
        return [o - column, p - row, v]

    def pointer(buffer: Any, lead: tuple[Any, ...] = ()) -> Any:
        return op.address_of(tirx.BufferLoad(buffer, [*lead, *[const(0)] * (len(buffer.shape) - len(lead))]))

    def loops(node: Any) -> Any:
        if not node.loop_var.same_as(sums.outermost):
            return node
        found: list[Any] = []
        tvm_ffi.structural_walk(node, [(s_tir.SBlock, found.append)])
        data, weights = (read.source for read in found[0].reads)
        numbers = [tirx.Cast("int32", value) for value in (column, row)]
        pointers = pointer(tile), pointer(data, sums.image), pointer(weights)
        call = op.call_extern("int32", sums.name, *pointers, *numbers)
        whole = [tirx.BufferRegion(b, [tvm.ir.Range(0, n) for n in b.shape]) for b in (data, weights, tile)]
        block = s_tir.SBlock([], whole[:2], whole[2:], sums.block, tirx.Evaluate(call))
        binding = tirx.IterVar(None, tirx.Var("", wide), tirx.IterVar.ThreadIndex, "threadIdx.x")
        realize = s_tir.SBlockRealize([], tirx.const(True, "bool"), block)
        thread = tirx.Var("thread", wide)
        return tirx.For(thread, const(0), const(THREADS), tirx.ForKind.THREAD_BINDING, realize, binding)

    def load(node: Any) -> Any:
        return tirx.BufferLoad(tile, moved(node.indices)) if node.source.same_as(tensor) else node

    def region(node: Any) -> Any:
        if not node.source.same_as(tensor):
            return node
        starts, extents = moved([r.min for r in node.region]), sums.index([r.extent for r in node.region])
        ranges = [tvm.ir.Range.from_min_extent(a, b) for a, b in zip(starts, extents, strict=True)]
        return tirx.BufferRegion(tile, ranges)

    body = tvm_ffi.structural_map(root.body, [(tirx.For, loops)])
    body = tvm_ffi.structural_map(body, [(tvm.ir.TensorLoad, load), (tvm.ir.TensorRegion, region)])
    buffers = [tile if b.same_as(tensor) else b for b in root.alloc_buffers]
    block = s_tir.SBlock(root.iter_vars, root.reads, root.writes, root.name_hint, body, root.init, buffers)
    return func.with_body(s_tir.SBlockRealize(func.body.iter_values, func.body.predicate, block))
