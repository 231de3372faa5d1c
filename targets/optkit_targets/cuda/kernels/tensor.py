"""What the tensor-core templates share: a thread block's tile is summed by device code and finished by its threads.

The sums are device code (`device/*.cuh`), which needs whole tiles and nothing else: it guards what lies outside. What
is fused behind reads them from shared memory, four neighbouring channels a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.tirx import op

from optkit.compiler.operator import CONV, MATMUL, OPERATOR, TENSOR_FLOAT, Operator, Plan
from optkit.kernel import Choice
from optkit.target import Target
from optkit_targets.cpu.kernels.tools import View, annotation, finish, look, read_dtype, same
from optkit_targets.cuda.kernels.tiles import Tile, ranked, space

SHORT = 4
"""Channels of a block."""
WORD = {"int8": 4, "float16": 2, "bfloat16": 2, TENSOR_FLOAT: 1}
"""Terms in a word, by arithmetic."""
STEP = {compute: 8 * terms for compute, terms in WORD.items()}
"""Terms that one instruction sums."""
VERSION = 3
"""Of the templates; they are one piece of device code."""
BLOCK = "tensor_core"
"""Name of the block that calls device code."""
LARGEST_GRID = 65535
"""Thread blocks along the second and third axis of a launch."""
_DATA = {"int8": "uint8", "float16": "float16", "bfloat16": "bfloat16", TENSOR_FLOAT: "float32"}
_WEIGHT = _DATA | {"int8": "int8"}
_WIDE = ("int8", "float16", "bfloat16")
_KIND = {"int8": "OptkitBytes", "float16": "OptkitHalves", "bfloat16": "OptkitBfloats", TENSOR_FLOAT: "OptkitTf32"}


@dataclass(frozen=True)
class Tiled:
    """What is computed in tiles, and the numbers that device code is made for.

    Attributes:
        operator: with its extents.
        function: of the device code.
        numbers: its template arguments behind the tile's.
    """

    operator: Operator
    function: str
    numbers: tuple[object, ...]

    def call(self, tile: Tile) -> str:
        """The device function for a tile of this size."""
        sizes = tile.rows, tile.columns, tile.deep, tile.stages, tile.slices, tile.planes
        function = self.function.replace("Optkit", "OptkitWide") if tile.wide else self.function
        return f"{function}<{_KIND[self.operator.compute]}, {', '.join(map(str, (*sizes, *self.numbers)))}>::run"


class TensorCoreRule:
    """A rule whose one template computes sums by device code.

    Attributes:
        mark: annotation of the block with the sums.
        beside: annotations of other blocks that may be there.
        template: name of the template.
        kind: of the operators that it computes.
    """

    name: str
    mark: str
    beside: frozenset[str]
    template: str
    kind: str

    def choices(self, func: Any, target: Target) -> list[Choice] | None:
        """Tiles of every size, from compute capability 8.0 on, which brought the instructions."""
        if not target.has("tensor_core") or not target.has("async_copy"):
            return None
        view = look(func)
        if self.mark not in view.ops or set(view.ops) - {self.mark} - self.beside:
            return None
        block = view.ops[self.mark]
        text, dtype = annotation(view.sch, block, OPERATOR), read_dtype(view.sch, block)
        if text is None or same(view.sch, block, view.last):
            return None
        operator = Operator.parse(str(text))
        if _DATA.get(operator.compute) != dtype:
            return None
        found = self.find(view, operator)
        if found is None:
            return None

        def apply(function: Any, chosen: Mapping[str, int]) -> Any:
            return self.schedule(look(function), found, Tile.of(chosen, target))

        macs = operator.macs()
        wide = may_be_wide(operator, target)
        params = ranked(*extents_of(operator), target, wide)[0]
        version = self.templates[self.template]
        return [
            Choice(self.name, self.template, version, params, space(wide), apply, macs, operator.compute, tunable=True)
        ]

    @property
    def templates(self) -> Mapping[str, int]:
        """The one there is, and its version."""
        return {self.template: VERSION}

    def plans(self, operator: Operator, target: Target) -> list[Plan]:
        """Every tile that fits, the model's choice first."""
        if operator.kind != self.kind or operator.compute not in WORD:
            return []
        wide = may_be_wide(operator, target)
        return [Plan(self.template, params) for params in ranked(*extents_of(operator), target, wide)]

    def find(self, view: View, operator: Operator) -> Tiled | None:
        """What the function computes, None where device code does not fit it."""
        raise NotImplementedError

    def schedule(self, view: View, found: Tiled, tile: Tile) -> Any:
        """The scheduled function."""
        raise NotImplementedError


def may_be_wide(operator: Operator, target: Target) -> bool:
    """Whether whole warpgroups can multiply these operands, weights among them."""
    return target.has("warpgroup") and operator.kind in (CONV, MATMUL) and operator.compute in _WIDE


