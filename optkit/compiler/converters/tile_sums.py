"""Convolutions in tile registers: which blocks their data comes in, and the plan."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax

from optkit.compiler import packing
from optkit.compiler.lowering import Lowering
from optkit.compiler.matrix_tiles import BYTES, COLUMNS, ROWS
from optkit.compiler.operator import CONV, Operator
from optkit.compiler.operators.common import BITS
from optkit.compiler.operators.conv import Window
from optkit.compiler.operators.pixel_conv import conv2d_pixels, pixel_pairs, pixel_weight, pixel_words, row_words
from optkit.compiler.operators.tile_conv import conv2d_tiles
from optkit.compiler.planning import TILES, make_tile
from optkit.compiler.values import OUT_FUSABLE, Value

_MOVED = 4
"""Bytes that a move from blocks to larger ones takes a cycle."""


def conv_tiles(
    low: Lowering,
    x: Value,
    read: Callable[[int], Any],
    weight: np.ndarray,
    geometry: Window,
    pad_value: int,
    compute: str,
    together: int,
) -> tuple[Any, int]:
    """Emit the sums of a dense convolution of an image of fixed size; the sums, and the channels of their blocks.

    Args:
        read: the data in blocks of so many channels, as it is multiplied.
        weight: (O, C, KH, KW), int8 or bfloat16.
        together: output channels that whole blocks have to make up.
    """
    lanes, size = low.target.lanes, 1 if compute == "int8" else 2
    out, channels = weight.shape[:2]
    c = _block(x, weight.shape, geometry, size, lanes)
    b = _out_block(together, size, lanes)
    n, _, h, w = x.shape
    images = n if isinstance(n, int) else 1
    window = (*geometry.kernel, *geometry.strides, *geometry.dilations, *geometry.pads)
    extents = packing.round_up(channels, c), h, w, packing.round_up(out, b)
    operator = Operator(CONV, compute, (images, *extents, *window, 1, c))
    plan = low.plan(operator, (TILES,))
    whole_weight = packing.pad_axis(weight, 0, packing.round_up(out, b))
    array = packing.conv_weight(whole_weight.view(BITS) if size == 2 else whole_weight, 1, lanes, c, 4 // size)
    define = functools.partial(conv2d_tiles, out_block=b)
    options = pad_value, make_tile(operator, plan, lanes)
    return low.emit(define, read(c), relax.const(array), geometry, *options, name="conv2d", kind=OUT_FUSABLE), b


def pixel_tiles(
    low: Lowering,
    x: Value,
    weight: np.ndarray,
    geometry: Window,
    pad_value: int,
    compute: str,
    together: int,
) -> tuple[Any, int] | None:
    """`conv_tiles` of an image of few channels, from its planes; None where a row of the kernel is no row of tiles."""
    lanes, size = low.target.lanes, 1 if compute == "int8" else 2
    out, channels = weight.shape[:2]
    steps, _ = row_words(geometry.kernel, channels, 4 // size)
    if not steps or geometry.dilations[1] != 1:
        return None
    b = _out_block(together, size, lanes)
    n, _, h, w = x.shape
    images = n if isinstance(n, int) else 1
    window = (*geometry.kernel, *geometry.strides, *geometry.dilations, *geometry.pads)
    c = packing.round_up(channels, 4 // size)
    operator = Operator(CONV, compute, (images, c, h, w, packing.round_up(out, b), *window, 1, c))
    plan = low.plan(operator, (TILES,))
    plain = low.bind(relax.op.astype(x.plain(), "float32")) if size == 2 and x.dtype != "float32" else x.plain()
    made = functools.partial(pixel_pairs, native=low.target.has("bf16_vector")) if size == 2 else pixel_words
    data = low.emit(made, plain, name="pixel_words")
    whole = packing.pad_axis(weight, 0, packing.round_up(out, b))
    packed = pixel_weight(whole.view(BITS) if size == 2 else whole, lanes, 4 // size)
    padding = int(np.full(4, pad_value, "u1").view("<i4")[0]) if size == 1 else 0
    define = functools.partial(conv2d_pixels, out_block=b)
    options = geometry, steps, padding, make_tile(operator, plan, lanes)
    return low.emit(define, data, relax.const(packed), *options, name="conv2d", kind=OUT_FUSABLE), b


def _out_block(together: int, size: int, lanes: int) -> int:
    """Channels of a block of the result: a tile's, where whole ones make up what is asked for."""
    whole = packing.round_up(together, lanes)
    return max(n for n in (lanes, 2 * lanes, 4 * lanes) if whole % n == 0 and n * size <= BYTES)


def _block(x: Value, shape: tuple[int, ...], geometry: Window, size: int, lanes: int) -> int:
    """Channels of a block of data: a tile's, or those that it comes in where wider ones cost more than they save."""
    widest = BYTES // size
    if x.block % lanes or not x.block or x.block * size >= BYTES:
        return widest
    out, channels, *kernel = shape
    positions = math.prod(geometry.output(*x.shape[2:]))
    fewer = -(-channels // x.block) - -(-channels // widest)
    saved = fewer * math.prod(kernel) * -(-out // COLUMNS) * -(-positions // ROWS) * ROWS
    moved = channels * x.shape[2] * x.shape[3] * size / _MOVED
    return widest if saved > moved else x.block
