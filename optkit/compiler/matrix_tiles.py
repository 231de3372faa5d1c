"""The analytical model behind products in tile registers: how many rows a tile has, and how tiles of sums lie."""

from __future__ import annotations

import math

ROWS, COLUMNS, BYTES = 16, 16, 64
"""Most rows of a tile, its sums a row, and the bytes of a row of data that one product takes."""
SUMS = 4
"""Tiles of sums that stay in registers."""
SHAPES = ((2, 2), (1, 4), (4, 1), (1, 3), (3, 1), (1, 2), (2, 1), (1, 1))
"""Tiles of sums along rows and along columns."""


def tile_cycles(rows: int, tall: int, wide: int) -> float:
    """Modelled cycles of one step of a sum, 64 bytes of each row.

    Measured on a Sapphire Rapids server at 3.2 GHz: a product takes as many cycles as a tile has rows, twelve at least;
    it is 52 cycles until another one may add to its sums, and a tile is loaded in eight.
    """
    return max(tall * wide * max(rows, 12.0), 52.0, 8.0 * (tall + wide)) + 0.1 * (tall + wide)


def choose_matrix_tile(extent: int, columns: int) -> tuple[int, int, int]:
    """Rows of a tile, tiles along rows and along columns, for `extent` rows and `columns` of 16 sums.

    >>> choose_matrix_tile(3136, 4)
    (16, 2, 2)
    >>> choose_matrix_tile(196, 16)
    (14, 2, 2)
    >>> choose_matrix_tile(49, 32)
    (13, 2, 2)
    """
    best: tuple[float, int, int, int, int] | None = None
    for order, (tall, wide) in enumerate(SHAPES):
        if columns % wide:
            continue
        for rows in range(1, min(ROWS, math.ceil(extent / tall)) + 1):
            walked = math.ceil(extent / (rows * tall)) * (columns // wide)
            surplus = 1.0 if extent % (rows * tall) == 0 else 1.03  # data is copied where rows are added
            key = (walked * surplus * tile_cycles(rows, tall, wide), order, rows, tall, wide)
            best = key if best is None or key < best else best
    assert best is not None
    return best[2:]


def matrix_tiles(extent: int, columns: int) -> list[tuple[int, int, int]]:
    """Every choice worth measuring: no smaller tile walks the rows in as many steps."""
    found = []
    for tall, wide in SHAPES:
        if columns % wide:
            continue
        for rows in range(1, min(ROWS, math.ceil(extent / tall)) + 1):
            steps = math.ceil(extent / (rows * tall))
            if rows == 1 or math.ceil(extent / ((rows - 1) * tall)) > steps:
                found.append((rows, tall, wide))
    return found


def step_bytes(depth: int) -> int:
    """Bytes of a row of data that one step takes, of `depth` in all: 64, or the most that divide it in whole fours.

    >>> step_bytes(768), step_bytes(96), step_bytes(147)
    (64, 48, 64)
    """
    even = max((size for size in range(4, BYTES + 1, 4) if depth % size == 0), default=0)
    return even if even > BYTES // 2 else BYTES