def extents_of(operator: Operator) -> tuple[tuple[int, int, int], int]:
    """Batch, rows and columns that tiles cover, and the words of a sum."""
    s, terms = operator.named(), WORD[operator.compute]
    if operator.kind == CONV:
        height, width = operator.output()
        depth = -(-s["c"] // SHORT) * SHORT * s["kh"] * s["kw"]
        return (s["n"], height * width, s["o"]), depth // terms
    return (s.get("batch", 1), s["m"], s["n"]), s["k"] // terms


def shape(buffer: Any, first: int = 0) -> list[int] | None:
    """Extents from axis `first` on; None where one is symbolic."""
    extents = list(buffer.shape)[first:]
    return [int(n) for n in extents] if all(isinstance(n, int | tirx.IntImm) for n in extents) else None


def constant_weights(view: View, block: Any, compute: str, packed: list[int]) -> bool:
    """Whether the block reads data, and weights of this shape in the type that goes with it; nothing else."""
    reads = [read.source for read in view.sch.get(block).reads]
    return len(reads) == 2 and str(reads[1].dtype) == _WEIGHT[compute] and shape(reads[1]) == packed


def from_outside(view: View, data: Any) -> bool:
    """Whether no block of the function makes this tensor: device code reads it from global memory."""
    return not any(write.source.same_as(data) for block in view.blocks for write in view.sch.get(block).writes)


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
        numbers: more arguments, before the tile's first column and row.
    """

    name: str
    rows: int
    columns: int
    planes: int
    threads: int
    scope: str
    operands: Callable[[Sequence[Any]], Sequence[tuple[Any, Sequence[Any]]]]
    numbers: tuple[Any, ...] = ()


def call_of(found: Tiled, tile: Tile, operands: Callable[[Sequence[Any]], Sequence[tuple[Any, Sequence[Any]]]]) -> Call:
    """The call for a tile of a product."""
    sizes = tile.rows, tile.columns, tile.planes, tile.threads, tile.scope
    return Call(found.call(tile), *sizes, operands)


def compute_tiles(
    sch: Any,
    block: Any,
    call: Call,
    loops: Sequence[Any],
    index: Callable[[Sequence[Any]], tuple[Any, Any, Any]],
    batch: tuple[Any, ...] = (),
) -> Any:
    """The function with a tile a thread block, its sums by device code.

    Args:
        loops: of the output: over tiles across and down, over a tile's elements (two, the threads' order), and over
            the channels of a block.
        index: channel block, row and channel in the block, from the indices of the sums' tensor.
        batch: loops around tiles, bound to threads already.
    """
    across, down, outer, inner, channels = loops
    sch.bind(across, "blockIdx.y")
    sch.bind(down, "blockIdx.x")
    sch.compute_at(block, down, preserve_unit_loops=True)
    sch.set_scope(block, 0, "shared")
    _, thread = sch.split(sch.fuse(outer, inner), [None, call.threads])
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
        index: channel block, row and channel in the block, from the indices of the sums' tensor.
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
    # A row more than there is, which keeps threads that read down or across it off each other's banks.
    extents = (code.planes, code.rows + 1, SHORT)
    tile = tirx.decl_buffer(extents, str(tensor.dtype), "tile", scope=code.scope)

    def const(value: int) -> Any:
        return tirx.const(value, wide)

    column, row = sums.across * const(code.columns), sums.down * const(code.rows)
    first = sums.across * const(code.columns // SHORT)

    def moved(indices: Sequence[Any]) -> list[Any]:
        o, p, v = sums.index(indices)
        return [o - first, p - row, v]

    def pointer(buffer: Any, lead: Sequence[Any] = ()) -> Any:
        return op.address_of(tirx.BufferLoad(buffer, [*lead, *[const(0)] * (len(buffer.shape) - len(lead))]))

    def loops(node: Any) -> Any:
        if not node.loop_var.same_as(sums.outermost):
            return node
        operands = code.operands(sums.batch)
        numbers = [*code.numbers, *(tirx.Cast("int32", value) for value in (column, row))]
        pointers = pointer(tile), *(pointer(buffer, lead) for buffer, lead in operands)
        call = op.call_extern("int32", code.name, *pointers, *numbers)
        whole = [tirx.BufferRegion(b, [tvm.ir.Range(0, n) for n in b.shape]) for b in (*(b for b, _ in operands), tile)]
        # Without it TVM makes the tile as small as what is read of it in TIR.
        marks = {"explicit_read_region": [len(whole) - 1]}
        block = s_tir.SBlock([], whole, whole[-1:], BLOCK, tirx.Evaluate(call), annotations=marks)
        binding = tirx.IterVar(None, tirx.Var("", wide), tirx.IterVar.ThreadIndex, "threadIdx.x")
        realize = s_tir.SBlockRealize([], tirx.const(True, "bool"), block)
        thread = tirx.Var("thread", wide)
        return tirx.For(thread, const(0), const(code.threads), tirx.ForKind.THREAD_BINDING, realize, binding)

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
    block = s_tir.SBlock(root.iter_vars, root.reads, root.writes, root.name_hint, body, root.init, [tile])
    return func.with_body(s_tir.SBlockRealize(func.body.iter_values, func.body.predicate, block))


def without(body: Any, buffers: Sequence[Any]) -> Any:
    """The statements but for those that write these buffers."""

    def writes(statement: Any) -> bool:
        found: list[Any] = []
        tvm_ffi.structural_walk(statement, [(s_tir.SBlock, found.append)])
        return any(w.source.same_as(b) for block in found for w in block.writes for b in buffers)

    kept = [statement for statement in body.seq if not writes(statement)]
    return kept[0] if len(kept) == 1 else tirx.SeqStmt(kept)
