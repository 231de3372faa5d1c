"""Convolution over blocked activations: dense, grouped and depthwise, in floating point and in integers.

Activations are (N, C/cb, H, W, cb). A dense or grouped convolution reads weights packed as
(O/b, KB, KH, KW, cb/g, b, g): output block, input block, kernel, groups of `g` input channels for
dot-product instructions (1 in floating point, 2 where an instruction multiplies pairs of bfloat16). A depthwise one
reads (C/b, KH, KW, b).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import te

from optkit.compiler.operators.common import (
    OP,
    PAIR,
    accumulator,
    const,
    dot_four,
    dot_two,
    factor,
    four,
    pad_axes,
    rounded_bits,
    simplified,
    static,
    widened,
)
from optkit.compiler.tiling import Tile


@dataclass(frozen=True)
class Window:
    """Geometry of a sliding window: kernel, strides, dilations, (top, left, bottom, right) padding."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]

    def output(self, height: Any, width: Any, ceil: bool = False) -> tuple[Any, Any]:
        """Output height and width, simplified, so that two ways to the same size compare equal.

        With `ceil`, windows may start inside the trailing padding's reach.
        """
        sizes = []
        for i, size in enumerate((height, width)):
            span = size + self.pads[i] + self.pads[i + 2] - (self.kernel[i] - 1) * self.dilations[i] - 1
            steps = -(-span // self.strides[i]) if ceil else span // self.strides[i]
            if ceil and steps * self.strides[i] >= size + self.pads[i]:
                steps -= 1
            sizes.append(simplified(steps + 1))
        return sizes[0], sizes[1]

    @property
    def pointwise(self) -> bool:
        """One by one, stride one, no padding: a matrix product over positions."""
        return self.kernel == (1, 1) and self.strides == (1, 1) and not any(self.pads)

    @property
    def square3(self) -> bool:
        """Three by three, stride and dilation one: what Winograd's tiles are made for."""
        return self.kernel == (3, 3) and self.strides == self.dilations == (1, 1)


def _source(data: te.Tensor, window: Window, out: tuple[int, int], pad_value: float, reach: int = 0) -> te.Tensor:
    """The input as the padded output extent reads it, `reach` columns at least."""
    _, _, h, w, _ = static(data.shape)
    need = [(out[i] - 1) * window.strides[i] + (window.kernel[i] - 1) * window.dilations[i] + 1 for i in range(2)]
    need[1] = max(need[1], reach)
    if not any(window.pads) and need[0] <= h and need[1] <= w:
        return data
    before = window.pads[:2]
    return pad_axes(data, before, [max(n, s + b) for n, s, b in zip(need, (h, w), before, strict=True)], 2, pad_value)


def conv2d(
    data: te.Tensor,
    weight: te.Tensor,
    window: Window,
    channels: tuple[int, int],
    groups: int,
    pad_value: float,
    tile: Tile,
    span: int = 0,
) -> te.Tensor:
    """Blocked convolution -> (N, O/b, OH, OW, b) in the accumulator type.

    Data and weights of int32 are four channels each, unsigned and signed bytes; of uint32 two, bits of bfloat16.

    Args:
        channels: input and output channels without block padding.
        tile: register tile; the tiled axis (width, or height * width when pointwise) is rounded up to it.
        pad_value: what padding reads as: 0, or the zero point of quantized data.
        span: output channels that read the same input blocks; those of a block where it is 0.
    """
    n, cb, h, w, c = static(data.shape)
    words = {"int32": dot_four, PAIR: dot_two}.get(str(data.dtype))
    if words:
        ob, kb, kh, kw, b = static(weight.shape)
        kg = g = 1
    else:
        ob, kb, kh, kw, kg, b, g = static(weight.shape)
    oh, ow = window.output(h, w)
    kind = accumulator(str(data.dtype))
    padded, attrs = tile.padded, {OP: "conv", **tile.attrs()}

    first = group_blocks(cb, kb, channels, groups, (b, c), span)

    ko = te.reduce_axis((0, kb), "ko")
    ki, kr = te.reduce_axis((0, kg), "ki"), te.reduce_axis((0, g), "kr")
    inside = [] if words else [ki, kr]

    def multiply(source: te.Tensor, at: Sequence[Any], o: Any, y: Any, x: Any, v: Any) -> Any:
        """One term of the sum; of words, all of theirs at once."""
        if words:
            return words(source[*at, 0], weight[o, ko, y, x, v])
        read = factor(source[*at, ki * g + kr], data, kind)
        return read * factor(weight[o, ko, y, x, ki, v, kr], weight, kind)

    if window.pointwise:
        positions = h * w

        def point(i: Any, o: Any, p: Any, v: Any) -> Any:
            at = p if padded == positions else te.min(p, positions - 1)
            place = (i, first(o) + ko, at // w, at % w)
            return te.sum(multiply(data, place, o, 0, 0, v), axis=[ko, *inside])

        acc = te.compute((n, ob, padded, b), point, name="conv", attrs=attrs)
        return te.compute(
            (n, ob, oh, ow, b),
            lambda i, o, y, x, v: acc[i, o, y * ow + x, v],
            name="crop",
            attrs={OP: "crop"},
        )
    source = _source(data, window, (oh, padded), pad_value)
    ky, kx = te.reduce_axis((0, kh), "ky"), te.reduce_axis((0, kw), "kx")
    (sy, sx), (dy, dx) = window.strides, window.dilations

    def element(i: Any, o: Any, y: Any, x: Any, v: Any) -> Any:
        place = (i, first(o) + ko, y * sy + ky * dy, x * sx + kx * dx)
        return te.sum(multiply(source, place, o, ky, kx, v), axis=[ko, ky, kx, *inside])

    acc = te.compute((n, ob, oh, padded, b), element, name="conv", attrs=attrs)
    return te.compute((n, ob, oh, ow, b), lambda i, o, y, x, v: acc[i, o, y, x, v], name="crop", attrs={OP: "crop"})


def group_blocks(
    all_blocks: int, read: int, channels: tuple[int, int], groups: int, blocks: tuple[int, int], span: int = 0
) -> Callable[[Any], Any]:
    """From an output block to the first input block that it reads.

    Groups start at their own input block, moved back where the last one would run past the end.

    Args:
        all_blocks, read: input blocks, and those that an output block reads.
        channels, blocks: channels in and out; those of an output and of an input block.
        span: as `conv2d`'s.
    """
    (in_channels, out_channels), (b, c) = channels, blocks

    def first(o: Any) -> Any:
        if read == all_blocks:
            return 0
        start = o if not span else o * b // span
        found = first_input_block(start, out_channels, groups, in_channels, span or b, c)
        return te.min(found, all_blocks - read)

    return first


def first_input_block(block: Any, out_channels: int, groups: int, in_channels: int, b: int, c: int) -> Any:
    """First input block of `c` channels that output block `block`, of `b`, reads: a number, or an expression of one."""
    return (block * b) // (out_channels // groups) * (in_channels // groups) // c


def input_blocks(out_channels: int, groups: int, in_channels: int, b: int, c: int) -> int:
    """Input blocks that one output block reads at most; weights outside its groups are zero."""
    per_in, per_out = in_channels // groups, out_channels // groups
    most = 1
    for block in range(-(-out_channels // b)):
        last = min((block + 1) * b, out_channels) - 1
        high = ((last // per_out + 1) * per_in - 1) // c
        most = max(most, high + 1 - first_input_block(block, out_channels, groups, in_channels, b, c))
    return most


SPANS = (32, 64, 128, 256)
"""Columns of tensor cores' tiles, all of whose output channels read the same input blocks."""
_UNIT, _MOST = 8, 8
"""Channels that are read at once, about, and how many times those of a group may be read: tensor cores compute so many
products, all but one with a zero, faster than other units that one."""


def tile_span(out_channels: int, groups: int, in_channels: int) -> int:
    """Output channels of a convolution in groups that read the same input blocks on tensor cores.

    As many as divide those of a group, and at least a tile's. Of these numbers alone: whoever asks gets the same.

    Returns:
        0 where groups are so small that most products would be with zeros.

    >>> tile_span(128, 2, 96), tile_span(128, 32, 128), tile_span(128, 64, 128)
    (64, 32, 0)
    """
    least, *more = SPANS
    span = max([least, *(n for n in more if out_channels // groups % n == 0)])
    read = input_blocks(out_channels, groups, in_channels, span, _UNIT) * _UNIT
    return span if read <= _MOST * (in_channels // groups) else 0


def channel_words(data: te.Tensor) -> te.Tensor:
    """uint8 (N, C, H, W) -> int32 (N, ceil(C/4), H, W, 1), four channels each; zero past the last."""
    n, channels, h, w = static(data.shape)

    def word(i: Any, o: Any, y: Any, x: Any, _: Any) -> Any:
        def byte(r: int) -> Any:
            at = o * 4 + r
            if channels % 4 == 0:
                return data[i, at, y, x]
            return te.if_then_else(at < channels, data[i, te.min(at, channels - 1), y, x], const(0, "uint8"))

        return four(byte)

    return te.compute((n, -(-channels // 4), h, w, 1), word, name="channel_words")


def channel_pairs(data: te.Tensor, native: bool) -> te.Tensor:
    """float32 (N, C, H, W) -> uint32 (N, ceil(C/2), H, W, 1), two channels each, as bits of bfloat16."""
    n, channels, h, w = static(data.shape)

    def word(i: Any, o: Any, y: Any, x: Any, _: Any) -> Any:
        def bits(channel: Any) -> Any:
            return rounded_bits(data[i, channel, y, x], native).astype(PAIR)

        low = bits(o * 2)
        if channels % 2 == 0:
            return low | (bits(o * 2 + 1) << const(16, PAIR))
        high = bits(te.min(o * 2 + 1, channels - 1)) << const(16, PAIR)
        return low | te.if_then_else(o * 2 + 1 < channels, high, const(0, PAIR))

    return te.compute((n, -(-channels // 2), h, w, 1), word, name="channel_pairs")


def depthwise2d_words(data: te.Tensor, weight: te.Tensor, window: Window, pad_value: float, tile: Tile) -> te.Tensor:
    """Depthwise convolution of uint8 four taps of a row at a time -> (N, C/b, OH, OW, b) int32.

    The bytes that four neighbouring taps read are put into one int32 for every position and channel; a dot-product
    instruction then adds four taps of every channel of a block.

    Args:
        weight: int32 (C/b, KH, ceil(KW/4), b), four int8 taps each; zero past the last.
    """
    n, cb, h, w, b = static(data.shape)
    _, kh, groups, _ = static(weight.shape)
    oh, ow = window.output(h, w)
    (sy, sx), (dy, dx) = window.strides, window.dilations
    padded = tile.padded
    # The last word of a row has taps past the window, whose weights are zero; they have to be there.
    reach = (padded - 1) * sx + (4 * groups - 1) * dx + 1
    source = _source(data, window, (oh, padded), pad_value, reach)
    height = static(source.shape)[2]
    # Of a stride of one, a word serves every group of taps that begins with it.
    shared = sx == 1
    count = padded + (groups - 1) * 4 * dx if shared else padded

    def word(i: Any, c: Any, y: Any, t: Any, x: Any, v: Any) -> Any:
        return four(lambda r: source[i, c, y, x * sx + (t * 4 + r) * dx, v])

    words = te.compute((n, cb, height, 1 if shared else groups, count, b), word, name="words", attrs={OP: "words"})
    ky, kx = te.reduce_axis((0, kh), "ky"), te.reduce_axis((0, groups), "kx")

    def element(i: Any, c: Any, y: Any, x: Any, v: Any) -> Any:
        at = (0, x + kx * (4 * dx)) if shared else (kx, x)
        return te.sum(dot_four(words[i, c, y * sy + ky * dy, *at, v], weight[c, ky, kx, v]), axis=[ky, kx])

    attrs = {OP: "depthwise", **tile.attrs()}
    acc = te.compute((n, cb, oh, padded, b), element, name="depthwise", attrs=attrs)
    return te.compute((n, cb, oh, ow, b), lambda i, c, y, x, v: acc[i, c, y, x, v], name="crop", attrs={OP: "crop"})


def depthwise2d(data: te.Tensor, weight: te.Tensor, window: Window, pad_value: float, tile: Tile) -> te.Tensor:
    """Depthwise convolution, one filter a channel -> (N, C/b, OH, OW, b) in the accumulator type."""
    data = widened(data)
    n, cb, h, w, b = static(data.shape)
    _, kh, kw, _ = static(weight.shape)
    oh, ow = window.output(h, w)
    kind = accumulator(str(data.dtype))
    padded = tile.padded
    source = _source(data, window, (oh, padded), pad_value)
    ky, kx = te.reduce_axis((0, kh), "ky"), te.reduce_axis((0, kw), "kx")
    (sy, sx), (dy, dx) = window.strides, window.dilations
    acc = te.compute(
        (n, cb, oh, padded, b),
        lambda i, c, y, x, v: te.sum(
            source[i, c, y * sy + ky * dy, x * sx + kx * dx, v].astype(kind) * weight[c, ky, kx, v].astype(kind),
            axis=[ky, kx],
        ),
        name="depthwise",
        attrs={OP: "depthwise", **tile.attrs()},
    )
    return te.compute((n, cb, oh, ow, b), lambda i, c, y, x, v: acc[i, c, y, x, v], name="crop", attrs={OP: "crop"})
