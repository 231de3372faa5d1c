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
from optkit.compiler.operators.conv import Window, conv2d
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
    whole = packing.round_up(together, lanes)
    b = max(n for n in (lanes, 2 * lanes, 4 * lanes) if whole % n == 0 and n * size <= BYTES)
    n, _, h, w = x.shape
    images = n if isinstance(n, int) else 1
    window = (*geometry.kernel, *geometry.strides, *geometry.dilations, *geometry.pads)
    extents = packing.round_up(channels, c), h, w, packing.round_up(out, b)
    operator = Operator(CONV, compute, (images, *extents, *window, 1, c))
    plan = low.plan(operator, (TILES,))
    whole_weight = packing.pad_axis(weight, 0, packing.round_up(out, b))
    array = packing.conv_weight(whole_weight.view(BITS) if size == 2 else whole_weight, 1, lanes, c, 4 // size)
    options = (channels, out), 1, pad_value, make_tile(operator, plan, lanes)
    define = functools.partial(conv2d, out_block=b)
    return low.emit(define, read(c), relax.const(array), geometry, *options, name="conv2d", kind=OUT_FUSABLE), b


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
