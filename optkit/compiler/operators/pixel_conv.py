"""Convolution of images of few channels in tile registers: a row of data is what a row of the kernel reads.

Pixels lie one behind the other, each as words of four bytes: four channels of int8, or two of bfloat16. A row of a
kernel reads words that are next to each other, and the next position those some pixels on: rows of a tile overlap.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import te

from optkit.compiler.operators.common import OP, PAIR, accumulator, const, dot_four, dot_two, four, rounded_bits, static
from optkit.compiler.operators.conv import Window
from optkit.compiler.tiling import Tile


def pixel_words(data: te.Tensor) -> te.Tensor:
    """uint8 (N, C, H, W) -> int32 (N, H, W * ceil(C/4)), four channels each; zero past the last."""
    channels = static(data.shape)[1]

    def word(at: Callable[[Any], Any], first: Any) -> Any:
        return four(lambda r: _within(first + r, channels, at, const(0, "uint8")))

    return _pixels(data, 4, word, "pixel_words")


def pixel_pairs(data: te.Tensor, native: bool) -> te.Tensor:
    """float32 (N, C, H, W) -> uint32 (N, H, W * ceil(C/2)), two channels each, as bits of bfloat16."""
    channels = static(data.shape)[1]

    def word(at: Callable[[Any], Any], first: Any) -> Any:
        def bits(r: int) -> Any:
            return _within(
                first + r, channels, lambda c: rounded_bits(at(c), native).astype(PAIR), const(0, PAIR)
            ) << const(16 * r, PAIR)

        return bits(0) | bits(1)

    return _pixels(data, 2, word, "pixel_pairs")


def _within(channel: Any, channels: int, at: Callable[[Any], Any], empty: Any) -> Any:
    """What is at a channel, or the empty value past the last."""
    return te.if_then_else(channel < channels, at(te.min(channel, channels - 1)), empty)


def _pixels(data: te.Tensor, together: int, word: Callable[[Callable[[Any], Any], Any], Any], name: str) -> te.Tensor:
    n, channels, h, w = static(data.shape)
    words = -(-channels // together)

    def element(i: Any, y: Any, x: Any) -> Any:
        column, part = (x, 0) if words == 1 else (x // words, x % words)
        return word(lambda c: data[i, c, y, column], part * together)

    return te.compute((n, h, w * words), element, name=name)


def row_words(kernel: tuple[int, int], channels: int, together: int) -> tuple[int, int]:
    """Steps that a row of a kernel makes, and words of one; (0, 0) where they would be too many.

    >>> row_words((7, 7), 3, 4), row_words((11, 11), 3, 2), row_words((1, 17), 1, 4)
    ((1, 7), (2, 11), (0, 0))
    """
    words = kernel[1] * -(-channels // together)
    step = max(size for size in range(1, 17) if words % size == 0)
    return (words // step, step) if step * 4 >= min(words, 16) else (0, 0)


def pixel_weight(weight: np.ndarray, b: int, together: int) -> np.ndarray:
    """(O, C, KH, KW), int8 or bits of bfloat16 -> words (O/b, KH, KW * ceil(C/together), b)."""
    out, channels, kh, kw = weight.shape
    full = np.zeros((-(-out // b) * b, -(-channels // together) * together, kh, kw), weight.dtype)
    full[:out, :channels] = weight
    split = full.reshape(-1, b, full.shape[1] // together, together, kh, kw)
    packed = np.ascontiguousarray(split.transpose(0, 4, 5, 2, 1, 3))
    return packed.view("<i4" if together == 4 else "<u4").reshape(len(split), kh, -1, b)


def conv2d_pixels(
    data: te.Tensor, weight: te.Tensor, window: Window, steps: int, pad_word: int, tile: Tile, out_block: int
) -> te.Tensor:
    """Words (N, H, W * q) and (O/b, KH, KW * q, b) -> (N, O/out_block, OH, OW, out_block) in the accumulator type.

    Args:
        steps: that a row of the kernel makes.
        pad_word: what padding reads as.
    """
    n, h, width = static(data.shape)
    parts, kh, words, b = static(weight.shape)
    q = words // window.kernel[1]
    w, dtype = width // q, str(data.dtype)
    oh, ow = window.output(h, w)
    (sy, sx), (dy, _), (top, left, _, _) = window.strides, window.dilations, window.pads
    height = max((oh - 1) * sy + (kh - 1) * dy + 1, h + top)
    pixels = max((tile.padded - 1) * sx + window.kernel[1], w + left)

    def padded(i: Any, y: Any, x: Any) -> Any:
        inside = te.all(y >= top, y < top + h, x >= left * q, x < left * q + width)
        return te.if_then_else(inside, data[i, y - top, x - left * q], const(pad_word, dtype))

    source = te.compute((n, height, pixels * q), padded, name="pad", attrs={OP: "pad"})
    ky, ko = te.reduce_axis((0, kh), "ky"), te.reduce_axis((0, steps), "ko")
    ki = te.reduce_axis((0, words // steps), "ki")
    dot, blocks = dot_two if dtype == PAIR else dot_four, parts * b // out_block

    def element(i: Any, o: Any, y: Any, x: Any, v: Any) -> Any:
        at, column = ko * (words // steps) + ki, o * out_block + v
        read = source[i, y * sy + ky * dy, x * sx * q + at]
        return te.sum(dot(read, weight[column // b, ky, at, column % b]), axis=[ky, ko, ki])

    shape = (n, blocks, oh, tile.padded, out_block)
    acc = te.compute(shape, element, name="conv", attrs={OP: "conv", **tile.attrs()})
    assert str(acc.dtype) == accumulator(dtype)
    crop = (n, blocks, oh, ow, out_block)
    return te.compute(crop, lambda i, o, y, x, v: acc[i, o, y, x, v], name="crop", attrs={OP: "crop"})
