"""The analytical model behind products in tile registers: how many rows a tile has, and how tiles of sums lie."""

from __future__ import annotations

import math
from dataclasses import dataclass

ROWS, COLUMNS, BYTES = 16, 16, 64
"""Most rows of a tile, its sums a row, and the bytes of a row of data that one product takes."""
SUMS = 4
"""Tiles of sums that stay in registers."""
FLAT_WIDTH, FLAT_SUMS = 16, 1 << 16
"""Width of an image up to which all of its positions are walked as one axis, and bytes of the sums of one tile's
columns."""
SHAPES = ((2, 2), (1, 4), (4, 1), (1, 3), (3, 1), (1, 2), (2, 1), (1, 1))
"""Tiles of sums along rows and along columns."""


def pitch(kernel: int, stride: int, dilation: int, width: int) -> int:
    """Positions from one line of a result to the next, in a source that is as wide as it is read."""
    return width + (kernel - 1) * dilation // stride


def flat_positions(
    kernel: tuple[int, int], strides: tuple[int, int], dilations: tuple[int, int], output: tuple[int, int]
) -> int:
    """Positions that a convolution walks as one axis, those between lines too; 0 where it goes line by line.

    >>> flat_positions((3, 3), (1, 1), (1, 1), (7, 7)), flat_positions((1, 1), (2, 2), (1, 1), (28, 28))
    (61, 784)
    >>> flat_positions((3, 3), (1, 1), (1, 1), (56, 56))
    0
    """
    height, width = output
    across = pitch(kernel[1], strides[1], dilations[1], width)
    positions = (height - 1) * across + width
    if kernel == (1, 1):
        return positions
    few = width <= FLAT_WIDTH and positions * COLUMNS * 4 <= FLAT_SUMS
    return positions if few and across < 2 * width else 0


@dataclass(frozen=True)
class Depth:
    """What a tile of sums reads.

    Attributes:
        row: bytes of a row of data, all the steps; of a column of weights as many.
        taps: of a kernel, which read data several times.
        cache: bytes of the first cache.
    """

    row: int
    taps: int
    cache: int

    def weights_stay(self, wide: int) -> bool:
        """Whether the weights of so many tiles of columns stay in two thirds of the first cache."""
        return self.row * COLUMNS * wide * 3 <= self.cache * 2

    def data_stay(self, rows: int) -> bool:
        """Whether so many rows of data stay in two thirds of the first cache."""
        return self.row * rows * 3 <= self.cache * 2 * self.taps


def tile_cycles(rows: int, tall: int, wide: int, depth: Depth) -> float:
    """Modelled cycles of one step of a sum, 64 bytes of each row.

    On a Sapphire Rapids server a product was measured to take as many cycles as a tile has rows, nine at least, and a
    load eight from the first cache and 21 from the second. The rest is fitted to whole layers: thirty cycles until
    another product may add to its sums, 24 or, of several tiles in turn, thirty for a load from the second cache, and
    that most of the shorter of both is hidden.
    """
    products = max(tall * wide * max(rows, 9.0), 30.0)
    data = tall * rows * (0.5 if depth.data_stay(rows * tall) else 1.5)
    loads = data + wide * (8.0 if depth.weights_stay(wide) else 24.0 if wide == 1 else 30.0)
    return max(products, loads) + 0.3 * min(products, loads)


def choose_matrix_tile(extent: int, columns: int, depth: Depth) -> tuple[int, int, int]:
    """Rows of a tile, tiles along rows and along columns.

    Args:
        extent: rows of the product.
        columns: sixteens of its columns.

    >>> choose_matrix_tile(3136, 4, Depth(64, 1, 48 << 10))
    (16, 2, 2)
    >>> choose_matrix_tile(196, 16, Depth(1024, 1, 48 << 10))
    (14, 2, 2)
    >>> choose_matrix_tile(61, 32, Depth(4608, 9, 48 << 10))
    (16, 4, 1)
    """
    best: tuple[float, int, int, int, int] | None = None
    for order, (tall, wide) in enumerate(SHAPES):
        if columns % wide or tall > extent:
            continue
        for rows in range(1, min(ROWS, math.ceil(extent / tall)) + 1):
            walked = math.ceil(extent / (rows * tall)) * (columns // wide)
            surplus = 1.0 if extent % (rows * tall) == 0 else 1.03  # data is copied where rows are added
            key = (walked * surplus * tile_cycles(rows, tall, wide, depth), order, rows, tall, wide)
            best = key if best is None or key < best else best
    assert best is not None
    return best[2:]


def matrix_tiles(extent: int, columns: int) -> list[tuple[int, int, int]]:
    """Every choice worth measuring: no smaller tile walks the rows in as many steps."""
    found = []
    for tall, wide in SHAPES:
        if columns % wide or tall > extent:
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


def crowded(stride: int) -> bool:
    """Whether rows so many bytes apart share too few of a first cache's 64 sets for the rows of tiles to stay.

    >>> crowded(768), crowded(1024), crowded(4096)
    (False, True, True)
    """
    return stride % BYTES == 0 and math.gcd(stride // BYTES, 64) >= 16
