"""The device code of the tensor-core kernels, run on the CPU thread by thread, against sums in NumPy."""

from __future__ import annotations

import itertools
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from optkit_targets.cuda.kernels.tiles import Tile

from optkit.compiler.operators.conv import tile_span
from optkit.compiler.packing import conv_weight, matmul_weight
from tests.targets.cuda.host import NEEDS, host_library, pointers

pytestmark = pytest.mark.needs_nvcc  # for the toolkit's headers
KINDS = {"uint8": "OptkitBytes", "float16": "OptkitHalves", "bfloat16": "OptkitBfloats", "float32": "OptkitTf32"}


@dataclass(frozen=True)
class Geometry:
    """The numbers of `OptkitConv` behind those of blocks, in its order; fours of channels, and extents."""

    fours_in: int
    fours_out: int
    h: int
    w: int
    oh: int
    ow: int
    ky: int = 1
    kx: int = 1
    sy: int = 1
    sx: int = 1
    dy: int = 1
    dx: int = 1
    top: int = 0
    left: int = 0
    fill: int = 0
    images: int = 1
    groups: int = 1


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


def vector(kind: str) -> int:
    """Numbers of 16 bytes."""
    return 16 // int(np.dtype(kind).itemsize)


def block(kind: str, fours: int) -> int:
    """Channels of a block: as many as 16 bytes are, or else as divide the channels."""
    return max(n for n in (4, 8, 16) if fours * 4 % n == 0 and n <= vector(kind))


PARTS = """
              for (int part = 0; part < Code::Tile::BLOCKS; ++part) {
                alignas(16) static Code::Tile::Sum tile[size + 1];
                for (auto& value : tile) value = 77;
                auto thread = [&] {
                  Code::run(tile, data, weights, part, x * Code::Tile::WIDTH, y * Code::Tile::HEIGHT MORE);
                };
                bad |= emulator::run_threads(Code::Tile::THREADS, thread) || tile[size] != 77;
                for (int i = 0; i < kept; ++i) to[i] += tile[i];
              }"""
CLUSTER = """
              auto thread = [&] {
                const int part = blockIdx.z, share = kept / Code::Tile::BLOCKS;
                auto* tile = emulator::dynamic<Code::Tile::Sum>();
                OptkitCluster<Code>::run(tile, data, weights, part, x * Code::Tile::WIDTH, y * Code::Tile::HEIGHT MORE);
                if (threadIdx.x == 0) std::memcpy(to + part * share, tile + part * share, share * sizeof(*tile));
              };
              bad |= emulator::run_threads(Code::Tile::THREADS, thread, Code::Tile::BLOCKS);"""
PLACES = """
        extern "C" int left(int k, int m) { return Code::Left::at(k, m); }
        extern "C" int right(int k, int n) { return Code::Right::at(k, n); }"""


