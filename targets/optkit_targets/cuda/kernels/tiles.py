"""Tiles of the tensor-core kernels: what they take of a multiprocessor, and about how long."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from optkit.target import Target

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
}
WIDE: dict[str, tuple[int, ...]] = {
    "rows": (64, 128),
    "columns": (64, 128, 256),
    "deep": (2, 4),
    "stages": (3, 4, 5),
    "slices": (1,),
    "parts": (1,),
    "wide": (1,),
}
"""Tiles by instructions of whole warpgroups."""
_STATIC = 48 * 1024
"""Bytes of shared memory that a block has on every GPU without asking for more."""
_REGISTERS, _THREADS = 65536, 1536  # of a multiprocessor
# Cycles, as measured by others: Luo et al., "Benchmarking and Dissecting the Nvidia Hopper GPU Architecture", 2024.
_MEMORY, _STEP, _START = 700, 60, 1500
_SECOND = 3000
"""From the end of a kernel to the first results of the next one in a graph."""
_MEET, _PEER_BYTES = 250, 14
"""Cycles in which thread blocks of a cluster meet, and bytes that one reads from the others in a cycle."""
_L2_BYTES = 64
"""Bytes that a multiprocessor gets in a cycle."""


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
    """

    rows: int
    columns: int
    deep: int
    stages: int
    slices: int
    parts: int = 1
    wide: int = 0

    @classmethod
    def of(cls, params: Mapping[str, int], target: Target) -> Tile:
        """The tile of a choice's parameters.

        Raises:
            ValueError: it does not fit a multiprocessor.
        """
        tile = cls(**{name: params[name] for name in SPACE})
        if not tile.fits(target):
            raise ValueError(f"{tile.shared} bytes of shared memory, {tile.registers} registers a thread do not fit")
        return tile

    @property
    def threads(self) -> int:
        """Of a thread block."""
        return 2 * self.rows if self.wide else SLICE * self.slices

    @property
    def planes(self) -> int:
        """Of (rows + 1) x 4 words: for the operands, and later for the sums."""
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
        if self.wide and any(getattr(self, name) not in values for name, values in WIDE.items()):
            return False
        if not self.wide and (min(self._mma) < 1 or self.registers > 255):
            return False
        return self.shared <= target.cache[0] - 1024 and self.registers * self.threads <= _REGISTERS

    def cycles(self, extents: tuple[int, int, int], words: int, target: Target) -> float:
        """About how long the whole kernel takes.

        Args:
            extents: batch, rows, columns.
            words: of the sum.
        """
        batch, rows, columns = extents
        blocks = batch * self.parts * -(-rows // self.rows) * -(-columns // self.columns)
        resident = min(
            target.cache[0] // (self.shared + 1024),
            _REGISTERS // (self.registers * self.threads),
            _THREADS // self.threads,
            -(-blocks // target.cores),
        )
        multiply, read = self._step()
        move = 32 * self.deep * (self.rows + self.columns) / _L2_BYTES
        busy = max(multiply, read, move) * self.slices
        wait = max(_MEMORY / (self.stages - 1 - self.wide), _STEP + multiply)
        steps = -(-words // (8 * self.deep * self.slices * self.parts))
        end, after = self.rows * self.columns / 8, 0.0
        meet = 200.0 * self.slices
        if self.parts > 1 and target.has("cluster"):
            end = end / self.parts + 4 * self.rows * self.columns * (self.parts - 1) / self.parts / _PEER_BYTES
            meet = 2.0 * _MEET
        elif self.parts > 1:
            after = _SECOND + 4 * self.parts * batch * rows * columns / (_L2_BYTES * target.cores)
        # The first thread blocks of a multiprocessor go hand in hand; later ones multiply while others end.
        first = steps * max(busy * resident, wait) + _START + end * resident + meet
        alone = steps * max(busy, wait) + _START + end + meet
        later = max(alone, resident * max(steps * busy, end))
        return first + (math.ceil(blocks / (target.cores * resident)) - 1) * later + after

    def _step(self) -> tuple[float, float]:
        """Cycles that multiplying takes, and that reading and writing shared memory does."""
        if self.wide:
            multiply = self.rows * self.columns * self.deep / 128
            read = self.rows // 64 * (64 + self.columns) / 4 * self.deep
            return multiply, read + (self.rows + self.columns) / 4 * self.deep
        down, across = self._mma
        return self.rows * self.columns * self.deep / 64, 4 * (4 * down + 2 * across) * self.deep


def scope(size: int) -> str:
    """TVM's name of shared memory of so many bytes."""
    return "shared" if size <= _STATIC else "shared.dyn"


def space(wide: bool, span: int = 0) -> dict[str, tuple[int, ...]]:
    """Every value of every parameter; of columns, those that divide `span`, as in `ranked`."""
    values = {name: {*SPACE[name], *(WIDE[name] if wide else ())} for name in SPACE}
    values["columns"] = {columns for columns in values["columns"] if span % columns == 0}
    return {name: tuple(sorted(found)) for name, found in values.items()}


def ranked(
    extents: tuple[int, int, int], words: int, target: Target, wide: bool, span: int = 0
) -> list[dict[str, int]]:
    """Parameters of the tiles that fit, the quickest by `Tile.cycles` first; of equals, the one that takes least.

    Args:
        extents: batch, rows, columns.
        words: of the sum.
        wide: whether warpgroups can multiply what is multiplied here.
        span: columns that read the same, which those of a tile divide; 0 where all do.
    """
    spaces = (SPACE, WIDE) if wide else (SPACE,)
    tiles = (Tile(*values) for each in spaces for values in itertools.product(*each.values()))
    fitting = [tile for tile in tiles if tile.fits(target) and span % tile.columns == 0]
    order = sorted(fitting, key=lambda t: (t.cycles(extents, words, target), t.shared, t.threads))
    return [asdict(tile) for tile in order]
