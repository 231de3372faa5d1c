"""What the tensor-core templates share: a thread block's tile is summed by device code and finished by its threads.

The sums are device code (`device/*.cuh`), which needs whole tiles and nothing else: it guards what lies outside. What
is fused behind reads them from shared memory, four neighbouring channels a thread; or, where several thread blocks
share a tile, from global memory, in a kernel of its own (`parts.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tvm import tirx

from optkit.compiler.operator import CONV, MATMUL, NOMINAL, OPERATOR, TENSOR_FLOAT, Operator, Plan
from optkit.compiler.operators.conv import input_blocks, tile_span
from optkit.kernel import Choice
from optkit.target import Target
from optkit_targets.cpu.kernels.tools import View, annotation, extent, look, read_dtype, same
from optkit_targets.cuda.kernels.device_code import SHORT, Call, around, bound, compute_tiles
from optkit_targets.cuda.kernels.parts import Shared, compute_parts
from optkit_targets.cuda.kernels.strips import strips_of
from optkit_targets.cuda.kernels.tiles import SPACE, Tile, Work, ranked, space

WORD = {"int8": 4, "float16": 2, "bfloat16": 2, TENSOR_FLOAT: 1}
"""Terms in a word, by arithmetic."""
STEP = {compute: 8 * terms for compute, terms in WORD.items()}
"""Terms that one instruction sums."""
VERSION = 6
"""Of the templates; they are one piece of device code."""
LARGEST_GRID = 65535
"""Thread blocks along the second and third axis of a launch."""
_SOME_ROWS = 512
"""Of a matrix whose rows nobody knows: tiles are chosen as for so many."""
_NEIGHBOURS = 8
"""Threads that read 16 bytes each from shared memory at once."""
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
        images: of the batch that tiles are of; None where it is open.
        listed: images whose positions are one list, cut into tiles together.
        span: columns that read the same blocks of channels, which tiles divide; 0 where all do.
        clusters: whether thread blocks that share a tile can read each other's shared memory.
        fours: of columns whose weights lie side by side.
    """

    operator: Operator
    function: str
    numbers: tuple[object, ...]
    images: int | None = 1
    listed: int = 1
    span: int = 0
    clusters: bool = False
    fours: int = 1

    @property
    def parts(self) -> tuple[int, ...]:
        """How many thread blocks may share a tile: one where nobody knows how many tiles there are."""
        known = self.images is not None and self.images * max(SPACE["parts"]) <= LARGEST_GRID
        return SPACE["parts"] if known else (1,)

    def call(self, tile: Tile) -> str:
        """The device function for a tile of this size."""
        sizes = tile.rows, tile.columns, tile.deep, tile.stages, tile.slices, tile.parts, tile.planes
        cast = (tile.cast,) if tile.cast else ()
        cut = (tile.cut.width, tile.cut.pitch, tile.cut.lines) if tile.cut else ()
        kind = "OptkitStrip" if tile.cut else "OptkitWide" if tile.wide else "Optkit"
        kind = "OptkitBulk" if tile.cast else kind
        numbers = ", ".join(map(str, (*sizes, *cast, *cut, *self.numbers)))
        code = f"{self.function.replace('Optkit', kind)}<{_KIND[self.operator.compute]}, {numbers}>"
        return f"OptkitCluster<{code}>::run" if tile.parts > 1 and self.clusters else f"{code}::run"


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
        nominal, dtype = annotation(view.sch, block, NOMINAL), read_dtype(view.sch, block)
        text = nominal or annotation(view.sch, block, OPERATOR)
        if text is None or same(view.sch, block, view.last):
            return None
        operator = Operator.parse(str(text))
        if _DATA.get(operator.compute) != dtype:
            return None
        found = self.find(view, operator)
        if found is None:
            return None
        tiled = replace(found, clusters=target.has("cluster"))

        work = work_of(operator, target)
        work = replace(work, fours=min(work.fours, tiled.fours))
        if nominal is not None:
            work = replace(work, strips=(), fours=1)  # which are of known extents
        if tiled.images is None and operator.kind == MATMUL:
            work = replace(work, rows=max(work.rows, _SOME_ROWS))

        def apply(function: Any, chosen: Mapping[str, int]) -> Any:
            return self.schedule(look(function), tiled, Tile.of(chosen, work, target))

        macs = operator.macs()
        tiles = (tile for tile in ranked(work, target) if not tile["cast"])  # no GPU has run those yet
        params = next(tile for tile in tiles if tile["parts"] in tiled.parts)
        values = {**space(work), "parts": tiled.parts}
        version = self.templates[self.template]
        return [Choice(self.name, self.template, version, params, values, apply, macs, operator.compute, tunable=True)]

    @property
    def templates(self) -> Mapping[str, int]:
        """The one there is, and its version."""
        return {self.template: VERSION}

    def plans(self, operator: Operator, target: Target) -> list[Plan]:
        """Every tile that fits, the model's choice first."""
        if operator.kind != self.kind or operator.compute not in WORD:
            return []
        if operator.named().get("groups", 1) > 1 and not span_of(operator):
            return []
        return [Plan(self.template, params) for params in ranked(work_of(operator, target), target)]

    def find(self, view: View, operator: Operator) -> Tiled | None:
        """What the function computes, None where device code does not fit it."""
        raise NotImplementedError

    def schedule(self, view: View, found: Tiled, tile: Tile) -> Any:
        """The scheduled function."""
        raise NotImplementedError


def span_of(operator: Operator) -> int:
    """Output channels of a convolution in groups that read the same input blocks; 0 for others, and for products."""
    s = operator.named()
    return tile_span(s["o"], s["groups"], s["c"]) if s.get("groups", 1) > 1 else 0


