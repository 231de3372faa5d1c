"""Weights that come in bulk, to all thread blocks of a cluster: device code run thread by thread."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from optkit_targets.cuda.kernels.tiles import Tile

from optkit.compiler.packing import matmul_weight
from tests.targets.cuda.host import NEEDS, host_library, pointers
from tests.targets.cuda.tiled import (
    KINDS,
    WIDE_KINDS,
    Geometry,
    agree,
    convolution,
    multiplied,
    operands,
    spread,
    strips,
)

pytestmark = pytest.mark.needs_nvcc  # for the toolkit's headers
PADDED = {"ky": 3, "kx": 3, "top": 1, "left": 1}


def bulk(rows: int, columns: int, deep: int, stages: int, cast: int) -> Tile:
    """A tile for so many thread blocks that share weights."""
    return Tile(rows, columns, deep, stages, 1, wide=1, cast=cast)


def run(
    folder: Path,
    code: str,
    tile: Tile,
    extents: tuple[int, int],
    operands: tuple[np.ndarray, np.ndarray],
    more: str = "",
) -> np.ndarray:
    """All tiles, a cluster at a time, twice: copies come as late as they may, and at once."""
    kind = np.int32 if "OptkitBytes" in code else np.float32
    m, n = extents
    down, across = -(-m // (tile.rows * tile.cast)), -(-n // tile.columns)
    kept = tile.columns * (tile.rows + 1)
    library = host_library(
        folder,
        f"""
        typedef {code} Code;
        typedef Code::Tile::Sum Sum;
        extern "C" int run(const unsigned* data, const unsigned* weights, Sum* out) {{
          int bad = 0;
          for (int turn = 0; turn < 2; ++turn)
          for (int y = 0; y < {down}; ++y)
            for (int x = 0; x < {across}; ++x) {{
              Sum* to = out + (turn * {down} * {across} + y * {across} + x) * {tile.cast} * {kept};
              auto thread = [&] {{
                auto* sums = emulator::dynamic<Sum>();
                const int row = (y * {tile.cast} + blockIdx.z) * {tile.rows};
                Code::run(sums, data, weights, 0, x * {tile.columns}, row{more});
                if (threadIdx.x == 0) std::memcpy(to + blockIdx.z * {kept}, sums, {kept} * sizeof(Sum));
              }};
              bad |= emulator::run_threads(Code::Tile::THREADS, thread, {tile.cast});
            }}
          return bad;
        }}""",
    )
    assert tile.shared <= 227 * 1024
    out = np.zeros((2, down, across, tile.cast, tile.columns // 4, tile.rows + 1, 4), kind)
    library.bounds(*(x for a in operands for x in (*pointers(a), a.nbytes)))
    assert library.run(*pointers(*operands, out)) == 0
    whole = out[..., :-1, :].transpose(0, 1, 3, 5, 2, 4, 6).reshape(2, down * tile.cast * tile.rows, -1)[:, :m, :n]
    np.testing.assert_array_equal(whole[0], whole[1])
    return whole[0]


# Tile, width of strips (0: an image is one), and what is summed.
CASES = {
    "alone": (bulk(64, 64, 1, 3, 1), 7, Geometry(16, 20, 6, 7, 6, 7, **PADDED, fill=0x80808080)),
    "of two, many groups": (
        bulk(64, 64, 1, 4, 2),
        7,
        Geometry(96, 36, 7, 7, 7, 7, **PADDED, images=3, fill=0x01010101),
    ),
    "of four, columns not full": (bulk(64, 128, 1, 3, 4), 11, Geometry(64, 36, 9, 22, 9, 22, **PADDED, images=2)),
    "four warpgroups": (bulk(256, 64, 1, 3, 2), 18, Geometry(32, 16, 17, 18, 17, 18, **PADDED)),
    "fewer groups than buffers": (bulk(64, 64, 1, 4, 2), 6, Geometry(8, 16, 6, 6, 6, 6, **PADDED, images=5)),
    "pointwise": (bulk(64, 128, 4, 4, 2), 11, Geometry(160, 68, 6, 11, 6, 11, images=2)),
    "pointwise, broad": (bulk(128, 256, 2, 3, 2), 11, Geometry(48, 132, 6, 11, 6, 11, images=2)),
}


@NEEDS
@pytest.mark.parametrize(("name", "kind"), [*itertools.product(CASES, WIDE_KINDS)])
def test_tiles_hold_the_sums(kind: str, name: str, tmp_path: Path) -> None:
    tile, width, g = CASES[name]
    if kind == "uint8":
        tile = replace(tile, columns=max(tile.columns, 128))
        g = replace(g, fours_in=g.fours_in * 2)
    else:
        g = replace(g, fill=0)
    cut = strips(g, width)
    given, numbers, want = convolution(g, kind)
    tile = replace(tile, strip=width, cut=cut)
    text = (tile.rows, tile.columns, tile.deep, tile.stages, 1, 1, tile.planes, tile.cast)
    text = (*text, cut.width, cut.pitch, cut.lines, *numbers[:-3])
    code = f"OptkitBulkConv<{KINDS[kind]}, {', '.join(map(str, text))}, {numbers[-3]}u>"
    extents = cut.positions(g.images), numbers[-1]
    places = cut.position(*np.indices((g.images, g.oh, g.ow))).ravel()
    agree(run(tmp_path, code, tile, extents, given)[places], want)
    if g.images > 1:
        apart, second = spread(given[0], g.images)
        folder = tmp_path / "apart"
        folder.mkdir()
        agree(run(folder, code, tile, extents, (apart, given[1]), second)[places], want)


PRODUCTS = {
    "alone": (bulk(64, 64, 2, 3, 1), 70, 256, 72),
    "of two": (bulk(128, 128, 4, 4, 2), 300, 512, 200),
    "of four": (bulk(64, 256, 2, 3, 4), 130, 384, 264),
    "of two, the second without rows": (bulk(64, 64, 2, 3, 2), 192, 256, 64),
}


@NEEDS
@pytest.mark.parametrize(("name", "kind"), [*itertools.product(PRODUCTS, WIDE_KINDS)])
def test_tiles_of_a_product_hold_its_sums(kind: str, name: str, tmp_path: Path) -> None:
    tile, m, k, n = PRODUCTS[name]
    data, weights = operands(kind, (m, k), (k, n))
    vector = 16 // data.itemsize
    packed = np.ascontiguousarray(matmul_weight(weights, 8, vector))
    text = (tile.rows, tile.columns, tile.deep, tile.stages, 1, 1, tile.planes, tile.cast, 4, 2, k // vector, n // 4, m)
    code = f"OptkitBulkMatmul<{KINDS[kind]}, {', '.join(map(str, text))}>"
    found = run(tmp_path, code, tile, (m, n), (data, packed))
    agree(found, multiplied(data).astype(np.float64) @ multiplied(weights).astype(np.float64))
