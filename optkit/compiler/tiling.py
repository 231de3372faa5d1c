"""The analytical model behind register tiles: how many accumulators a kernel keeps, and in which shape."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tile:
    """`rows` x `blocks` accumulators; the tiled extent is rounded up to `padded`, a multiple of `rows`."""

    rows: int
    blocks: int
    padded: int

    def attrs(self) -> dict[str, int]:
        """The tile as block annotations, for the kernel rules."""
        return {"optkit.rows": self.rows, "optkit.blocks": self.blocks}


def choose_tile(extent: int, blocks: int, registers: int) -> Tile:
    """The register tile for a product over `extent` positions and `blocks` vectors of output channels.

    Minimizes the modelled cycles of one step of the reduction over the whole extent. A step of one tile
    issues rows * blocks multiply-adds, two a cycle, and never less than four cycles' worth (the latency of
    a multiply-add over two ports); its rows + blocks loads mostly overlap. Positions beyond the extent are
    wasted. Beyond about twenty accumulators of thirty-two registers the compiler starts to spill
    (measured over ResNet-50's layers: 4x4, 5x4, 7x2 and 10x2 are within 10 % of the best everywhere, tiles
    of 24 to 28 lose 20 to 50 %).

    Args:
        extent: number of output positions along the tiled axis.
        blocks: number of output channel blocks.
        registers: vector registers of the target.

    >>> choose_tile(56, 4, 32)
    Tile(rows=4, blocks=4, padded=56)
    >>> choose_tile(49, 32, 32)
    Tile(rows=5, blocks=4, padded=50)
    """
    limit = registers - (12 if registers >= 32 else 4)
    best: tuple[float, int, int] | None = None
    for columns in (1, 2, 3, 4):
        if blocks % columns:
            continue
        for rows in range(1, min(extent, limit // columns) + 1):
            tiles = -(-extent // rows)
            step = max(rows * columns / 2, 4.0) + 0.1 * (rows + columns)
            key = (tiles * step * (blocks // columns), rows, columns)
            if best is None or key < best:
                best = key
    assert best is not None
    _, rows, columns = best
    return Tile(rows, columns, -(-extent // rows) * rows)
