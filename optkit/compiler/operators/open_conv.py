"""Convolution over images of open height and width. Layouts are those of `operators/conv.py`.

For CPUs rows have room for whole register tiles, whose surplus repeats the last position and is dropped. For
GPUs, whose threads may be idle, positions are what they are.
"""

from __future__ import annotations

from typing import Any

import tvm_ffi
from tvm import sym, te, tirx

from optkit.compiler.operator import NOMINAL
from optkit.compiler.operators.common import OP, accumulator, const, factor, simplified, static, widened
from optkit.compiler.operators.conv import Window, group_blocks
from optkit.compiler.tiling import Tile


def usual(extent: Any, side: int = 512) -> int:
    """An extent, with every open one that it depends on so large: images of open size are mostly detectors'."""
    if isinstance(extent, int):
        return extent
    known = tvm_ffi.structural_map(extent, [(tirx.Var, lambda v: tirx.const(side, v.ty.dtype))])
    return max(1, int(sym.Analyzer().simplify(known)))


def padded_images(data: te.Tensor, window: Window, height: Any, width: Any, pad_value: float) -> te.Tensor:
    """The input with padding on all sides, large enough for every window of height x width outputs."""
    n, c, h, w, b = static(data.shape)
    extents = [
        simplified((size - 1) * window.strides[i] + (window.kernel[i] - 1) * window.dilations[i] + 1)
        for i, size in enumerate((height, width))
    ]
    top, left = window.pads[:2]
    kind = "float32" if str(data.dtype) == "bfloat16" else str(data.dtype)

    def element(i: Any, o: Any, y: Any, x: Any, v: Any) -> Any:
        inside = tirx.all(y >= top, y < h + top, x >= left, x < w + left)
        return te.if_then_else(inside, data[i, o, y - top, x - left, v].astype(kind), const(pad_value, kind))

    return te.compute((n, c, *extents, b), element, name="pad", attrs={OP: "pad"})


def conv2d_tiles(
    data: te.Tensor,
    weight: te.Tensor,
    window: Window,
    channels: tuple[int, int],
    groups: int,
    pad_value: float,
    tile: Tile,
) -> te.Tensor:
    """Dense or grouped convolution -> (N, O/b, OH, OW, b) in the accumulator type, in tiles of positions of a row."""
    n, cb, h, w, c = static(data.shape)
    oh, ow = window.output(h, w)
    ob, kb, kh, kw, kg, b, g = static(weight.shape)
    kind = accumulator(str(data.dtype))
    source = padded_images(data, window, oh, ow, pad_value) if any(window.pads) else data
    ko, ky, kx = te.reduce_axis((0, kb), "ko"), te.reduce_axis((0, kh), "ky"), te.reduce_axis((0, kw), "kx")
    ki, kr = te.reduce_axis((0, kg), "ki"), te.reduce_axis((0, g), "kr")
    (sy, sx), (dy, dx) = window.strides, window.dilations
    first = group_blocks(cb, kb, channels, groups, (b, c))

    def element(i: Any, o: Any, y: Any, x: Any, v: Any) -> Any:
        place = (i, first(o) + ko, y * sy + ky * dy, te.min(x, ow - 1) * sx + kx * dx)
        read = factor(source[*place, ki * g + kr], source, kind)
        return te.sum(read * factor(weight[o, ko, ky, kx, ki, v, kr], weight, kind), axis=[ko, ky, kx, ki, kr])

    attrs = {OP: "conv", **tile.attrs()}
    return _whole_rows(te.compute((n, ob, oh, _room(ow, tile), b), element, name="conv", attrs=attrs), ow)


def _room(width: Any, tile: Tile) -> Any:
    """Positions of a row that ends with a whole tile, or some more."""
    return simplified(width + tile.rows - 1)


def _whole_rows(acc: te.Tensor, width: Any) -> te.Tensor:
    """What is no surplus of the last tile of a row."""
    n, c, h, _, b = static(acc.shape)
    return te.compute((n, c, h, width, b), lambda *i: acc(*i), name="crop", attrs={OP: "crop"})


