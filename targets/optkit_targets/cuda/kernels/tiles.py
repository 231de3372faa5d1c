"""Tiles of the tensor-core kernels: what they take of a multiprocessor, and about how long."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

from optkit.target import Target
from optkit_targets.cuda.kernels.strips import Strips

SLICE = 128
"""Threads that sum together."""
SPACE: dict[str, tuple[int, ...]] = {
    "rows": (32, 64, 128),
    "columns": (32, 64, 128),
    "deep": (1, 2),
    "stages": (2, 3, 4),
    "slices": (1, 2, 4),
    "parts": (1, 2, 4, 8),
    "wide": (0,),
    "strip": (0,),
    "cast": (0,),
}
WIDE: dict[str, tuple[int, ...]] = {
    "rows": (64, 128, 256),
    "columns": (32, 64, 128, 256),
    "deep": (2, 4),
    "stages": (3, 4, 5, 6, 8),
    "slices": (1,),
    "parts": (1, 2, 4, 8),
    "wide": (1,),
    "strip": (0,),
    "cast": (0,),
}
"""Tiles by instructions of whole warpgroups."""
BULK: dict[str, tuple[int, ...]] = WIDE | {
    "columns": (64, 128, 256),
    "deep": (1, 2, 4),
    "stages": (3, 4),
    "parts": (1,),
    "cast": (1, 2, 4),
}
"""Those whose weights come in bulk."""
_STATIC = 48 * 1024
"""Bytes of shared memory that a block has on every GPU without asking for more."""
_REGISTERS, _THREADS = 65536, 1536  # of a multiprocessor
# Cycles, as measured by others: Luo et al., "Benchmarking and Dissecting the Nvidia Hopper GPU Architecture", 2024.
_MEMORY, _STEP, _START = 700, 60, 1500
_SECOND = 3000
"""From the end of a kernel to the first results of the next one in a graph."""
_MEET, _PEER_BYTES = 1100, 3
"""Cycles in which thread blocks of a cluster meet, and bytes that one reads from the others in a cycle.

Fitted to what clusters took on an H200 (benchmarks/results/cuda.kernels.json); 250 and 14 are what others measured.
"""
_L2_BYTES, _L2_SHARE = 64, 20
"""Bytes that a multiprocessor gets of the L2 cache in a cycle: alone, and when all want some.