def tiles(
    folder: Path,
    name: str,
    tile: Tile,
    numbers: tuple[int, ...],
    operands: tuple[np.ndarray, np.ndarray],
    *options: str,
    clusters: bool = False,
    more: str = "",
) -> np.ndarray:
    """All thread blocks of one image or matrix, one after the other: (rows, columns), both whole.

    Parts are added here, or by clusters of thread blocks. `more` are arguments of the device code behind the others.
    """
    kind = KINDS[operands[0].dtype.name]
    result, word = (np.int32, "int") if kind == "OptkitBytes" else (np.float32, "float")
    m, n = numbers[-2:]
    begin = "OptkitStrip" if tile.cut else "OptkitWide" if tile.wide else "Optkit"
    sizes = (tile.rows, tile.columns, tile.deep, tile.stages, tile.slices, tile.parts, tile.planes)
    *numbers, last = (*((tile.cut.width, tile.cut.pitch, tile.cut.lines) if tile.cut else ()), *numbers[:-2])
    text = ", ".join([kind, *map(str, (*sizes, *numbers)), f"{last}{'u' * (name == 'OptkitConv')}"])
    down, across = -(-m // tile.rows), -(-n // tile.columns)
    library = host_library(
        folder,
        f"""
        typedef {name.replace("Optkit", begin)}<{text}> Code;
        {"" if tile.wide else PLACES}
        extern "C" int run(const unsigned* data, const unsigned* weights, {word}* out) {{
          const int size = {tile.planes * (tile.rows + 1) * 4}, kept = {(tile.rows + 1) * tile.columns};
          int bad = 0;
          for (int y = 0; y < {down}; ++y)
            for (int x = 0; x < {across}; ++x) {{
              {word}* to = out + (y * {across} + x) * kept;
              {(CLUSTER if clusters else PARTS).replace("MORE", more)}
            }}
          return bad;
        }}""",
        *options,
    )
    for side, extent in () if tile.wide else (("left", tile.rows), ("right", tile.columns)):
        at = getattr(library, side)
        for i in range(0, extent, 8):
            for k in range(0, 8 * tile.deep, 4):  # the words that the 32 lanes of a warp read at once
                places = {at(k + quad, i + g) for quad in range(4) for g in range(8)}
                assert len({place % 32 for place in places}) == len(places)
    out = np.zeros((down, across, tile.columns // 4, tile.rows + 1, 4), result)
    library.bounds(*(x for a in operands for x in (*pointers(a), a.nbytes)))
    assert library.run(*pointers(*operands, out)) == 0
    whole = out[..., :-1, :].transpose(0, 3, 1, 2, 4)
    return whole.reshape(down * tile.rows, across * tile.columns)[:m, :n]


def agree(found: np.ndarray, want: np.ndarray) -> None:
    """Integers to the bit, sums to float32's rounding."""
    if found.dtype == np.int32:
        np.testing.assert_array_equal(found, want)
    else:
        assert np.abs(found - want).max() <= 2e-6 * np.abs(want).max()


def sums(data: np.ndarray, weights: np.ndarray, g: Geometry, fill: float) -> np.ndarray:
    """(positions, output channels): data (in, h, w), weights (out, in, ky, kx), float64."""
    bottom = max(0, (g.oh - 1) * g.sy + (g.ky - 1) * g.dy + 1 - g.top - g.h)
    right = max(0, (g.ow - 1) * g.sx + (g.kx - 1) * g.dx + 1 - g.left - g.w)
    padded = np.pad(data, ((0, 0), (g.top, bottom), (g.left, right)), constant_values=fill).astype(np.float64)
    total = np.zeros((g.oh * g.ow, len(weights)))
    for y in range(g.ky):
        for x in range(g.kx):
            rows = slice(y * g.dy, y * g.dy + (g.oh - 1) * g.sy + 1, g.sy)
            part = padded[:, rows, x * g.dx : x * g.dx + (g.ow - 1) * g.sx + 1 : g.sx]
            total += part.reshape(len(data), -1).T @ weights[:, :, y, x].T.astype(np.float64)
    return total


def operands(kind: str, *shapes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Data and weights of all values."""
    rng = np.random.default_rng(0)
    if kind == "uint8":
        return rng.integers(0, 256, shapes[0], np.uint8), rng.integers(-128, 128, shapes[1], np.int8)
    data, weights = (rng.standard_normal(shape).astype("float32").astype(kind) for shape in shapes)
    return data, weights


def multiplied(x: np.ndarray) -> np.ndarray:
    """What tensor cores take of it: of float32, eleven bits of the mantissa, to nearest with ties away from zero."""
    if x.dtype != np.float32:
        return x
    return ((x.view(np.uint32) + 0x1000) & np.uint32(0xFFFFE000)).view(np.float32)


WIDE_KINDS = [kind for kind in KINDS if kind != "float32"]


def convolution(g: Geometry, kind: str) -> tuple[tuple[np.ndarray, np.ndarray], tuple[int, ...], np.ndarray]:
    """Images in blocks and packed weights, the numbers of `OptkitConv` and extents of the result, and the result."""
    c, b = block(kind, g.fours_in), block(kind, g.fours_out)
    depth = g.fours_in * 4 // g.groups
    shape, kernel = (g.images, g.fours_in * 4, g.h, g.w), (g.fours_out * 4, depth, g.ky, g.kx)
    data, weights = operands(kind, shape, kernel)
    blocked = np.ascontiguousarray(data.reshape(-1, c, g.h, g.w).transpose(0, 2, 3, 1))  # images' blocks one list
    channels, made = g.fours_in * 4, g.fours_out * 4
    span = tile_span(made, g.groups, channels) if g.groups > 1 else 0
    packed = conv_weight(weights, g.groups, b, c, c, span)
    bands = channels // c, span or made, depth, made // g.groups
    counts = c * data.itemsize // 4, b // 4, packed.shape[1], g.fours_out, *bands, g.images
    numbers = (*counts, *astuple(g)[2:-2], g.images * g.oh * g.ow, g.fours_out * 4)
    filters, each = np.split(multiplied(weights), g.groups), np.split(multiplied(data), g.groups, 1)
    parts = [[sums(image, w, g, g.fill & 255) for image in x] for w, x in zip(filters, each, strict=True)]
    return (blocked, packed), numbers, np.concatenate([np.concatenate(part) for part in parts], 1)


def spread(blocked: np.ndarray, images: int) -> tuple[np.ndarray, str]:
    """Images each in a larger one, and the argument that says so."""
    apart = np.pad(blocked.reshape(images, -1), ((0, 0), (0, blocked[0].size * 3)))
    return apart, f", data + {apart.itemsize * apart.shape[1] // 4}"


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
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CLUSTERS)
def test_clusters_add_up_what_their_blocks_have(name: str, kind: str, tmp_path: Path) -> None:
    tile = CLUSTERS[name]
    if tile.wide and kind not in WIDE_KINDS:
        pytest.skip("not by warpgroups")
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
