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


def choose_tile(extent: int, blocks: int, registers: int, spare: int = 4) -> Tile:
    """The register tile for a product over `extent` positions and `blocks` vectors of output channels.

    Minimizes the modelled cycles of one step of the reduction over the whole extent. A step of one tile
    issues rows * blocks multiply-adds (two a cycle) and loads rows broadcasts and `blocks` weight vectors
    (two a cycle, overlapping); a tile too small to hide the latency of the multiply-add (four cycles, two
    ports: eight accumulators in flight) is charged for the bubble. Positions beyond the extent are wasted.

    Args:
        extent: number of output positions along the tiled axis.
        blocks: number of output channel blocks.
        registers: vector registers; `spare` of them hold weights and broadcasts.

    >>> choose_tile(56, 4, 32)
    Tile(rows=7, blocks=4, padded=56)
    >>> choose_tile(197, 48, 32).padded
    198
    """
    best: tuple[float, int, int, int] | None = None
    for columns in (1, 2, 3, 4, 6, 8):
        if blocks % columns:
            continue
        for rows in range(1, min(extent, 28) + 1):
            if rows * columns > registers - spare:
                break
            tiles = -(-extent // rows)
            fma = rows * columns / 2
            loads = (rows + columns) / 2
            step = max(fma, loads, 4.0) + 0.25
            cost = tiles * step * (blocks // columns)
            key = (cost, -columns, rows, columns)
            if best is None or key < best:
                best = key
    assert best is not None
    rows, columns = best[2], best[3]
    return Tile(rows, columns, -(-extent // rows) * rows)
