"""From a scheduled product to tile instructions: the loops over a tile become calls, whose addresses follow from the
indices that the loops read and write.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.sym import Analyzer
from tvm.tirx import op

from optkit.compiler.matrix_tiles import BYTES, COLUMNS
from optkit.compiler.operators.common import BITS, PAIR, flatten
from optkit_targets.cpu.kernels.amx import Tiling, functions

MARK = "optkit.tiles"
"""Annotation of the loops to be replaced."""
INIT, STEP, STORE = "init", "step", "store"
"""Its values: the loops that clear the sums of a tile, that add 64 bytes of each row, and the reduction, after which
sums are stored."""


@dataclass(frozen=True)
class _Step:
    """What became of the loops of a step: the call, and the one that stores the sums."""

    tiling: Tiling
    call: Any
    store: Any


def tile_code(func: Any, rows: int, tall: int) -> Any:
    """A scheduled function with its marked loops replaced.

    Args:
        rows: of a tile of data.
        tall: tiles of sums along rows. Loops may have fewer rows than these, where the result has; tiles are whole.

    Raises:
        ValueError: a marked loop is no product of tiles.
    """
    writer = _Writer(rows, tall)
    body = writer.statement(func.body)
    if writer.step is None:
        raise ValueError("no loop is marked as a step of tiles")
    return func.with_body(body)


class _Writer:
    def __init__(self, rows: int, tall: int) -> None:
        self.rows, self.tall = rows, tall
        self.around: list[Any] = []
        self.step: _Step | None = None

    def statement(self, stmt: Any) -> Any:
        """The statement with what is marked in it replaced."""
        if isinstance(stmt, tirx.SeqStmt):
            # The loops that clear come before those that tell what is to be cleared.
            parts = [None if _mark(part) == INIT else self.statement(part) for part in stmt.seq]
            return tirx.SeqStmt([self._clear() if part is None else part for part in parts], stmt.span)
        if isinstance(stmt, s_tir.SBlockRealize):
            block = stmt.block
            made = s_tir.SBlock(
                block.iter_vars,
                block.reads,
                block.writes,
                block.name_hint,
                self.statement(block.body),
                block.init,
                block.alloc_buffers,
                block.match_buffers,
                block.annotations,
            )
            return s_tir.SBlockRealize(stmt.iter_values, stmt.predicate, made)
        if not isinstance(stmt, tirx.For):
            return stmt
        mark = _mark(stmt)
        if mark == STEP:
            self.step = _step(stmt, self.rows, self.tall, self.around)
            return self.step.call
        before = self.step
        self.around.append(stmt)
        body = self.statement(stmt.body)
        self.around.pop()
        notes = {name: value for name, value in stmt.annotations.items() if name != MARK}
        if self.step is not None and before is None and stmt.kind == tirx.ForKind.PARALLEL:
            name, text = self.step.tiling.name, tvm.ir.StringImm(functions(self.step.tiling))
            body = tirx.SeqStmt([_evaluate(f"begin_{name}"), body, _evaluate(f"end_{name}")])
            # No note of the loop: one that runs once goes, with its notes.
            body = tirx.AttrStmt(tvm.ir.StringImm("optkit"), "pragma_import_llvm", text, body)
        loop = tirx.For(
            stmt.loop_var, stmt.min, stmt.extent, stmt.kind, body, stmt.thread_binding, notes, stmt.step, stmt.span
        )
        if mark != STORE:
            return loop
        assert self.step is not None
        return tirx.SeqStmt([loop, self.step.store])

    def _clear(self) -> Any:
        assert self.step is not None
        return _evaluate(f"zero_{self.step.tiling.name}")


def _mark(stmt: Any) -> str:
    if not isinstance(stmt, tirx.For) or MARK not in stmt.annotations:
        return ""
    mark = stmt.annotations[MARK]
    return str(mark.value if isinstance(mark, tvm.ir.StringImm) else mark)


def _evaluate(name: str, *args: Any) -> Any:
    return tirx.Evaluate(tirx.call_extern("void", f"optkit_amx_{name}", *args))


def _loads(expr: Any) -> list[Any]:
    """What an expression reads, in order, each buffer once."""
    found: list[Any] = []

    def visit(load: Any) -> None:
        if not any(load.source.same_as(other.source) for other in found):
            found.append(load)

    tvm_ffi.structural_walk(expr, (tvm.ir.TensorLoad, visit))
    return found


class _Places:
    """Where in memory the elements of one access lie, by the loops around it."""

    def __init__(self, buffer: Any, indices: Sequence[Any], realize: Any, loops: Sequence[Any]) -> None:
        self.buffer, self.loops, self.indices = buffer, loops, list(indices)
        self.realize = realize
        self.axes = list(zip(realize.block.iter_vars, realize.iter_values, strict=True))
        self.bytes = int(tvm.DataType(str(buffer.dtype)).itemsize)
        # Of the outermost axis, which may be open, the extent says nothing of places.
        _, *inner = buffer.shape
        if not all(isinstance(extent, tirx.IntImm) for extent in inner):
            raise ValueError(f"extents of {buffer.name} are open")
        self.sizes = [1, *map(int, inner)]

    def first(self) -> list[Any]:
        """Index of the first element of the tile."""
        return self._at(self.indices, {})

    def _at(self, indices: Sequence[Any], at: dict[Any, int]) -> list[Any]:
        """Indices at these values of the loops, the others' being 0."""
        analyzer = Analyzer()
        for loop in self.loops:
            analyzer.bind(loop.loop_var, tirx.const(at.get(loop.loop_var, 0), str(loop.loop_var.ty.dtype)))
        for axis, value in self.axes:
            analyzer.bind(axis.var, analyzer.simplify(value))
        return [analyzer.simplify(index) for index in indices]

    def offset(self, at: dict[Any, int], sizes: Sequence[int] | None = None) -> int:
        """Bytes from the first element of a tile to the one at these values of the loops.

        Args:
            sizes: extents of the buffer, if not its own.
        """
        # Simplified by axes of the block, before loops stand for these: quotient and remainder of one become it again.
        flat = [Analyzer().simplify(flatten(self.indices, sizes or self.sizes))]
        [there], [here] = self._at(flat, at), self._at(flat, {})
        found = Analyzer().simplify(there - here)
        if not isinstance(found, tirx.IntImm):
            raise ValueError(f"rows of {self.buffer.name} are not evenly apart")
        return int(found) * self.bytes

    def spans(self, extents: dict[Any, int]) -> list[int]:
        """Extents of the part of the buffer that a tile has, some of whose loops have other extents than they say."""
        last = {loop.loop_var: extents.get(loop.loop_var, int(loop.extent)) - 1 for loop in self.loops}
        sizes = []
        for there, here in zip(self._at(self.indices, last), self.first(), strict=True):
            span = Analyzer().simplify(there - here)
            if not isinstance(span, tirx.IntImm):
                raise ValueError(f"a tile of {self.buffer.name} has no fixed extents")
            sizes.append(int(span) + 1)
        return sizes

    def moves(self, loop: Any) -> bool:
        """Whether the loop changes the place."""
        there = self if loop in self.loops else _Places(self.buffer, self.indices, self.realize, [*self.loops, loop])
        return int(loop.extent) > 1 and there.offset({loop.loop_var: 1}) != 0

    def region(self, extents: dict[Any, int]) -> Any:
        """The part of the buffer that the tile has, as `spans` has it."""
        sizes = self.spans(extents)
        ranges = [tvm.ir.Range.from_min_extent(at, size) for at, size in zip(self.first(), sizes, strict=True)]
        return tirx.BufferRegion(self.buffer, ranges)

    def whole(self) -> Any:
        """All of the buffer."""
        return tirx.BufferRegion(self.buffer, [tvm.ir.Range(0, extent) for extent in self.buffer.shape])

    def address(self) -> Any:
        """Of the first element."""
        return op.address_of(tirx.BufferLoad(self.buffer, self.first()))

    def last(self, extents: dict[Any, int]) -> Any:
        """The address of the last element of the tile, as `spans` has it."""
        ends = [at + (size - 1) for at, size in zip(self.first(), self.spans(extents), strict=True)]
        return op.address_of(tirx.BufferLoad(self.buffer, ends))


