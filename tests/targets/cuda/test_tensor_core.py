"""The device code of the tensor-core kernels, run on the CPU thread by thread, against sums in NumPy."""

from __future__ import annotations

import itertools
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from optkit_targets.cuda.kernels.tiles import Tile

from optkit.compiler.packing import matmul_weight
from tests.targets.cuda.host import NEEDS
from tests.targets.cuda.tiled import (
    KINDS,
    WIDE_KINDS,
    Geometry,
    agree,
    convolution,
    multiplied,
    operands,
    spread,
    tiles,
    vector,
)

pytestmark = pytest.mark.needs_nvcc  # for the toolkit's headers
SMALL, WIDE, SQUARE = Tile(64, 32, 1, 2, 1), Tile(128, 64, 1, 4, 1), Tile(64, 64, 2, 3, 1)
SLICED, LARGE, FLAT = Tile(32, 64, 1, 3, 4), Tile(128, 128, 2, 2, 1), Tile(32, 128, 2, 2, 2)
BROAD, TALL = Tile(128, 128, 2, 3, 1, wide=1), Tile(64, 64, 4, 4, 1, wide=1)
GEOMETRIES = {
    "pointwise, tiles not full": (SMALL, Geometry(3, 5, 7, 9, 7, 9)),
    "pointwise, many steps": (WIDE, Geometry(40, 18, 6, 11, 6, 11)),
    "pointwise, vectors of positions": (LARGE, Geometry(20, 40, 12, 15, 12, 15)),
    "pointwise, slices": (SLICED, Geometry(50, 18, 6, 6, 6, 6)),
    "3x3, padded": (SQUARE, Geometry(9, 16, 6, 7, 6, 7, 3, 3, top=1, left=1, fill=0x80808080)),
    "3x3, slices": (FLAT, Geometry(16, 33, 6, 7, 6, 7, 3, 3, top=1, left=1, fill=0x01010101)),
    "3x3, stride 2": (Tile(128, 32, 1, 3, 1), Geometry(4, 8, 13, 9, 7, 5, 3, 3, 2, 2, top=1, left=1, fill=0x07070707)),
    "one block in": (SQUARE, Geometry(1, 16, 15, 13, 8, 7, 7, 7, 2, 2, top=3, left=3, fill=0x80808080)),
    "few blocks in, slices": (SLICED, Geometry(3, 4, 9, 9, 9, 9, 3, 3, top=1, left=1, fill=0x03030303)),
    "3x3, parts": (replace(SQUARE, parts=8), Geometry(9, 16, 6, 7, 6, 7, 3, 3, top=1, left=1, fill=0x80808080)),
    "pointwise, slices of parts": (replace(SLICED, parts=2), Geometry(50, 18, 6, 6, 6, 6)),
    "fewer steps than parts": (replace(SMALL, parts=8), Geometry(5, 8, 5, 5, 5, 5)),
    "pointwise, images": (LARGE, Geometry(20, 40, 6, 6, 6, 6, images=9)),
    "3x3, images, parts": (
        replace(SQUARE, parts=2),
        Geometry(9, 16, 6, 7, 6, 7, 3, 3, top=1, left=1, fill=0x80808080, images=5),
    ),
    "3x3, groups": (SMALL, Geometry(32, 32, 6, 7, 6, 7, 3, 3, top=1, left=1, fill=0x80808080, groups=4)),
    "3x3, groups, images, parts": (
        replace(SQUARE, parts=4),
        Geometry(16, 32, 6, 7, 6, 7, 3, 3, top=1, left=1, fill=0x80808080, images=3, groups=2),
    ),
    "groups that straddle tiles": (SMALL, Geometry(30, 30, 5, 5, 5, 5, groups=5)),
    "small groups, the last tile not full": (SMALL, Geometry(26, 26, 5, 5, 5, 5, 3, 3, top=1, left=1, groups=13)),
    "dilated, not square": (SMALL, Geometry(6, 3, 11, 12, 9, 8, 2, 3, dy=2, dx=2, fill=0)),
}

