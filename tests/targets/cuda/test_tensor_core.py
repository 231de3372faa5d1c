"""The device code of the tensor-core kernels, run on the CPU thread by thread, against sums in NumPy."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from optkit_targets.cuda import nvcc

from optkit.compiler.packing import conv_weight, matmul_weight

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Geometry:
    """The numbers of `OptkitConv`, in its order."""

    rows: int
    columns: int
    blocks_in: int
    blocks_out: int
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


GEOMETRIES = {
    "pointwise, tiles not full": Geometry(64, 32, 3, 5, 7, 9, 7, 9),
    "pointwise, many steps": Geometry(128, 64, 40, 18, 6, 11, 6, 11),
    "3x3, padded": Geometry(64, 64, 9, 16, 6, 7, 6, 7, 3, 3, top=1, left=1, fill=0x80808080),
    "3x3, stride 2": Geometry(128, 32, 4, 8, 13, 9, 7, 5, 3, 3, 2, 2, top=1, left=1, fill=0x07070707),
    "dilated, not square": Geometry(64, 32, 6, 3, 11, 12, 9, 8, 2, 3, dy=2, dx=2, fill=0),
}


@dataclass(frozen=True)
class Product:
    """The numbers of `OptkitMatmul`, in its order."""

    rows: int
    columns: int
    blocks_in: int
    blocks_out: int
    m: int


PRODUCTS = {
    "not full": Product(64, 32, 4, 3, 37),
    "many steps": Product(128, 64, 44, 21, 150),
    "one strip of warps": Product(128, 32, 12, 8, 128),
}


def host_library(folder: Path, name: str, kind: str, geometry: Geometry | Product) -> ctypes.CDLL:
    """All thread blocks of one image or matrix, one after the other, as the function run(data, weights, out, ...)."""
    numbers = ", ".join(f"{n}u" if i == 16 else str(n) for i, n in enumerate(astuple(geometry)))
    (folder / "block.cpp").write_text(f"""
        #include "host_threads.h"
        #include "tensor_core.cuh"
        extern "C" void bounds(const unsigned* data, int words, const unsigned* weights, int more) {{
          data_begin = data, data_end = data + words, weights_begin = weights, weights_end = weights + more;
        }}
        extern "C" int place(int k, int m) {{ return {name}<{kind}, {numbers}>::Left::at(k, m); }}
        extern "C" int run(const unsigned* data, const unsigned* weights, {kind}* out, int down, int across) {{
          const int size = {(geometry.rows + 1) * geometry.columns};
          for (int y = 0; y < down; ++y)
            for (int x = 0; x < across; ++x) {{
              alignas(16) static {kind} tile[size];
              for (auto& value : tile) value = 77;
              run_block([&] {{
                {name}<{kind}, {numbers}>::run(tile, data, weights, x * {geometry.columns // 4}, y * {geometry.rows});
              }});
              std::memcpy(out + (y * across + x) * size, tile, sizeof(tile));
            }}
          return bad_copies;
        }}""")
    include = [f"-I{HERE}", f"-I{nvcc.DEVICE}"]
    command = ["g++", "-std=c++20", "-O1", "-shared", "-fPIC", "-pthread", *include, "block.cpp", "-o", "block.so"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(folder / "block.so"))


def tiles(library: ctypes.CDLL, g: Geometry | Product, data: np.ndarray, packed: np.ndarray, rows: int) -> np.ndarray:
    """(rows, output channels) of all tiles."""
    down, across = -(-rows // g.rows), -(-g.blocks_out * 4 // g.columns)
    kind = np.int32 if data.dtype == np.uint8 else np.float32
    out = np.empty((down, across, g.columns // 4, g.rows + 1, 4), kind)
    for m in range(0, g.rows, 8):
        for k in (0, 4):  # the words that the 32 lanes of a warp read at once
            assert len({library.place(k + quad, m + group) % 32 for quad in range(4) for group in range(8)}) == 32
    library.bounds(*(x for a in (data, packed) for x in (ctypes.c_void_p(a.ctypes.data), a.nbytes // 4)))
    bad = library.run(*(ctypes.c_void_p(a.ctypes.data) for a in (data, packed, out)), down, across)
    assert bad == 0
    return (
        out[..., :-1, :].transpose(0, 3, 1, 2, 4).reshape(down * g.rows, across * g.columns)[:rows, : g.blocks_out * 4]
    )


def agree(found: np.ndarray, want: np.ndarray) -> None:
    """Integers to the bit, sums of halves to float32's rounding."""
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


NEEDS = pytest.mark.skipif(shutil.which("g++") is None, reason="runs the device code as C++20, by g++")


def operands(kind: str, *shapes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, int]:
    """Data and weights of all values, and the channels in that a word of weights holds."""
    rng = np.random.default_rng(0)
    if kind == "int":
        return rng.integers(0, 256, shapes[0], np.uint8), rng.integers(-128, 128, shapes[1], np.int8), 4
    data, weights = (rng.standard_normal(shape).astype(np.float16) for shape in shapes)
    return data, weights, 2


@NEEDS
@pytest.mark.parametrize("kind", ["int", "float"])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_tiles_of_a_convolution_hold_its_sums(kind: str, name: str, tmp_path: Path) -> None:
    g = GEOMETRIES[name] if kind == "int" else replace(GEOMETRIES[name], fill=0)
    shape, kernel = (g.blocks_in * 4, g.h, g.w), (g.blocks_out * 4, g.blocks_in * 4, g.ky, g.kx)
    data, weights, group = operands(kind, shape, kernel)
    blocked = np.ascontiguousarray(data.reshape(g.blocks_in, 4, g.h, g.w).transpose(0, 2, 3, 1))
    packed = conv_weight(weights, 1, 4, 4, group)
    found = tiles(host_library(tmp_path, "OptkitConv", kind, g), g, blocked, packed, g.oh * g.ow)
    agree(found, sums(data, weights, g, g.fill & 255))


@NEEDS
@pytest.mark.parametrize("kind", ["int", "float"])
@pytest.mark.parametrize("name", PRODUCTS)
def test_tiles_of_a_product_hold_its_sums(kind: str, name: str, tmp_path: Path) -> None:
    p = PRODUCTS[name]
    data, weights, group = operands(kind, (p.m, p.blocks_in * 4), (p.blocks_in * 4, p.blocks_out * 4))
    packed = matmul_weight(weights, 4, group)
    found = tiles(host_library(tmp_path, "OptkitMatmul", kind, p), p, data, packed, p.m)
    agree(found, data.astype(np.float64) @ weights.astype(np.float64))
