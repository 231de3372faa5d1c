"""Device code of tiles, run on the CPU thread by thread: operands, what is run, and the sums it should have."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from optkit_targets.cuda.kernels.strips import Strips, strips_of
from optkit_targets.cuda.kernels.tiles import Tile

from optkit.compiler.operator import CONV, Operator
from optkit.compiler.operators.conv import tile_span
from optkit.compiler.packing import conv_weight
from tests.targets.cuda.host import host_library, pointers

KINDS = {"uint8": "OptkitBytes", "float16": "OptkitHalves", "bfloat16": "OptkitBfloats", "float32": "OptkitTf32"}
WIDE_KINDS = [kind for kind in KINDS if kind != "float32"]


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


def operator(g: Geometry) -> Operator:
    """The convolution of a geometry, its padding behind as far as it is read."""
    below = (g.oh - 1) + (g.ky - 1) * g.dy + 1 - g.top - g.h
    right = (g.ow - 1) + (g.kx - 1) * g.dx + 1 - g.left - g.w
    padding = g.top, g.left, below, right
    sizes = g.images, g.fours_in * 4, g.h, g.w, g.fours_out * 4, g.ky, g.kx, 1, 1, g.dy, g.dx, *padding, g.groups, 16
    return Operator(CONV, "int8", sizes)


def strips(g: Geometry, width: int) -> Strips:
    """Strips of so many columns."""
    return next(found for found in strips_of(operator(g)) if found.width == width)