WIDE_GEOMETRIES = {
    "wide, pointwise": (BROAD, Geometry(20, 40, 12, 15, 12, 15)),
    "wide, pointwise, tiles not full": (TALL, Geometry(9, 5, 7, 9, 7, 9)),
    "wide, 3x3, padded": (TALL, Geometry(16, 20, 6, 7, 6, 7, 3, 3, top=1, left=1, fill=0x80808080)),
    "wide, 3x3, stride 2": (BROAD, Geometry(5, 9, 21, 19, 11, 10, 3, 3, 2, 2, top=1, left=1, fill=0x07070707)),
    "wide, one block in": (
        Tile(128, 64, 2, 4, 1, wide=1),
        Geometry(1, 16, 15, 13, 8, 7, 7, 7, 2, 2, top=3, left=3, fill=0x80808080),
    ),
    "wide, 3x3, images": (TALL, Geometry(16, 20, 6, 7, 6, 7, 3, 3, top=1, left=1, fill=0x80808080, images=5)),
    "wide, groups, images": (TALL, Geometry(24, 48, 6, 6, 6, 6, images=3, groups=3)),
    "wide, 3x3, images, parts": (
        Tile(64, 128, 2, 4, 1, 2, wide=1),
        Geometry(32, 20, 6, 7, 6, 7, 3, 3, top=1, left=1, fill=0x80808080, images=3),
    ),
    "wide, tall": (Tile(256, 64, 2, 3, 1, wide=1), Geometry(20, 18, 17, 18, 17, 18)),
    "wide, tall, few columns": (Tile(256, 32, 2, 6, 1, wide=1), Geometry(20, 18, 17, 18, 17, 18)),
    "wide, 32 columns": (
        Tile(64, 32, 4, 8, 1, wide=1),
        Geometry(16, 20, 6, 7, 6, 7, 3, 3, top=1, left=1, fill=0x80808080, images=2),
    ),
    "wide, dilated": (Tile(64, 256, 2, 5, 1, wide=1), Geometry(6, 70, 11, 12, 9, 8, 2, 3, dy=2, dx=2, fill=0)),
}


@dataclass(frozen=True)
class Product:
    """Fours of terms and of columns, rows of the result, columns whose weights lie together."""

    fours_in: int
    fours_out: int
    m: int
    together: int = 4

    def numbers(self, kind: str) -> tuple[int, ...]:
        """Those of `OptkitMatmul`, in its order."""
        return 4, self.together // 4, self.fours_in * 4 // vector(kind), self.fours_out, self.m


PRODUCTS = {
    "not full": (SMALL, Product(4, 3, 37)),
    "many steps": (WIDE, Product(44, 21, 150)),
    "one row, slices": (SLICED, Product(100, 25, 1)),
    "one row, slices of parts": (replace(SLICED, parts=4), Product(100, 25, 1)),
    "deep steps": (LARGE, Product(36, 40, 100)),
    "eights of columns": (SQUARE, Product(36, 22, 70, 8)),
    "one strip of warps": (Tile(128, 32, 2, 3, 1), Product(12, 8, 128)),
}

WIDE_PRODUCTS = {
    "wide, whole tiles": (BROAD, Product(32, 32, 256)),
    "wide, tiles not full": (TALL, Product(44, 21, 150)),
    "wide, eights of columns": (BROAD, Product(32, 42, 140, 8)),
    "wide, few steps": (Tile(64, 128, 4, 5, 1, wide=1), Product(12, 9, 37)),
    "wide, 32 columns": (Tile(128, 32, 2, 8, 1, wide=1), Product(80, 21, 150)),
}


@dataclass(frozen=True)
class Pair:
    """The numbers of `OptkitProduct`, in its order."""

    fours_in: int
    n: int
    m: int
    transposed: int


PAIRS = {
    "rows by rows": (SQUARE, Pair(16, 50, 70, 1)),
    "rows by rows, slices": (SLICED, Pair(38, 33, 20, 1)),
    "rows by columns": (SQUARE, Pair(22, 56, 70, 0)),
    "rows by columns, wide": (LARGE, Pair(10, 136, 130, 0)),
    "rows by columns, parts": (replace(SQUARE, parts=2), Pair(22, 56, 70, 0)),
    "rows by columns, slices": (Tile(32, 32, 2, 2, 2), Pair(36, 40, 33, 0)),
}


