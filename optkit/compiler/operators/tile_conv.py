"""Dense convolution in tile registers over blocked activations.

A tile takes rows of data that are evenly apart. Along a line of the image they are; from one line to the next where
lines are as wide as they are read, and the image is taken apart by the strides: then all positions are one axis, with
those between two lines in vain (the "padded pitch" that im2col by pointers has as well). Few positions are worth that,
or a kernel of one element, which reads nothing between lines.
"""

from __future__ import annotations

from typing import Any

from tvm import te

from optkit.compiler.matrix_tiles import flat_positions, pitch
from optkit.compiler.operators.common import OP, accumulator, const, factor, pad_axes, static
from optkit.compiler.operators.conv import Window
from optkit.compiler.tiling import Tile

PITCH = "optkit.pitch"
"""Block annotation: positions from one line of the result to the next, where all of them are one axis."""


def conv2d_tiles(
    data: te.Tensor, weight: te.Tensor, window: Window, pad_value: int, tile: Tile, out_block: int
) -> te.Tensor:
    """(N, C/c, H, W, c) and (O/b, C/c, KH, KW, c/g, b, g) -> (N, O/out_block, OH, OW, out_block), accumulator type.

    Args:
        pad_value: what padding reads as: 0, or the zero point of quantized data.
        tile: tiles of sums; the axis of positions, of one line or of all, is rounded up to them.
    """
    n, _, h, w, _ = static(data.shape)
    parts, kb, kh, kw, kg, b, g = static(weight.shape)
    oh, ow = window.output(h, w)
    kind, blocks = accumulator(str(data.dtype)), parts * b // out_block
    flat = flat_positions(window.kernel, window.strides, window.dilations, (oh, ow))
    ko, ki, kr = te.reduce_axis((0, kb), "ko"), te.reduce_axis((0, kg), "ki"), te.reduce_axis((0, g), "kr")
    ky, kx = te.reduce_axis((0, kh), "ky"), te.reduce_axis((0, kw), "kx")
    (sy, sx), (dy, dx) = window.strides, window.dilations
    across = pitch(window.kernel[1], sx, dx, ow)
    attrs = {OP: "conv", **tile.attrs(), **({PITCH: across} if flat else {})}

    def product(source: te.Tensor, place: tuple[Any, ...], o: Any, v: Any) -> Any:
        column = o * out_block + v
        read = factor(source[(*place, ki * g + kr)], source, kind)
        term = read * factor(weight[column // b, ko, ky, kx, ki, column % b, kr], weight, kind)
        return te.sum(term, axis=[ko, ky, kx, ki, kr])

    if window.pointwise and tile.padded == h * w:

        def point(i: Any, o: Any, p: Any, v: Any) -> Any:
            return product(data, (i, ko, p // w + ky, p % w + kx), o, v)

        acc = te.compute((n, blocks, h * w, out_block), point, name="conv", attrs=attrs)
    elif flat:
        source = _apart(data, window, across, tile.padded, pad_value)

        def position(i: Any, o: Any, p: Any, v: Any) -> Any:
            y, x = ky * dy, kx * dx
            return product(source, (i, ko, y % sy, x % sx, p // across + y // sy, p % across + x // sx), o, v)

        acc = te.compute((n, blocks, tile.padded, out_block), position, name="conv", attrs=attrs)
    else:
        need = (oh - 1) * sy + (kh - 1) * dy + 1, (tile.padded - 1) * sx + (kw - 1) * dx + 1
        before = window.pads[:2]
        source = data
        if any(window.pads) or need[0] > h or need[1] > w:
            reach = [max(m, s + p) for m, s, p in zip(need, (h, w), before, strict=True)]
            source = pad_axes(data, before, reach, 2, pad_value)

        def element(i: Any, o: Any, y: Any, x: Any, v: Any) -> Any:
            return product(source, (i, ko, y * sy + ky * dy, x * sx + kx * dx), o, v)

        acc = te.compute((n, blocks, oh, tile.padded, out_block), element, name="conv", attrs=attrs)
        crop = (n, blocks, oh, ow, out_block)
        return te.compute(crop, lambda i, o, y, x, v: acc[i, o, y, x, v], name="crop", attrs={OP: "crop"})
    crop = (n, blocks, oh, ow, out_block)
    return te.compute(crop, lambda i, o, y, x, v: acc[i, o, y * across + x, v], name="crop", attrs={OP: "crop"})


def _apart(data: te.Tensor, window: Window, across: int, positions: int, pad_value: int) -> te.Tensor:
    """The padded image by what is left of places over strides: (N, C/c, SY, SX, lines, across, c)."""
    n, cb, h, w, c = static(data.shape)
    (sy, sx), (dy, _), (top, left, _, _) = window.strides, window.dilations, window.pads
    last = (window.kernel[0] - 1) * dy
    parts = min(sy, last + 1), min(sx, (window.kernel[1] - 1) * window.dilations[1] + 1)
    lines = (positions - 1) // across + last // sy + 1

    def element(i: Any, o: Any, py: Any, px: Any, y: Any, x: Any, v: Any) -> Any:
        row, column = y * sy + py - top, x * sx + px - left
        inside = te.all(row >= 0, row < h, column >= 0, column < w)
        return te.if_then_else(inside, data[i, o, row, column, v], const(pad_value, str(data.dtype)))

    return te.compute((n, cb, *parts, lines, across, c), element, name="pad", attrs={OP: "pad"})