def conv2d_positions(
    data: te.Tensor,
    weight: te.Tensor,
    window: Window,
    channels: tuple[int, int],
    groups: int,
    pad_value: float,
    operator: str,
    span: int = 0,
) -> te.Tensor:
    """Dense or grouped convolution -> (N, O/b, OH, OW, b) in the accumulator type.

    Args:
        operator: at usual extents, its text form.
        span: as `operators.conv.conv2d`'s.
    """
    n, cb, h, w, c = static(data.shape)
    oh, ow = window.output(h, w)
    ob, kb, kh, kw, kg, b, g = static(weight.shape)
    kind = accumulator(str(data.dtype))
    source = padded_images(data, window, oh, ow, pad_value) if any(window.pads) else data
    ko, ky, kx = te.reduce_axis((0, kb), "ko"), te.reduce_axis((0, kh), "ky"), te.reduce_axis((0, kw), "kx")
    ki, kr = te.reduce_axis((0, kg), "ki"), te.reduce_axis((0, g), "kr")
    (sy, sx), (dy, dx) = window.strides, window.dilations
    first = group_blocks(cb, kb, channels, groups, (b, c), span)

    def element(i: Any, o: Any, y: Any, x: Any, v: Any) -> Any:
        place = (i, first(o) + ko, y * sy + ky * dy, x * sx + kx * dx)
        read = factor(source[*place, ki * g + kr], source, kind)
        return te.sum(read * factor(weight[o, ko, ky, kx, ki, v, kr], weight, kind), axis=[ko, ky, kx, ki, kr])

    extents = (n, ob, oh, ow, b)
    sums = te.compute(extents, element, name="conv", attrs={OP: "conv", NOMINAL: operator})
    return te.compute(extents, lambda *i: sums(*i), name="crop", attrs={OP: "crop"})


def depthwise2d_positions(data: te.Tensor, weight: te.Tensor, window: Window, pad_value: float) -> te.Tensor:
    """Depthwise convolution -> (N, C/b, OH, OW, b) in the accumulator type."""
    data = widened(data)
    n, cb, h, w, b = static(data.shape)
    oh, ow = window.output(h, w)
    _, kh, kw, _ = static(weight.shape)
    kind = accumulator(str(data.dtype))
    source = padded_images(data, window, oh, ow, pad_value) if any(window.pads) else data
    ky, kx = te.reduce_axis((0, kh), "ky"), te.reduce_axis((0, kw), "kx")
    (sy, sx), (dy, dx) = window.strides, window.dilations

    def element(i: Any, c: Any, y: Any, x: Any, v: Any) -> Any:
        read = source[i, c, y * sy + ky * dy, x * sx + kx * dx, v].astype(kind)
        return te.sum(read * weight[c, ky, kx, v].astype(kind), axis=[ky, kx])

    return te.compute((n, cb, oh, ow, b), element, name="depthwise", attrs={OP: "depthwise"})


def depthwise2d_tiles(data: te.Tensor, weight: te.Tensor, window: Window, pad_value: float, tile: Tile) -> te.Tensor:
    """Depthwise convolution -> (N, C/b, OH, OW, b) in the accumulator type, in tiles of positions of a row."""
    data = widened(data)
    n, cb, h, w, b = static(data.shape)
    oh, ow = window.output(h, w)
    _, kh, kw, _ = static(weight.shape)
    kind = accumulator(str(data.dtype))
    source = padded_images(data, window, oh, ow, pad_value) if any(window.pads) else data
    ky, kx = te.reduce_axis((0, kh), "ky"), te.reduce_axis((0, kw), "kx")
    (sy, sx), (dy, dx) = window.strides, window.dilations

    def element(i: Any, c: Any, y: Any, x: Any, v: Any) -> Any:
        read = source[i, c, y * sy + ky * dy, te.min(x, ow - 1) * sx + kx * dx, v].astype(kind)
        return te.sum(read * weight[c, ky, kx, v].astype(kind), axis=[ky, kx])

    attrs = {OP: "depthwise", **tile.attrs()}
    return _whole_rows(te.compute((n, cb, oh, _room(ow, tile), b), element, name="depthwise", attrs=attrs), ow)