def _step(stmt: Any, rows: int, tall: int, around: Sequence[Any]) -> _Step:
    """The calls for the loops of one step."""
    loops, inner = [], stmt
    while isinstance(inner, tirx.For):
        loops.append(inner)
        inner = inner.body
    write = inner.block.body
    sums = _Places(write.buffer, write.indices, inner, loops)
    reads = [load for load in _loads(write.value) if not load.source.same_as(write.buffer)]
    data, weights = (_Places(load.source, load.indices, inner, loops) for load in reads)
    words = data.bytes == 4
    *across, terms = loops if words else loops[:-1]
    together = None if words else loops[-1]
    down = [loop for loop in across if data.moves(loop) and int(loop.extent) > 1]
    along = [loop for loop in across if loop not in down and int(loop.extent) > 1]
    width = 4 * int(terms.extent)
    if len(down) > 1 or width > BYTES or (together is not None and data.bytes * int(together.extent) != 4):
        raise ValueError("its rows or terms are no tile's")
    apart = data.offset({terms.loop_var: 1}) if width > 4 else 4
    if apart != 4 or (together is not None and weights.offset({together.loop_var: 1}) != data.bytes):
        raise ValueError("its terms do not lie together")
    whole = {down[0].loop_var: rows * tall} if down else {}
    if not down and tall > 1:
        raise ValueError("it has one row")
    places: list[dict[Any, int]] = [{}]
    for loop in along:
        steps = range(0, int(loop.extent), COLUMNS if loop.same_as(along[-1]) else 1)
        places = [{**place, loop.loop_var: i} for place in places for i in steps]
    lowered = [{down[0].loop_var: m * rows} if m else {} for m in range(tall)]
    row = {down[0].loop_var: 1} if down else {}
    # What lies in a buffer of a tile has the tile's extents when it comes to code.
    compact = sums.spans(whole) if sums.buffer.scope() == "local" else None
    compute = "bfloat16" if str(data.buffer.dtype) in (BITS, PAIR) else "int8"
    tiling = Tiling(
        compute,
        rows,
        width,
        (data.offset(row) if row else BYTES, tuple(data.offset(m) for m in lowered)),
        (weights.offset({terms.loop_var: 1}) if width > 4 else BYTES, tuple(weights.offset(n) for n in places)),
        (
            sums.offset(row, compact) if row else 4 * COLUMNS * len(places),
            tuple(sums.offset({**m, **n}, compact) for m in lowered for n in places),
        ),
        *_ahead(weights, around, width * COLUMNS * len(places)),
    )
    step = _evaluate(f"step_{tiling.name}", data.address(), weights.address(), *_turn(weights, around, tiling))
    # Of a buffer there remains what calls name of it, so that they have to name the last element too.
    store = _evaluate(f"store_{tiling.name}", sums.address(), sums.last(whole))
    return _Step(
        tiling,
        _opaque("step", step, [data.whole(), weights.whole()], []),
        _opaque("store", store, [], [sums.region(whole)]),
    )


