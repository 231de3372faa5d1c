"""The analytical model behind register tiles: how many accumulators a kernel keeps, and in which shape."""

from __future__ import annotations

from dataclasses import dataclass, field

from optkit.compiler.operator import OPERATOR

TALL = "tall"
"""Parameter of a plan for tile registers: tiles of accumulators along the rows."""


@dataclass(frozen=True)
class Tile:
    """`rows` x `blocks` accumulators; the tiled extent is rounded up to `padded`, a multiple of `rows`.

    Attributes:
        operator: text of the operator that is computed, for tuning and reports.
        more: further parameters of the template, by name.
    """

    rows: int
    blocks: int
    padded: int
    operator: str = field(default="", repr=False)
    more: tuple[tuple[str, int], ...] = field(default=(), repr=False)

    @property
    def matrix(self) -> bool:
        """Whether its accumulators are in tile registers."""
        return any(name == TALL for name, _ in self.more)

    def attrs(self) -> dict[str, int | str]:
        """The tile as block annotations, for the kernel rules."""
        more = {f"optkit.{name}": value for name, value in self.more}
        named = {OPERATOR: self.operator} if self.operator else {}
        return {"optkit.rows": self.rows, "optkit.blocks": self.blocks, **more, **named}


def kept(registers: int) -> int:
    """Accumulators that are kept in registers for certain.

    Beyond about twenty of thirty-two registers the compiler starts to spill (measured over ResNet-50's layers: 4x4,
    5x4, 7x2 and 10x2 are within 10 % of the best everywhere, tiles of 24 to 28 lose 20 to 50 %).
    """
    return registers - (12 if registers >= 32 else 4)


def tile_step(rows: int, columns: int) -> float:
    """Modelled cycles of one step of the reduction in a tile of `rows` x `columns` accumulators.

    rows * columns multiply-adds issue two a cycle, and never take less than four cycles (the latency of a
    multiply-add over two ports); rows + columns loads mostly overlap.
    """
    return max(rows * columns / 2, 4.0) + 0.1 * (rows + columns)


def choose_tile(extent: int, blocks: int, registers: int) -> Tile:
    """The register tile for a product over `extent` positions and `blocks` vectors of output channels.

    Minimizes the modelled cycles (`tile_step`) of one step of the reduction over the whole extent. Positions
    beyond the extent are wasted.

    Args:
        extent: number of output positions along the tiled axis.
        blocks: number of output channel blocks.
        registers: vector registers of the target.

    >>> choose_tile(56, 4, 32)
    Tile(rows=4, blocks=4, padded=56)
    >>> choose_tile(49, 32, 32)
    Tile(rows=5, blocks=4, padded=50)
    """
    limit = kept(registers)
    best: tuple[float, int, int] | None = None
    for columns in (1, 2, 3, 4):
        if blocks % columns:
            continue
        for rows in range(1, min(extent, limit // columns) + 1):
            tiles = -(-extent // rows)
            key = (tiles * tile_step(rows, columns) * (blocks // columns), rows, columns)
            if best is None or key < best:
                best = key
    assert best is not None
    _, rows, columns = best
    return Tile(rows, columns, -(-extent // rows) * rows)


WINOGRAD_TILES, WINOGRAD_WEIGHTS, WINOGRAD_USED = 96 << 20, 4 << 20, 20 << 20
"""Most bytes that the transformed tiles of one convolution may take, and its weights where they grow fourfold: what an
artifact holds has to be shipped; and where each of them serves 256 tiles."""
_ROWS, _ROW = 12, 5
"""Rows of tiles, which threads share, and tiles of a row, from which on they are computed row by row."""


def choose_winograd(
    macs: int,
    images: int,
    output: tuple[int, int],
    channels: tuple[int, int],
    lanes: int,
    largest: int = 4,
    terms: int = 1,
    by_rows: bool = False,
) -> int:
    """Outputs along a tile's side, 2 or 4, for a 3x3 convolution of stride 1; 0: direct summation is as fast.

    Cycles of the product are its multiply-adds, two vectors a cycle; of the transforms, 7.2 a vector that they write
    or read (measured, within a tenth on ResNet-18's layers); of reading the weights, which are cold at batch 1, half
    their bytes at ten a cycle, the other half overlapped. F(4, 3) has four times the weights of the direct form and
    F(2, 3) 1.8 times, so the larger tile must be a fifth faster than the smaller one, and either by a fifth faster
    than direct summation; of bfloat16 half the weights are moved, and what is modelled to be faster is. Of row by row
    see `long_rows`.

    Args:
        macs: of the direct form.
        output: height and width.
        channels: in and out.
        largest: side that is not to be exceeded.
        terms: products of one multiply-add, 2 of bfloat16; F(4, 3) would lose too much in it and stays float32.
        by_rows: whether long rows of tiles are computed one by one, whose number no memory limits.

    >>> choose_winograd(115605504, 1, (56, 56), (64, 64), 16)
    4
    >>> choose_winograd(115605504, 1, (7, 7), (512, 512), 16)
    2
    >>> choose_winograd(3 * 64 * 9 * 224 * 224, 1, (224, 224), (3, 64), 16)
    0
    >>> choose_winograd(115605504, 1, (7, 7), (512, 512), 16, terms=2)
    2
    """
    blocks = [-(-c // lanes) for c in channels]
    direct = macs / (2 * lanes * terms) + 9 * channels[0] * channels[1] * 4 / terms / 20
    small, large = (
        winograd_cycles(m, images, output, channels, lanes, t, by_rows and long_rows(m, images, output))
        for m, t in ((2, terms), (4, 1))
    )
    ships = 36 * blocks[0] * blocks[1] * lanes * lanes * 4 <= winograd_weights(images, output)
    m, best = (4, large) if largest >= 4 and ships and large * 1.2 < small else (2, small)
    return m if best * (1.2 if terms == 1 else 1.0) < direct else 0


def long_rows(m: int, images: int, output: tuple[int, int]) -> bool:
    """Whether a row of tiles at a time is as fast as all at once: their tiles are in the cache, but weights are read
    for each (measured over 20 layers of classifiers and U-Net: 1.02 to 1.35 times as fast from five tiles a row on).
    """
    return images * -(-output[0] // m) >= _ROWS and -(-output[1] // m) >= _ROW


def winograd_weights(images: int, output: tuple[int, int]) -> int:
    """Most bytes that the weights of F(4, 3) may take."""
    return WINOGRAD_USED if images * -(-output[0] // 4) * -(-output[1] // 4) >= 256 else WINOGRAD_WEIGHTS


def winograd_cycles(
    m: int,
    images: int,
    output: tuple[int, int],
    channels: tuple[int, int],
    lanes: int,
    terms: int = 1,
    by_rows: bool = False,
) -> float:
    """Modelled cycles of F(m, 3), see `choose_winograd`; infinite where its tiles take too much memory."""
    blocks = [-(-c // lanes) for c in channels]
    places = (m + 2) ** 2
    tiles = images * -(-output[0] // m) * -(-output[1] // m)
    if not by_rows and places * tiles * sum(blocks) * lanes * 4 > WINOGRAD_TILES:
        return float("inf")
    product = places * tiles * blocks[0] * lanes * blocks[1] / 2 / terms
    weights = places * blocks[0] * blocks[1] * lanes * lanes * 4 / terms
    return product + 7.2 * places * tiles * sum(blocks) + weights / 20
