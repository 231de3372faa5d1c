"""Weights that come in bulk, to all thread blocks of a cluster: device code run thread by thread."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from optkit_targets.cuda.kernels.strips import strips_of

from optkit.compiler.packing import matmul_weight
from tests.targets.cuda.host import NEEDS, host_library, pointers
from tests.targets.cuda.test_strips import operator
from tests.targets.cuda.test_tensor_core import (
    KINDS,
    WIDE_KINDS,
    Geometry,
    agree,
    convolution,
    multiplied,
    operands,
    spread,
)

pytestmark = pytest.mark.needs_nvcc  # for the toolkit's headers
PADDED = {"ky": 3, "kx": 3, "top": 1, "left": 1}


@dataclass(frozen=True)
class Sizes:
    """Of a tile: rows, columns, eights of words of a step, buffers, thread blocks that share weights."""

    rows: int
    columns: int
    deep: int
    stages: int
    cast: int

    def planes(self, halo: int, taps: int) -> int:
        """Of (rows + 1) x 4 words, for operands or sums, and barriers."""
        operands = self.stages * 8 * self.deep * (self.rows + halo + self.columns * taps)
        return -(-(max(operands, self.columns * (self.rows + 1)) + 4 * self.stages) // (4 * (self.rows + 1)))


def run(
    folder: Path,
    code: str,
    sizes: Sizes,
    extents: tuple[int, int],
    operands: tuple[np.ndarray, np.ndarray],
    planes: int,
    more: str = "",
    *options: str,
) -> np.ndarray:
    """All tiles, a cluster at a time, twice: copies come as late as they may, and at once."""
    kind = np.int32 if "OptkitBytes" in code else np.float32
    m, n = extents
    down, across = -(-m // (sizes.rows * sizes.cast)), -(-n // sizes.columns)
    kept = sizes.columns * (sizes.rows + 1)
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
              Sum* to = out + (turn * {down} * {across} + y * {across} + x) * {sizes.cast} * {kept};
              auto thread = [&] {{
                auto* tile = emulator::dynamic<Sum>();
                const int row = (y * {sizes.cast} + blockIdx.z) * {sizes.rows};
                Code::run(tile, data, weights, 0, x * {sizes.columns}, row{more});
                if (threadIdx.x == 0) std::memcpy(to + blockIdx.z * {kept}, tile, {kept} * sizeof(Sum));
              }};
              bad |= emulator::run_threads(Code::Tile::THREADS, thread, {sizes.cast});
            }}
          return bad;
        }}""",
        *options,
    )
    assert planes * (sizes.rows + 1) * 16 <= 227 * 1024
    out = np.zeros((2, down, across, sizes.cast, sizes.columns // 4, sizes.rows + 1, 4), kind)
    library.bounds(*(x for a in operands for x in (*pointers(a), a.nbytes)))
    assert library.run(*pointers(*operands, out)) == 0
    whole = out[..., :-1, :].transpose(0, 1, 3, 5, 2, 4, 6).reshape(2, down * sizes.cast * sizes.rows, -1)[:, :m, :n]
    np.testing.assert_array_equal(whole[0], whole[1])
    return whole[0]


# Sizes, width of strips (0: an image is one), and what is summed.
CASES = {
    "alone": (Sizes(64, 64, 1, 3, 1), 7, Geometry(16, 20, 6, 7, 6, 7, **PADDED, fill=0x80808080)),
    "of two, many groups": (
        Sizes(64, 64, 1, 4, 2),
        7,
        Geometry(96, 36, 7, 7, 7, 7, **PADDED, images=3, fill=0x01010101),
    ),
    "of four, columns not full": (Sizes(64, 128, 1, 3, 4), 11, Geometry(64, 36, 9, 22, 9, 22, **PADDED, images=2)),
    "four warpgroups": (Sizes(256, 64, 1, 3, 2), 18, Geometry(32, 16, 17, 18, 17, 18, **PADDED)),
    "fewer groups than buffers": (Sizes(64, 64, 1, 4, 2), 6, Geometry(8, 16, 6, 6, 6, 6, **PADDED, images=5)),
    "pointwise": (Sizes(64, 128, 4, 4, 2), 11, Geometry(160, 68, 6, 11, 6, 11, images=2)),
    "pointwise, broad": (Sizes(128, 256, 2, 3, 2), 11, Geometry(48, 132, 6, 11, 6, 11, images=2)),
}


@NEEDS
@pytest.mark.parametrize(("name", "kind"), [*itertools.product(CASES, WIDE_KINDS)])
def test_tiles_hold_the_sums(kind: str, name: str, tmp_path: Path) -> None:
    sizes, width, g = CASES[name]
    if kind == "uint8":
        sizes = replace(sizes, columns=max(sizes.columns, 128))
        g = replace(g, fours_in=g.fours_in * 2)
    else:
        g = replace(g, fill=0)
    cut = next(strips for strips in strips_of(operator(g)) if strips.width == width)
    given, numbers, want = convolution(g, kind)
    planes = sizes.planes(cut.halo, g.ky * g.kx)
    text = (sizes.rows, sizes.columns, sizes.deep, sizes.stages, 1, 1, planes, sizes.cast)
    text = (*text, cut.width, cut.pitch, cut.lines, *numbers[:-3])
    code = f"OptkitBulkConv<{KINDS[kind]}, {', '.join(map(str, text))}, {numbers[-3]}u>"
    extents = cut.positions(g.images), numbers[-1]
    places = cut.position(*np.indices((g.images, g.oh, g.ow))).ravel()
    agree(run(tmp_path, code, sizes, extents, given, planes)[places], want)
    if g.images > 1:
        apart, second = spread(given[0], g.images)
        folder = tmp_path / "apart"
        folder.mkdir()
        agree(run(folder, code, sizes, extents, (apart, given[1]), planes, second)[places], want)


PRODUCTS = {
    "alone": (Sizes(64, 64, 2, 3, 1), 70, 256, 72),
    "of two": (Sizes(128, 128, 4, 4, 2), 300, 512, 200),
    "of four": (Sizes(64, 256, 2, 3, 4), 130, 384, 264),
    "of two, the second without rows": (Sizes(64, 64, 2, 3, 2), 192, 256, 64),
}


@NEEDS
@pytest.mark.parametrize(("name", "kind"), [*itertools.product(PRODUCTS, WIDE_KINDS)])
def test_tiles_of_a_product_hold_its_sums(kind: str, name: str, tmp_path: Path) -> None:
    sizes, m, k, n = PRODUCTS[name]
    data, weights = operands(kind, (m, k), (k, n))
    vector = 16 // data.itemsize
    packed = np.ascontiguousarray(matmul_weight(weights, 8, vector))
    planes = sizes.planes(0, 1)
    text = (sizes.rows, sizes.columns, sizes.deep, sizes.stages, 1, 1, planes, sizes.cast, 4, 2, k // vector, n // 4, m)
    code = f"OptkitBulkMatmul<{KINDS[kind]}, {', '.join(map(str, text))}>"
    found = run(tmp_path, code, sizes, (m, n), (data, packed), planes)
    agree(found, multiplied(data).astype(np.float64) @ multiplied(weights).astype(np.float64))