SWEEPS, LEAST = 8, 4096
"""How often weights may be walked that are asked for ahead, and their least bytes: others stay in the cache anyway."""


def _split(weights: _Places, around: Sequence[Any]) -> tuple[list[Any], list[Any]] | None:
    """The loops over steps, and those around them in which the weights stay the same; None where others do too."""
    first = next(i for i, loop in enumerate(around) if _mark(loop) == STORE)
    known = [loop for loop in around[:first] if isinstance(loop.extent, tirx.IntImm)]  # an open batch is outside of all
    steps, outer = list(around[first:]), [loop for loop in known if int(loop.extent) > 1]
    sweeps: list[Any] = []
    while outer and outer[-1].kind == tirx.ForKind.SERIAL and not weights.moves(outer[-1]):
        sweeps.insert(0, outer.pop())
    return (steps, sweeps) if all(weights.moves(loop) for loop in outer) else None


def _ahead(weights: _Places, around: Sequence[Any], step_bytes: int) -> tuple[int, int]:
    """How far on the next columns' weights are, and the lines of them that a step asks for."""
    found = _split(weights, around)
    if found is None:
        return 0, 0
    steps, sweeps = (math.prod(int(loop.extent) for loop in loops) for loops in found)
    size = steps * step_bytes
    if size < LEAST or sweeps > SWEEPS:
        return 0, 0
    return size, math.ceil(size / BYTES / (steps * sweeps))


def _turn(weights: _Places, around: Sequence[Any], tiling: Tiling) -> list[Any]:
    """The weights of these columns, and which of the steps over all sweeps this is."""
    found = _split(weights, around)
    if found is None or not tiling.lines:
        return []
    steps, sweeps = found
    turn: Any = tirx.const(0, "int32")
    for loop in (*sweeps, *steps):
        turn = turn * tirx.const(int(loop.extent), "int32") + loop.loop_var.astype("int32")
    start = _Places(weights.buffer, weights.indices, weights.realize, [*weights.loops, *steps])
    return [start.address(), turn]


def _opaque(name: str, body: Any, reads: list[Any], writes: list[Any]) -> Any:
    return s_tir.SBlockRealize([], tirx.const(True, "bool"), s_tir.SBlock([], reads, writes, name, body))