def depth_of(operator: Operator) -> int:
    """Blocks of channels that a column of a convolution reads."""
    s, span = operator.named(), span_of(operator)
    return input_blocks(s["o"], s["groups"], s["c"], span, s["b"]) if span else -(-s["c"] // s["b"])


def work_of(operator: Operator, target: Target) -> Work:
    """What the tiles of an operator are of."""
    s, terms = operator.named(), WORD[operator.compute]
    wide = target.has("warpgroup") and operator.kind in (CONV, MATMUL) and operator.compute in _WIDE
    vector = SHORT * terms
    if operator.kind != CONV:
        fours = 2 if wide and s["n"] % (2 * SHORT) == 0 else 1
        return Work(s.get("batch", 1), s["m"], s["n"], -(-s["k"] // vector), wide=wide, fours=fours)
    strips = tuple(strips_of(operator)) if wide and s["b"] == vector else ()
    block = max(1, s["b"] // terms)
    # Channels out are in blocks like those in.
    fours = max(n for n in (1, 2, 4) if n == 1 or (strips and n * SHORT <= vector and s["o"] % (n * SHORT) == 0))
    counts = math.prod(operator.output()) * s["n"], s["o"], depth_of(operator), s["kh"] * s["kw"], block
    return Work(1, *counts, span_of(operator), wide, s["n"], strips, fours)


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
class Axes:
    """The loops of a product's output, as they are before it is cut into tiles.

    Attributes:
        batch: over images or matrices; none where there is one.
        rows, columns, channels: over positions, blocks of channels and four channels.
        index: image, four of channels, position and channel from the indices of the sums' tensor.
        fours: over those of a block, where it has several.
        columns_outside: whether rows are the inner loop, along which threads are neighbours.
    """

    batch: tuple[Any, ...]
    rows: Any
    columns: Any
    channels: Any
    index: Callable[[Sequence[Any]], tuple[Any, Any, Any, Any]]
    fours: Any = None
    columns_outside: bool = False


def compute_product(
    view: View,
    block: Any,
    found: Tiled,
    tile: Tile,
    operands: Callable[[Sequence[Any]], Sequence[tuple[Any, Sequence[Any]]]],
    axes: Axes,
    more: Sequence[Any] = (),
    places: Sequence[tuple[Any, Sequence[Any]]] = (),
) -> Any:
    """The function that computes these sums in tiles of this size.

    Args:
        more: numbers that device code is given last.
        places: pointers that it is given behind them.
    """
    sch, (batch, rows, columns) = view.sch, (axes.batch, axes.rows, axes.columns)
    many = 1 if axes.fours is None else extent(sch, axes.fours) or 1

    def call(parts: int) -> Call:
        """With as many neighbours along the loop over images as share a tile."""
        sizes = tile.rows, tile.columns, tile.planes, tile.threads, tile.scope

        def place(lead: Sequence[Any]) -> Sequence[tuple[Any, Sequence[Any]]]:
            return operands([image // parts for image in lead[: len(batch)]] if parts > 1 else lead)

        def part(lead: Sequence[Any]) -> Sequence[Any]:
            return (tirx.Cast("int32", lead[0] % parts) if parts > 1 else tirx.const(0, "int32"),)

        return Call(found.call(tile), *sizes, place, part, more, places)

    if tile.parts > 1 and not found.clusters:
        counts = found.images or 1, (extent(sch, columns) or 1) * many, extent(sch, rows) or 1
        order = (*batch, columns, rows) if axes.columns_outside else (*batch, rows, columns)
        order = order if axes.fours is None else (*order, axes.fours)
        shared = Shared(tile.parts, counts, axes.index, axes.columns_outside)
        return compute_parts(sch, block, call(1), shared, order, axes.channels)
    across, ci = sch.split(columns, [None, tile.columns // (SHORT * many)])
    if tile.cast > 1:  # whole clusters
        down, rank, pi = sch.split(rows, [None, tile.cast, tile.rows])
        down = sch.fuse(down, rank)
    else:
        down, pi = sch.split(rows, [None, tile.rows])
    images = batch
    if axes.fours is not None:
        sch.reorder(across, down, ci, axes.fours, pi)
        ci = sch.fuse(ci, axes.fours)
    if tile.parts > 1:
        share, ci = sch.split(ci, [tile.parts, None])
        images = (*batch, share)
    inner = [ci, pi] if axes.columns_outside else [pi, ci]
    if many > 1:
        # Eight neighbouring positions of every four of a block: no two threads read from one bank, and together they
        # write what lies side by side.
        ci, four = sch.split(ci, [None, min(many, tile.columns // SHORT // tile.parts)])
        inner = [ci, *sch.split(pi, [None, _NEIGHBOURS])]
        inner.insert(2, four)
    sch.reorder(*images, across, down, *inner, axes.channels)
    if len(images) > 1:
        images = (sch.fuse(*images),)
    for image in images:
        sch.bind(image, "blockIdx.z")
    loops = (across, down, inner, axes.channels)
    func = compute_tiles(sch, block, call(tile.parts), loops, lambda i: axes.index(i)[1:], images)
    func = func if tile.parts == 1 else in_clusters(func, tile.parts, "z")
    return func if tile.cast < 2 else in_clusters(func, tile.cast, "x")


def in_clusters(func: Any, size: int, axis: str) -> Any:
    """The function launched in clusters of so many thread blocks, neighbours along this axis."""
    body = bound(f"clusterCtaIdx.{axis}", tirx.Var("cluster", "int32"), size, func.body.block.body)
    return func.with_body(around(func.body, body))