@NEEDS
@pytest.mark.parametrize(
    ("name", "kind"), [*itertools.product(GEOMETRIES, KINDS), *itertools.product(WIDE_GEOMETRIES, WIDE_KINDS)]
)
def test_tiles_of_a_convolution_hold_its_sums(kind: str, name: str, tmp_path: Path) -> None:
    tile, g = (GEOMETRIES | WIDE_GEOMETRIES)[name]
    g = g if kind == "uint8" else replace(g, fill=0)
    (blocked, packed), numbers, want = convolution(g, kind)
    agree(tiles(tmp_path, "OptkitConv", tile, numbers, (blocked, packed)), want)
    if g.images > 1:
        apart, second = spread(blocked, g.images)
        for clusters in {False, tile.parts > 1}:
            folder = tmp_path / f"apart_{clusters}"
            folder.mkdir()
            given = folder, "OptkitConv", tile, numbers, (apart, packed)
            agree(tiles(*given, clusters=clusters, more=second), want)


@NEEDS
@pytest.mark.parametrize(
    ("name", "kind"), [*itertools.product(PRODUCTS, KINDS), *itertools.product(WIDE_PRODUCTS, WIDE_KINDS)]
)
def test_tiles_of_a_product_hold_its_sums(kind: str, name: str, tmp_path: Path) -> None:
    tile, p = (PRODUCTS | WIDE_PRODUCTS)[name]
    data, weights = operands(kind, (p.m, p.fours_in * 4), (p.fours_in * 4, p.fours_out * 4))
    packed = matmul_weight(weights, p.together, vector(kind))
    found = tiles(tmp_path, "OptkitMatmul", tile, (*p.numbers(kind), p.m, p.fours_out * 4), (data, packed))
    agree(found, multiplied(data).astype(np.float64) @ multiplied(weights).astype(np.float64))


CLUSTERS = {
    "wide, 2": Tile(64, 64, 2, 4, 1, 2, wide=1),
    "8": replace(SMALL, parts=8),
    "4, slices": replace(SLICED, parts=4),
    "2": replace(SQUARE, parts=2),
}


@NEEDS
@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name in CLUSTERS for kind in (WIDE_KINDS if CLUSTERS[name].wide else KINDS)]
)
def test_clusters_add_up_what_their_blocks_have(name: str, kind: str, tmp_path: Path) -> None:
    tile = CLUSTERS[name]
    p = Product(64 if tile.wide else 100, 21, 70)
    data, weights = operands(kind, (p.m, p.fours_in * 4), (p.fours_in * 4, p.fours_out * 4))
    numbers, packed = (*p.numbers(kind), p.m, p.fours_out * 4), matmul_weight(weights, p.together, vector(kind))
    found = tiles(tmp_path, "OptkitMatmul", tile, numbers, (data, packed), clusters=True)
    agree(found, multiplied(data).astype(np.float64) @ multiplied(weights).astype(np.float64))


@NEEDS
@pytest.mark.parametrize("kind", WIDE_KINDS)
def test_other_gpus_compute_wide_tiles_without_warpgroups(kind: str, tmp_path: Path) -> None:
    tile, p = WIDE_PRODUCTS["wide, tiles not full"]
    data, weights = operands(kind, (p.m, p.fours_in * 4), (p.fours_in * 4, p.fours_out * 4))
    numbers, option = (*p.numbers(kind), p.m, p.fours_out * 4), "-DOPTKIT_WITHOUT_WARPGROUPS"
    found = tiles(
        tmp_path, "OptkitMatmul", tile, numbers, (data, matmul_weight(weights, p.together, vector(kind))), option
    )
    agree(found, data.astype(np.float64) @ weights.astype(np.float64))


@NEEDS
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "uint8"])
@pytest.mark.parametrize("name", PAIRS)
def test_tiles_of_a_product_of_activations_hold_its_sums(kind: str, name: str, tmp_path: Path) -> None:
    tile, p = PAIRS[name]
    depth = p.fours_in * 4
    left, right = operands(kind, (p.m, depth), (p.n, depth) if p.transposed else (depth, p.n))
    found = tiles(tmp_path, "OptkitProduct", tile, (*astuple(p), p.m, p.n), (left, right))
    other = multiplied(right).T if p.transposed else multiplied(right)
    agree(found, multiplied(left).astype(np.float64) @ other.astype(np.float64))