The second is fitted to kernels by warpgroups timed on an H200 (benchmarks/results/cuda.kernels.json), in cycles of 1755
MHz: 4.6 TB/s together.
"""
_BY_WARPS = 1.5
"""How much longer a step takes whose operands warps load themselves, between copies; fitted to the same kernels."""


@dataclass(frozen=True)
class Work:
    """What tiles are of.

    Attributes:
        batch, rows, columns: extents of the result.
        blocks: of channels, or of terms, that a sum is over; for every tap.
        taps: of a convolution's kernel; 1 for products.
        block: words of a block.
        span: columns that read the same, which those of a tile divide; 0 where all do.
        wide: whether warpgroups can multiply what is multiplied here, and thread blocks share their tiles.
        images: that rows are positions of.
        strips: ways to cut them; none where tiles of strips cannot be.
        fours: of columns whose weights lie side by side; 1 where they cannot come in bulk.
    """

    batch: int
    rows: int
    columns: int
    blocks: int
    taps: int = 1
    block: int = 4
    span: int = 0
    wide: bool = False
    images: int = 1
    strips: tuple[Strips, ...] = ()
    fours: int = 1

    def steps(self, deep: int) -> int:
        """Of a sum, as `OptkitSteps` divides it."""
        apart, together = self._steps(deep)
        return together if self.flat(deep) else apart

    def flat(self, deep: int) -> bool:
        """Whether steps are of several taps."""
        apart, together = self._steps(deep)
        return together * 4 <= apart * 3

    def _steps(self, deep: int) -> tuple[int, int]:
        """Of one tap each, and of blocks and taps as they lie in the weights."""
        each = max(1, 8 * deep // self.block)
        return -(-self.blocks // each) * self.taps, -(-self.blocks * self.taps // each)

    def cut(self, width: int) -> Strips | None:
        """The strips of so many columns."""
        return next((strips for strips in self.strips if strips.width == width), None)


@dataclass(frozen=True)
class Tile:
    """What a thread block computes and how; the device code's template arguments.

    Attributes:
        rows, columns: of the result.
        deep: of a step, in 8 words.
        stages: buffers that the operands of steps pass through.
        slices: groups of 128 threads that divide the steps among themselves.
        parts: thread blocks that divide the steps of a tile among themselves; as a cluster they add up their sums,
            without such a second kernel does.
        wide: 1 where whole warpgroups multiply, 64 rows each.
        strip: columns of the strips that the rows are positions of, whose taps share what they read; 0 where rows are
            a plain list.
        cast: thread blocks of a cluster, neighbours along the rows, that weights come to in bulk; 0 where threads copy
            them. A step is of all taps then.
        cut: the strips.
    """

    rows: int
    columns: int
    deep: int
    stages: int
    slices: int
    parts: int = 1
    wide: int = 0
    strip: int = 0
    cast: int = 0
    cut: Strips | None = field(default=None, kw_only=True)

    @classmethod
    def of(cls, params: Mapping[str, int], work: Work, target: Target) -> Tile:
        """The tile of a choice's parameters.

        Raises:
            ValueError: it does not fit a multiprocessor, or the work.
        """
        tile = cls(**{name: params[name] for name in SPACE}, cut=work.cut(params["strip"]))
        if not tile.fits(target):
            raise ValueError(f"{tile.shared} bytes of shared memory, {tile.registers} registers a thread do not fit")
        if not tile.suits(work):
            raise ValueError("the tile does not suit these channels and layouts")
        return tile

    @property
    def params(self) -> dict[str, int]:
        """The choice's parameters."""
        return {name: value for name, value in asdict(self).items() if name in SPACE}

    @property
    def threads(self) -> int:
        """Of a thread block."""
        return 2 * self.rows if self.wide else SLICE * self.slices

    @property
    def planes(self) -> int:
        """Of (rows + 1) x 4 words: for the operands, and later for the sums."""
        halo, taps = (self.cut.halo, self.cut.taps) if self.cut else (0, 1)
        if self.cast:
            operands = self.stages * 8 * self.deep * (self.rows + halo + self.columns * taps)
            barriers = 4 * self.stages
            return -(-(max(operands, self.columns * (self.rows + 1)) + barriers) // (4 * (self.rows + 1)))
        if self.cut:
            operands = 8 * self.deep * (2 * (self.rows + halo) + self.stages * self.columns)
        else:
            gaps = 0 if self.wide else 16
            operands = self.slices * self.stages * 8 * self.deep * (self.rows + self.columns + gaps)
        return max(self.columns // 4, -(-operands // (4 * (self.rows + 1))))

    @property
    def shared(self) -> int:
        """Bytes of shared memory."""
        return self.planes * (self.rows + 1) * 16

    @property
    def scope(self) -> str:
        """TVM's name of the memory; more than what every GPU has is asked for at the launch."""
        return scope(self.shared)

    @property
    def _mma(self) -> tuple[int, int]:
        across = 1 if self.rows // self.columns >= 4 else 2
        return self.rows // (4 // across) // 16, self.columns // across // 8

    @property
    def registers(self) -> int:
        """Registers of a thread, about: sums, operands, and what addresses take."""
        if self.wide:
            return self.columns // 2 + 64
        down, across = self._mma
        return 4 * down * across + 4 * down + 2 * across + 48

    def fits(self, target: Target) -> bool:
        """Whether the device code takes this tile, and a multiprocessor holds it."""
        given = BULK if self.cast else WIDE
        if self.wide and any(getattr(self, name) not in values for name, values in given.items() if name != "strip"):
            return False
        if not self.wide and (min(self._mma) < 1 or self.registers > 255):
            return False
        return self.shared <= target.cache[0] - 1024 and self.registers * self.threads <= _REGISTERS

    def suits(self, work: Work) -> bool:
        """Whether the device code computes this in such tiles."""
        if work.span % self.columns:
            return False
        if not self.wide:
            return not self.strip and not self.cast
        if not work.wide:
            return False
        if self.cast:
            even = bool(self.cut) or self.deep % 2 == 0
            whole = work.block == 4 and work.blocks % (2 * self.deep) == 0 and even
            halves = work.fours // 2  # a block of columns is one or two core matrices
            return whole and halves > 0 and self.columns // halves >= 64 and bool(self.cut) == bool(work.strips)
        if not self.strip:
            return work.steps(self.deep) % self.parts == 0
        if self.cut is None or work.block != 4 or work.flat(self.deep) or self.cut.taps < self.stages:
            return False
        return work.steps(self.deep) // work.taps % self.parts == 0

    def cycles(self, work: Work, target: Target) -> float:
        """About how long the whole kernel takes."""
        rows = self.cut.positions(work.images) if self.cut else work.rows
        blocks = work.batch * self.parts * -(-rows // self.rows) * -(-work.columns // self.columns)
        resident = min(
            target.cache[0] // (self.shared + 1024),
            _REGISTERS // (self.registers * self.threads),
            _THREADS // self.threads,
            -(-blocks // target.cores),
        )
        # A step's operands: those of strips come once for all taps, weights in bulk once for a cluster.
        positions = self.rows if self.cut is None else (self.rows + self.cut.halo) / self.cut.taps
        multiply, read = self._step(positions + self.columns)
        moved = positions + self.columns / max(1, self.cast)
        rate = min(_L2_BYTES, _L2_SHARE * max(1.0, target.cores / blocks))
        move = 32 * self.deep * moved / rate
        busy = max(multiply, read, move) * self.slices * (1 if self.wide else _BY_WARPS)
        taps = self.cut.taps if self.cut and self.cast else 1  # that threads wait for together
        wait = max(_MEMORY / (self.stages - 1 - self.wide) / taps, _STEP / taps + multiply)
        steps = -(-work.steps(self.deep) // (self.slices * self.parts))
        end, after = self.rows * self.columns / 8, 0.0
        meet = 200.0 * self.slices
        if self.parts > 1 and target.has("cluster"):
            end = end / self.parts + 4 * self.rows * self.columns * (self.parts - 1) / self.parts / _PEER_BYTES
            meet = 2.0 * _MEET
        elif self.parts > 1:
            after = _SECOND + 4 * self.parts * work.batch * rows * work.columns / (_L2_SHARE * target.cores)
        # The first thread blocks of a multiprocessor go hand in hand; later ones multiply while others end.
        first = steps * max(busy * resident, wait) + _START + end * resident + meet
        alone = steps * max(busy, wait) + _START + end + meet
        later = max(alone, resident * max(steps * busy, end))
        return first + (math.ceil(blocks / (target.cores * resident)) - 1) * later + after

    def _step(self, written: float) -> tuple[float, float]:
        """Cycles that multiplying takes, and that reading shared memory and writing so many rows and columns does."""
        if self.wide:
            multiply = self.rows * self.columns * self.deep / 128
            return multiply, (self.rows // 64 * (64 + self.columns) + written) / 4 * self.deep
        down, across = self._mma
        return self.rows * self.columns * self.deep / 64, 4 * (4 * down + 2 * across) * self.deep


def scope(size: int) -> str:
    """TVM's name of shared memory of so many bytes."""
    return "shared" if size <= _STATIC else "shared.dyn"


def space(work: Work) -> dict[str, tuple[int, ...]]:
    """Every value of every parameter that tiles of this can have."""
    spaces = (SPACE, WIDE, BULK) if work.wide else (SPACE,)
    values = {name: {value for each in spaces for value in each[name]} for name in SPACE}
    values["columns"] = {columns for columns in values["columns"] if work.span % columns == 0}
    values["strip"] = {0, *(strips.width for strips in work.strips)}
    return {name: tuple(sorted(found)) for name, found in values.items()}


def ranked(work: Work, target: Target) -> list[dict[str, int]]:
    """Parameters of the tiles that fit, the quickest by `Tile.cycles` first; of equals, that of deeper steps, which
    are fewer, or the one that takes least.

    Those whose weights come in bulk have not been measured: the first is none of them, whatever the model says.
    """
    tiles = _every(SPACE)
    if work.wide:
        plain, bulk = _every(WIDE), _every(BULK)
        cut = [replace(tile, strip=cut.width, cut=cut) for tile in plain + bulk for cut in work.strips]
        tiles += plain + bulk + cut
    fitting = [tile for tile in tiles if tile.fits(target) and tile.suits(work)]
    order = sorted(fitting, key=lambda t: (t.cycles(work, target), -t.deep, t.shared, t.threads))
    first = next(tile for tile in order if not tile.cast)
    return [first.params, *(tile.params for tile in order if tile is not first)]


def _every(values: Mapping[str, tuple[int, ...]]) -> list[Tile]:
    """A tile of every combination, of plain lists."""
    return [replace(Tile(*sizes), cast=cast) for *sizes, _, cast in itertools.product(*values.values())]
