"""Moves between plain and blocked activations: squares of as many positions as a block has channels, in registers.

A square is loaded row by row, turned by shuffles of two vectors in log2(rows) steps, and stored row by row (Eklundh, "A
fast computer method for matrix transposing", 1972), where reading one channel of every position would touch a cache
line an element.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tvm import ir, s_tir, tirx
from tvm.script.ir_builder import IRBuilder

from optkit.compiler.operators.common import const, static
from optkit.compiler.operators.loops import T, when
from optkit.kernel import Choice
from optkit.target import Target
from optkit_targets.cpu.kernels.tools import PARALLEL_ELEMENTS, annotation, look

_TO_PLAIN, _TO_BLOCKED = "to_plain", "to_blocked"
_SQUARES = 64
"""Of a task at most."""


class TurnRule:
    """Takes functions that only move numbers of four bytes from one layout to the other, and are annotated so."""

    name = "cpu.turn"

    def choices(self, func: Any, target: Target) -> list[Choice] | None:
        """One template without parameters."""
        view = look(func)
        kind = str(annotation(view.sch, view.last, "optkit.op") or "") if len(view.blocks) == 1 else ""
        if kind not in (_TO_PLAIN, _TO_BLOCKED):
            return None
        move = _Move.of(func, kind)
        if str(move.made.dtype) not in ("float32", "int32") or move.width not in (4, 8, 16):
            return None
        if not isinstance(move.channels, int) or (isinstance(move.area, int) and move.area < move.width):
            return None

        def apply(function: Any, _chosen: Mapping[str, int]) -> Any:
            return _Move.of(function, kind).function(function)

        return [Choice(self.name, "squares", 1, {}, {}, apply, compute=str(move.made.dtype))]


@dataclass(frozen=True)
class _Move:
    """From `source` to `made`; `channels` of them, in blocks of `width`, at `area` positions of an image."""

    kind: str
    source: Any
    made: Any

    @classmethod
    def of(cls, func: Any, kind: str) -> _Move:
        return cls(kind, func.params[0], func.params[-1])

    @property
    def _plain(self) -> list[Any]:
        return static((self.made if self.kind == _TO_PLAIN else self.source).shape)

    @property
    def _blocked(self) -> list[Any]:
        return static((self.source if self.kind == _TO_PLAIN else self.made).shape)

    @property
    def width(self) -> int:
        return int(self._blocked[-1])

    @property
    def channels(self) -> Any:
        return self._plain[1]

    @property
    def area(self) -> Any:
        return math.prod(self._plain[2:])

    def function(self, func: Any) -> Any:
        """The function with loops over squares."""
        with IRBuilder() as builder:
            with T.seq_scope():
                self._loops(T.buffer_proxy(self.source), T.buffer_proxy(self.made))
            made = builder.get()
        body = made.body if isinstance(made, tirx.AttrStmt) else made
        root = s_tir.SBlock([], [], [], "root", body)
        return func.with_body(s_tir.SBlockRealize([], tirx.const(True, "bool"), root))

    def _loops(self, source: Any, made: Any) -> None:
        images, blocks, *_ = self._blocked
        area, b = self.area, self.width
        known = isinstance(area, int)
        squares = -(-area // b) if known else tirx.floordiv(area + (b - 1), b)
        # No quotient by an open number, for which TVM would have to know that it is not 0.
        chunks = -(-squares // _SQUARES) if known else 1
        each = -(-squares // chunks) if known else squares
        large = not isinstance(images, int) or not known or images * blocks * area * b >= PARALLEL_ELEMENTS
        tasks = images * blocks * chunks
        with (T.parallel if large else T.serial)(0, tasks) as task:
            chunk = tirx.floormod(task, chunks)
            block = tirx.floormod(tirx.floordiv(task, chunks), blocks)
            image = tirx.floordiv(task, blocks * chunks)
            with T.serial(0, each) as square:
                # The last one begins where it ends with the image, and moves some of the one before again.
                at = tirx.min((chunk * each + square) * b, area - b)
                if known:
                    self._square(source, made, image, block, at)
                else:
                    when(
                        area >= b,
                        functools.partial(self._square, source, made, image, block, at),
                        functools.partial(self._few, source, made, image, block),
                    )

    def _square(self, source: Any, made: Any, image: Any, block: Any, at: Any) -> None:
        b = self.width
        if self.kind == _TO_PLAIN:
            rows = [T.bind(source[self._at_blocked(image, block, at + j)]) for j in range(b)]
            for lane, row in enumerate(_turned(rows)):
                channel = block * b + lane
                if self.channels % b == 0:
                    made[self._at_plain(image, channel, at)] = row
                else:
                    store = functools.partial(made.__setitem__, self._at_plain(image, channel, at), row)
                    when(channel < self.channels, store)
            return
        rows = []
        for lane in range(b):
            channel = block * b + lane
            # Past the last channel the last one is read, in vain.
            read = source[self._at_plain(image, tirx.min(channel, self.channels - 1), at)]
            there = channel < self.channels
            zero = tirx.Broadcast(const(0, str(self.made.dtype)), b)
            rows.append(T.bind(read if self.channels % b == 0 else tirx.Select(tirx.Broadcast(there, b), read, zero)))
        for j, row in enumerate(_turned(rows)):
            made[self._at_blocked(image, block, at + j)] = row

    def _few(self, source: Any, made: Any, image: Any, block: Any) -> None:
        """All of an image of fewer positions than a square has."""
        b = self.width
        with T.serial(0, self.area) as at, T.serial(0, b) as lane:
            channel = block * b + lane
            blocked = self._at_blocked(image, block, at, lane)
            plain = self._at_plain(image, channel, at, single=True)
            if self.kind == _TO_PLAIN:
                when(channel < self.channels, lambda: made.__setitem__(plain, source[blocked]))
            else:
                nothing = const(0, str(self.made.dtype))
                when(
                    channel < self.channels,
                    lambda: made.__setitem__(blocked, source[plain]),
                    lambda: made.__setitem__(blocked, nothing),
                )

    def _at_plain(self, image: Any, channel: Any, at: Any, single: bool = False) -> tuple[Any, ...]:
        """A vector of positions, or one, as if an image were one line, which in memory it is."""
        last = at if single else tirx.Ramp(at, const(1, "int64"), self.width)
        return (image, channel, *[const(0, "int64")] * (len(self._plain) - 3), last)

    def _at_blocked(self, image: Any, block: Any, at: Any, lane: Any = None) -> tuple[Any, ...]:
        """All channels of a block at a position, or one."""
        last = tirx.Ramp(const(0, "int64"), const(1, "int64"), self.width) if lane is None else lane
        return (image, block, *[const(0, "int64")] * (len(self._plain) - 3), at, last)


def _turned(rows: list[Any]) -> list[Any]:
    """A square of vectors with rows and columns exchanged; as many as a vector has elements, a power of two."""
    count, step = len(rows), 1
    while step < count:
        upper = [lane if not lane & step else count + lane - step for lane in range(count)]
        lower = [lane + step if not lane & step else count + lane for lane in range(count)]
        changed = list(rows)
        for i in range(count):
            if not i & step:
                changed[i] = T.bind(_shuffled(rows[i], rows[i | step], upper))
                changed[i | step] = T.bind(_shuffled(rows[i], rows[i | step], lower))
        rows, step = changed, 2 * step
    return rows


def _shuffled(a: Any, b: Any, places: list[int]) -> Any:
    return ir.prim.Shuffle([a, b], [tirx.const(place, "int32") for place in places])
