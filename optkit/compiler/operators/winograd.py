"""3x3 convolution by Winograd's minimal filtering: fewer multiplications, paid for with additions and memory.

A tile of m x m outputs takes (m + 2)^2 products a pair of channels instead of 9 m^2: with input tile d, kernel g and
constant matrices, Y = A^T [(G g G^T) * (B^T d B)] A (Lavin and Gray, "Fast Algorithms for Convolutional Neural
Networks", CVPR 2016, section 4.1). Summed over channels, the product in the middle is one matrix product for each of
the (m + 2)^2 places of a tile. F(2, 3) saves 2.25x, F(4, 3) 4x of the multiplications.

Rounding, measured against float64 on unit normal data with 64, 256 and 512 channels: a relative error of 2.6e-7, 5e-7
and 7e-7 for F(2, 3), 1.8e-6, 3.0e-6 and 3.5e-6 for F(4, 3), where direct summation has 4e-7, 8e-7 and 1.1e-6. With
products of bfloat16 it is 3.5e-3 for F(2, 3), 2.1e-2 for F(4, 3) and 2.4e-3 for direct summation, so F(4, 3) is made in
float32 only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
from tvm import te, tirx

from optkit.compiler.operators.common import BITS, OP, const, factor, rounded_bits, simplified, static
from optkit.compiler.operators.conv import Window
from optkit.compiler.tiling import Tile

# B^T, G and A^T of F(m, 3) by m: Lavin and Gray, equations 7, 9 and the appendix.
DATA: dict[int, list[list[float]]] = {
    2: [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
    4: [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
}
KERNEL: dict[int, list[list[float]]] = {
    2: [[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]],
    4: [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
}
OUTPUT: dict[int, list[list[float]]] = {
    2: [[1, 1, 1, 0], [0, 1, -1, -1]],
    4: [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
}


def winograd_weight(weight: np.ndarray, m: int, b: int) -> np.ndarray:
    """(O, C, 3, 3) -> ((m + 2)^2, O/b, C/b, b, b), transformed in float64; the last b are output channels."""
    out, channels, _, _ = weight.shape
    g = np.array(KERNEL[m])
    full = np.zeros((-(-out // b) * b, -(-channels // b) * b, 3, 3))
    full[:out, :channels] = weight
    u = np.einsum("er,ocrs,fs->efoc", g, full, g, optimize=True)
    split = u.reshape(len(g) ** 2, full.shape[0] // b, b, full.shape[1] // b, b)
    return np.ascontiguousarray(split.transpose(0, 1, 3, 4, 2).astype(np.float32))


def winograd_pairs(packed: np.ndarray) -> np.ndarray:
    """What `winograd_weight` made as bits of bfloat16 -> ((m + 2)^2, O/b, C/b, b/2, b, 2): pairs of input channels."""
    *lead, inputs, outputs = packed.shape
    halves = packed.astype(ml_dtypes.bfloat16).view(BITS).reshape(*lead, inputs // 2, 2, outputs)
    return np.ascontiguousarray(halves.swapaxes(-1, -2))


def _row(factors: Sequence[float], read: Callable[[int], Any]) -> Any:
    """The sum of what `read` gives, each times its factor, without products by 0 and 1."""
    total: Any = None
    for index, times in enumerate(factors):
        if not times:
            continue
        size = abs(times)
        term = read(index) if size == 1 else read(index) * const(size, "float32")
        signed = term if times > 0 else -term
        total = signed if total is None else total + term if times > 0 else total - term
    return total


def _rows(index: Any, matrix: Sequence[Sequence[float]], read: Callable[[int], Any]) -> Any:
    """Row `index` of matrix times vector: a choice that is gone once the loop over `index` is unrolled."""
    sums = [_row(factors, read) for factors in matrix]
    chosen = sums[-1]
    for place in reversed(range(len(sums) - 1)):
        chosen = tirx.Select(index == place, sums[place], chosen)
    return chosen


def winograd(data: te.Tensor, weight: te.Tensor, window: Window, m: int, tile: Tile, native: bool = False) -> te.Tensor:
    """Blocked 3x3 convolution of stride 1 -> (N, O/b, OH, OW, b), float32.

    Args:
        weight: as `winograd_weight` packs it, or `winograd_pairs`, whose products are bfloat16's.
        m: outputs of a tile along one axis, 2 or 4.
        tile: register tile of the product; image tiles are rounded up to it, the surplus repeats the last one.
        native: the target rounds to bfloat16 by an instruction.
    """
    n, _, h, w, b = static(data.shape)
    ob, side = static(weight.shape)[1], m + 2
    oh, ow = window.output(h, w)
    down, across = -(-oh // m), -(-ow // m)
    count, padded = n * down * across, tile.padded

    def number(t: Any) -> Any:
        return t if padded == count else te.min(t, count - 1)

    pairs = str(weight.dtype) == BITS
    moved = _transformed(data, window, m, (down, across), (padded,), number, pairs, native)
    product = winograd_product(moved, weight, tile)
    back = te.compute(
        (ob, padded, m, side, b),
        lambda o, t, i, c, v: _rows(i, OUTPUT[m], lambda e: product[e * side + c, o, t, v]),
        name="back",
        attrs={OP: "back"},
    )

    def place(i: Any, o: Any, y: Any, x: Any, v: Any) -> Any:
        t = (i * down + y // m) * across + x // m
        return _rows(x % m, OUTPUT[m], lambda c: back[o, t, y % m, c, v])

    return te.compute((n, ob, oh, ow, b), place, name="place", attrs={OP: "place"})


def _transformed(
    data: te.Tensor,
    window: Window,
    m: int,
    size: tuple[Any, Any],
    tiles: tuple[Any, ...],
    number: Callable[..., Any],
    pairs: bool,
    native: bool,
) -> te.Tensor:
    """B^T d B of every image tile -> ((m + 2)^2, C/b, *tiles, b).

    Args:
        size: tiles down and across an image.
        tiles: extents that count all of them.
        number: of a tile, from its index into these.
        pairs, native: whether bits of bfloat16 are made, and by an instruction.
    """
    _, _, h, w, _ = static(data.shape)
    (down, across), (top, left), k = size, window.pads[:2], len(tiles)

    def corner(at: Any) -> tuple[Any, Any, Any]:
        y, x = at % (down * across) // across * m - top, at % across * m - left
        return at // (down * across), y, x

    corners = None
    if k > 1:
        # Quotients by extents that are known at run time, once a tile: in every of its loads they take LLVM seconds.
        def part(*i: Any) -> Any:
            image, y, x = corner(number(*i[:k]))
            return tirx.Select(i[k] == 0, image, tirx.Select(i[k] == 1, y, x))

        corners = te.compute((*tiles, 3), part, name="corner", attrs={OP: "corner"})

    def load(*i: Any) -> Any:
        o, t, (r, c, v) = i[0], i[1 : 1 + k], i[1 + k :]
        image, y, x = corner(number(*t)) if corners is None else (corners[*t, j] for j in range(3))
        inside = tirx.all(y + r >= 0, y + r < h, x + c >= 0, x + c < w)
        return tirx.if_then_else(inside, data[image, o, y + r, x + c, v], const(0, "float32"))

    return _moved(data, load, tiles, m, lambda real: rounded_bits(real, native) if pairs else real)


def _moved(
    data: te.Tensor, load: Callable[..., Any], tiles: tuple[Any, ...], m: int, end: Callable[[Any], Any] = lambda x: x
) -> te.Tensor:
    """B^T d B -> ((m + 2)^2, C/b, *tiles, b), of what `load` reads at (channels, *tile, row, column, channel)."""
    _, cb, *_, b = static(data.shape)
    side = m + 2
    image = te.compute((cb, *tiles, side, side, b), load, name="load", attrs={OP: "load"})

    def halved(*i: Any) -> Any:
        *at, e, c, v = i
        return _rows(e, DATA[m], lambda r: image[*at, r, c, v])

    half = te.compute((cb, *tiles, side, side, b), halved, name="half", attrs={OP: "half"})

    def across_tile(*i: Any) -> Any:
        p, *at, v = i
        return end(_rows(p % side, DATA[m], lambda c: half[*at, p // side, c, v]))

    return te.compute((side * side, cb, *tiles, b), across_tile, name="transform", attrs={OP: "transform"})


def winograd_product(moved: te.Tensor, weight: te.Tensor, tile: Tile) -> te.Tensor:
    """((m + 2)^2, C/b, *tiles, b) x weights -> ((m + 2)^2, O/b, *tiles, b), one matrix product a place of a tile."""
    _, cb, *tiles, b = static(moved.shape)
    places, ob = static(weight.shape)[:2]
    g = 2 if str(weight.dtype) == BITS else 1
    ko, ki = te.reduce_axis((0, cb), "ko"), te.reduce_axis((0, b // g), "ki")
    kr = [te.reduce_axis((0, g), "kr")] if g > 1 else []

    def multiply(*i: Any) -> Any:
        p, o, *t, v = i
        left, right = moved[p, ko, *t, ki * g + kr[0] if kr else ki], weight[p, o, ko, ki, v, *kr]
        return te.sum(factor(left, moved, "float32") * factor(right, weight, "float32"), axis=[ko, ki, *kr])

    attrs = {OP: "winograd", "optkit.side": math.isqrt(places), **tile.attrs()}
    return te.compute((places, ob, *tiles, b), multiply, name="winograd", attrs=attrs)


def winograd_by_rows(data: te.Tensor, weight: te.Tensor, window: Window, m: int, tile: Tile) -> te.Tensor:
    """Blocked 3x3 convolution of stride 1 -> (N, O/b, OH, OW, b), float32, a row of tiles at a time.

    What is transformed and multiplied is as large as one row of tiles then, and stays in the cache; but for every row
    all weights are read.

    Args:
        weight: as `winograd_weight` packs it.
        tile: register tile of the product; of the last one of a row, some image tiles may lie outside.
    """
    n, _, h, w, b = static(data.shape)
    ob, side, rows = static(weight.shape)[1], m + 2, tile.rows
    height, width = window.output(h, w)
    top, left = window.pads[:2]
    down, groups = _enough(height, m), _enough(width, m * rows)

    def load(o: Any, i: Any, d: Any, g: Any, t: Any, r: Any, c: Any, v: Any) -> Any:
        y, x = d * m + r - top, (g * rows + t) * m + c - left
        inside = tirx.all(y >= 0, y < h, x >= 0, x < w)
        return tirx.if_then_else(inside, data[i, o, y, x, v], const(0, "float32"))

    tiles = n, down, groups, rows
    product = winograd_product(_moved(data, load, tiles, m), weight, tile)

    def back(i: Any, o: Any, d: Any, x: Any, e: Any, c: Any, v: Any) -> Any:
        return _rows(e, OUTPUT[m], lambda r: product[r * side + c, o, i, d, x // rows, x % rows, v])

    made = te.compute((n, ob, down, _enough(width, m), m, side, b), back, name="back", attrs={OP: "back"})

    def place(i: Any, o: Any, y: Any, x: Any, v: Any) -> Any:
        return _rows(x % m, OUTPUT[m], lambda c: made[i, o, y // m, x // m, y % m, c, v])

    return te.compute((n, ob, simplified(height), simplified(width), b), place, name="place", attrs={OP: "place"})


def open_winograd_tiles(data: te.Tensor, window: Window, m: int, rows: int) -> te.Tensor:
    """The transformed tiles of images of open size -> ((m + 2)^2, C/b, T, rows, b), the surplus as the last one."""
    n, _, h, w, _ = static(data.shape)
    down, across = _tiles(window, h, w, m)
    count = n * down * across

    def number(t: Any, r: Any) -> Any:
        return te.min(t * rows + r, count - 1)

    tiles = simplified((count + rows - 1) // rows), rows
    return _transformed(data, window, m, (down, across), tiles, number, pairs=False, native=False)


def open_winograd_output(product: te.Tensor, m: int, n: Any, height: Any, width: Any) -> te.Tensor:
    """A^T [...] A of every tile, put where it belongs: -> (N, O/b, OH, OW, b)."""
    _, ob, _, rows, b = static(product.shape)
    down, across, side = simplified((height + m - 1) // m), simplified((width + m - 1) // m), m + 2

    def back(i: Any, o: Any, y: Any, x: Any, e: Any, c: Any, v: Any) -> Any:
        t = (i * down + y) * across + x
        return _rows(e, OUTPUT[m], lambda r: product[r * side + c, o, t // rows, t % rows, v])

    # TVM keeps but the one that is put in its place.
    tile = te.compute((n, ob, _enough(height, m), _enough(width, m), m, side, b), back, name="back", attrs={OP: "back"})

    def place(i: Any, o: Any, y: Any, x: Any, v: Any) -> Any:
        return _rows(x % m, OUTPUT[m], lambda c: tile[i, o, y // m, x // m, y % m, c, v])

    return te.compute((n, ob, height, width, b), place, name="place", attrs={OP: "place", "optkit.side": side})


def _enough(size: Any, m: int) -> Any:
    """How many times m make at least `size`: of an open one, one more, which TVM can prove to be enough."""
    return -(-size // m) if isinstance(size, int) else simplified(size // m + 1)


def _tiles(window: Window, height: Any, width: Any, m: int) -> tuple[Any, Any]:
    """Tiles down and across an image of open size."""
    down, across = (simplified((size + m - 1) // m) for size in window.output(height, width))
    return down, across
