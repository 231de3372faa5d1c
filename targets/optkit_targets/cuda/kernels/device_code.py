"""A thread block's tile, computed by device code and finished by the block's threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.tirx import op

from optkit_targets.cpu.kernels.tools import finish

SHORT = 4
"""Channels of a block."""
BLOCK = "tensor_core"
"""Name of the block that calls device code."""


@dataclass(frozen=True)
class Call:
    """A call of device code: what sums a tile.

    Attributes:
        name: of the device function.
        rows, columns: of the tile.
        planes: of (rows + 1) x 4 words that it works in.
        threads: of a thread block.
        scope: of the memory.
        operands: the operands as pointers, from the variables of `compute_tiles`' loops over the batch.
        numbers: from the same, more arguments, before the tile's first column and row.
        last: arguments behind these.
        places: more pointers, behind all.
    """

    name: str
    rows: int
    columns: int
    planes: int
    threads: int
    scope: str
    operands: Callable[[Sequence[Any]], Sequence[tuple[Any, Sequence[Any]]]]
    numbers: Callable[[Sequence[Any]], Sequence[Any]]
    last: Sequence[Any] = ()
    places: Sequence[tuple[Any, Sequence[Any]]] = ()


def compute_tiles(
    sch: Any,
    block: Any,
    call: Call,
    loops: tuple[Any, Any, Sequence[Any], Any],
    index: Callable[[Sequence[Any]], tuple[Any, Any, Any]],
    batch: tuple[Any, ...] = (),
) -> Any:
    """The function with a tile a thread block, its sums by device code.

    Args:
        loops: of the output: over tiles across and down, over a tile's elements in the threads' order, and over four
            channels.
        index: four of channels, row and channel, from the indices of the sums' tensor.
        batch: loops around tiles, bound to threads already.
    """
    across, down, inner, channels = loops
    sch.bind(across, "blockIdx.y")
    sch.bind(down, "blockIdx.x")
    sch.compute_at(block, down, preserve_unit_loops=True)
    sch.set_scope(block, 0, "shared")
    _, thread = sch.split(sch.fuse(*inner), [None, call.threads])
    sch.bind(thread, "threadIdx.x")
    sch.vectorize(channels)
    column, row, *lead = (sch.get(loop).loop_var for loop in (across, down, *batch))
    around = [sch.get(loop).loop_var for loop in sch.get_loops(block)]
    place = next(i for i, variable in enumerate(around) if variable.same_as(row))
    return use_device_code(sch, Sums(call, around[place + 1], column, row, index, tuple(lead)))


@dataclass(frozen=True)
class Sums:
    """Where a scheduled function computes its sums, and what is to do it.

    Attributes:
        call: of the device code.
        outermost: variable of the outermost loop around the sums alone.
        across, down: variables of the tile's column and row.
        index: four of channels, row and channel of the four, from the indices of the sums' tensor.
        batch: variables of the loops around tiles.
    """

    call: Call
    outermost: Any
    across: Any
    down: Any
    index: Callable[[Sequence[Any]], tuple[Any, Any, Any]]
    batch: tuple[Any, ...]


def use_device_code(sch: Any, sums: Sums) -> Any:
    """The function with the loops of its sums replaced by the device function, and their tensor by the tile.

    The sums' tensor is the only one in shared memory. Whatever computes nothing else than what the sums read from
    inside the function goes.
    """
    func = finish(sch)
    root, code = func.body.block, sums.call
    (tensor,) = [buffer for buffer in root.alloc_buffers if buffer.scope() == "shared"]
    gone = [buffer for buffer in root.alloc_buffers if not buffer.same_as(tensor)]
    wide = sums.across.ty.dtype
    tile = tile_of(code, str(tensor.dtype))
    column, row = (v * tirx.const(n, wide) for v, n in ((sums.across, code.columns), (sums.down, code.rows)))
    first = sums.across * tirx.const(code.columns // SHORT, wide)

    def moved(indices: Sequence[Any]) -> list[Any]:
        o, p, v = sums.index(indices)
        return [o - first, p - row, v]

    def loops(node: Any) -> Any:
        if not node.loop_var.same_as(sums.outermost):
            return node
        return calling(code, tile, column, row, sums.batch)

    def load(node: Any) -> Any:
        return tirx.BufferLoad(tile, moved(node.indices)) if node.source.same_as(tensor) else node

    def region(node: Any) -> Any:
        if not node.source.same_as(tensor):
            return node
        starts, extents = moved([r.min for r in node.region]), sums.index([r.extent for r in node.region])
        ranges = [tvm.ir.Range.from_min_extent(a, b) for a, b in zip(starts, extents, strict=True)]
        return tirx.BufferRegion(tile, ranges)

    whole = without(root.body, gone) if gone else root.body
    body = tvm_ffi.structural_map(whole, [(tirx.For, loops)])
    body = tvm_ffi.structural_map(body, [(tvm.ir.TensorLoad, load), (tvm.ir.TensorRegion, region)])
    return func.with_body(around(func.body, body, [tile]))


def tile_of(code: Call, dtype: str) -> Any:
    """The memory that a call works in, and leaves its tile in."""
    # A row more than there is, which keeps threads that read down or across it off each other's banks.
    return tirx.decl_buffer((code.planes, code.rows + 1, SHORT), dtype, "tile", scope=code.scope)


def calling(code: Call, tile: Any, column: Any, row: Any, batch: Sequence[Any]) -> Any:
    """A thread block's loop over its threads, all of which call the device code.

    Args:
        column, row: first of the tile.
        batch: variables that the operands are found by.
    """
    wide = column.ty.dtype

    def const(value: int) -> Any:
        return tirx.const(value, wide)

    def pointer(buffer: Any, lead: Sequence[Any] = ()) -> Any:
        return op.address_of(tirx.BufferLoad(buffer, [*lead, *[const(0)] * (len(buffer.shape) - len(lead))]))

    operands = code.operands(batch)
    numbers = [*code.numbers(batch), *(tirx.Cast("int32", value) for value in (column, row, *code.last))]
    pointers = pointer(tile), *(pointer(buffer, lead) for buffer, lead in operands)
    places = (pointer(buffer, lead) for buffer, lead in code.places)
    call = op.call_extern("int32", code.name, *pointers, *numbers, *places)
    whole = [whole_of(buffer) for buffer in (*(b for b, _ in operands), tile)]
    # Without it TVM makes the tile as small as what is read of it in TIR.
    marks = {"explicit_read_region": [len(whole) - 1]}
    block = s_tir.SBlock([], whole, whole[-1:], BLOCK, tirx.Evaluate(call), annotations=marks)
    return bound("threadIdx.x", tirx.Var("thread", wide), code.threads, opaque(block))


def whole_of(buffer: Any) -> Any:
    """All of a buffer, as a region."""
    return tirx.BufferRegion(buffer, [tvm.ir.Range(0, extent) for extent in buffer.shape])


def opaque(block: Any) -> Any:
    """The block, which has no axes, in its place."""
    return s_tir.SBlockRealize([], tirx.const(True, "bool"), block)


def around(realize: Any, body: Any, buffers: Sequence[Any] | None = None) -> Any:
    """A block in its place with another body, and with other buffers of its own where some are given."""
    block = realize.block
    whole = s_tir.SBlock(
        block.iter_vars,
        block.reads,
        block.writes,
        block.name_hint,
        body,
        block.init,
        block.alloc_buffers if buffers is None else buffers,
        block.match_buffers,
        block.annotations,
    )
    return s_tir.SBlockRealize(realize.iter_values, realize.predicate, whole)


def bound(tag: str, variable: Any, extent: Any, body: Any) -> Any:
    """A loop over thread blocks or threads."""
    wide = variable.ty.dtype
    binding = tirx.IterVar(None, tirx.Var("", wide), tirx.IterVar.ThreadIndex, tag)
    count = tirx.const(extent, wide) if isinstance(extent, int) else extent
    return tirx.For(variable, tirx.const(0, wide), count, tirx.ForKind.THREAD_BINDING, body, binding)


def without(body: Any, buffers: Sequence[Any]) -> Any:
    """The statements but for those that write these buffers."""

    def writes(statement: Any) -> bool:
        found: list[Any] = []
        tvm_ffi.structural_walk(statement, [(s_tir.SBlock, found.append)])
        return any(w.source.same_as(b) for block in found for w in block.writes for b in buffers)

    kept = [statement for statement in body.seq if not writes(statement)]
    return kept[0] if len(kept) == 1 else tirx.SeqStmt(kept)
