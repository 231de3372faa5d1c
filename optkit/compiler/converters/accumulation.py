"""The sums of a convolution over the right layouts of data and weights, by the plan of records or the cost model."""

from __future__ import annotations

import functools
import math
from typing import Any

import ml_dtypes
import numpy as np
from tvm import relax

from optkit.compiler import packing
from optkit.compiler.converters.tile_sums import conv_tiles, pixel_tiles
from optkit.compiler.lowering import Lowering
from optkit.compiler.operator import CONV, DEPTHWISE, TENSOR_CORE, TENSOR_FLOAT, Operator
from optkit.compiler.operators.common import BITS, to_bits
from optkit.compiler.operators.conv import (
    Window,
    channel_pairs,
    channel_words,
    conv2d,
    depthwise2d,
    depthwise2d_words,
    tile_span,
)
from optkit.compiler.operators.open_conv import (
    conv2d_positions,
    conv2d_tiles,
    depthwise2d_positions,
    depthwise2d_tiles,
    usual,
)
from optkit.compiler.operators.quant import flip_sign
from optkit.compiler.operators.winograd import (
    open_winograd_output,
    open_winograd_tiles,
    winograd,
    winograd_by_rows,
    winograd_pairs,
    winograd_product,
    winograd_weight,
)
from optkit.compiler.planning import BY_ROWS, default_plan, in_tiles, make_tile, row_tile, templates, winograd_side
from optkit.compiler.tiling import Tile, choose_tile
from optkit.compiler.values import OPAQUE, OUT_FUSABLE, Value


def dot_group(low: Lowering) -> int:
    """Input channels one integer dot-product instruction takes."""
    return 4 if low.target.has("int8_dot") else 2


def bits(low: Lowering, expr: Any) -> Any:
    """A tensor rounded to bfloat16, as bits; element by element, so that what makes the tensor can write them."""
    if str(expr.ty.dtype) != "float32":
        expr = low.bind(relax.op.astype(expr, "float32"))
    return low.emit(to_bits, expr, low.target.has("bf16_vector"), name="to_bits")


OPEN = "its extents are known only when it runs"
"""Why tensor cores do not take a product."""
OPEN_ROWS = 7
"""Positions of a tile where the width is open: the widths of classifiers are multiples of it, and of 20 or 80,
as detectors have them, it wastes a twentieth."""


def _winograd_side(low: Lowering, x: Value, geometry: Window, groups: int, compute: str) -> int:
    """Largest side of Winograd's output tiles that may be chosen; 0 where only direct summation serves."""
    open_batch = not isinstance(x.shape[0], int) and all(isinstance(d, int) for d in x.shape[2:])
    if (
        (open_batch and (compute, x.dtype) != ("float32", "float32"))
        or not low.target.has("winograd")
        or groups != 1
        or compute not in ("float32", "bfloat16")
        or not geometry.square3
    ):
        return 0
    # On whole numbers F(2, 3) is exact, as direct sums are: its factors are powers of two. Those of F(4, 3) are not,
    # and bfloat16 has no room for the sums of tiles.
    return 4 if not low.stepped else 2 if compute == "float32" else 0


def _open_winograd(
    low: Lowering, x: Value, geometry: Window, groups: int, compute: str, weight: np.ndarray, c: int, b: int
) -> tuple[int, Tile, bool]:
    """Side of Winograd's output tiles for images of open size, 0 for direct summation, the tile of its products, and
    whether they are made for a row of tiles at a time.

    As the model has it for usual images; in float32 only.
    """
    side = _winograd_side(low, x, geometry, groups, compute) if (compute, x.dtype) == ("float32", "float32") else 0
    operator = _operator(x, weight, geometry, groups, compute, c, b)
    plan = default_plan(operator, low.target, templates(operator, side))
    return winograd_side(plan), make_tile(operator, plan, b), BY_ROWS in plan.params


def _operator(
    x: Value, weight: np.ndarray, geometry: Window, groups: int, compute: str, block: int, b: int
) -> Operator:
    """A convolution as tuning knows it, its channels filled up to blocks; of an open batch, what one image takes.

    Of images of open size, what usual ones take.
    """
    n, channels, *size = x.shape
    h, w = map(usual, size)
    filters = weight.shape[0]
    images = n if isinstance(n, int) else 1
    window = (*geometry.kernel, *geometry.strides, *geometry.dilations, *geometry.pads)
    if groups == channels == filters:
        return Operator(DEPTHWISE, compute, (images, packing.round_up(channels, b), h, w, *window))
    if groups == 1:
        channels, filters = packing.round_up(channels, block), packing.round_up(filters, b)
    return Operator(CONV, compute, (images, channels, h, w, filters, *window, groups, block))


BYTES = {"int8": 1, "float16": 2, "bfloat16": 2, TENSOR_FLOAT: 4}
"""Of a number that tensor cores multiply."""
COPY = 16
"""Bytes that one asynchronous copy takes to tensor cores at most."""


def _blocks(low: Lowering, x: Value, weight: np.ndarray, compute: str, together: int) -> tuple[int, int]:
    """Channels of a block that a convolution reads, and of one that it writes.

    To tensor cores they are as many as one copy takes, where that leaves no more of a block empty than a vector does.
    """
    b, size, channels = low.target.lanes, BYTES.get(compute, 0), x.shape[1]
    _, _, *kernel = weight.shape
    terms = packing.round_up(channels, b) * math.prod(kernel)
    if not low.target.has("async_copy") or terms * size < COPY:
        return b, b

    def widest(channels: int) -> int:
        return max(n for n in (b, 2 * b, 4 * b) if packing.round_up(channels, b) % n == 0 and n * size <= COPY)

    serves = x.block >= b and x.block * size <= COPY
    return x.block if serves else widest(channels), widest(together)


def tensor_span(low: Lowering, out: int, groups: int, channels: Any, compute: str) -> int:
    """Output channels that read the same input blocks, where tensor cores take a convolution in groups; 0 elsewhere."""
    if not low.target.has("async_copy") or compute not in BYTES or not isinstance(channels, int):
        return 0
    return tile_span(out, groups, channels)


def accumulation(
    low: Lowering,
    x: Value,
    weight: np.ndarray,
    geometry: Window,
    groups: int,
    depthwise: bool,
    pad_value: int,
    compute: str,
    together: int,
) -> tuple[Any, int]:
    """Emit the accumulation over the right layouts of data and weights; the sums, and the channels of their blocks.

    Args:
        together: output channels that whole blocks have to make up.
    """
    lanes, registers = low.target.lanes, low.target.registers
    _, channels, h, w = x.shape
    out = weight.shape[0]
    oh, ow = geometry.output(h, w)
    fixed = isinstance(oh, int) and isinstance(ow, int)
    listed = not fixed and low.target.device == "cuda"
    signed = compute == "int8" and low.target.has("int8_signed") and not depthwise
    kind = {"int8": "uint8", "bfloat16": "bfloat16"}.get(compute, x.dtype)
    pairs = kind == "bfloat16" and low.target.has("bf16_pairs")
    native = low.target.has("bf16_vector")
    exact = weight
    if kind == "bfloat16":
        weight = weight.astype(ml_dtypes.bfloat16)

    def read(block: int) -> Any:
        expr = x.form(block) if block > 1 else low.bind(relax.op.expand_dims(x.plain(), [-1]))
        if pairs:
            return bits(low, expr)
        if signed:
            return low.emit(flip_sign, expr, "int8", name="flip_sign")
        return low.bind(relax.op.astype(expr, kind)) if kind != x.dtype else expr

    if depthwise:
        b = x.block if x.block and x.block % lanes == 0 else lanes
        if pairs:
            weight = weight.astype("float32")  # as rounded
        packed = relax.const(packing.depthwise_weight(weight, b))
        if listed:
            given = read(b), packed, geometry, pad_value
            return low.emit(depthwise2d_positions, *given, name="depthwise", kind=OUT_FUSABLE), b
        if not fixed:
            tile = choose_tile(OPEN_ROWS, 1, registers)
            args = read(b), packed, geometry, pad_value, tile
            return low.emit(depthwise2d_tiles, *args, name="depthwise", kind=OUT_FUSABLE), b
        operator = _operator(x, weight, geometry, groups, compute, b, b)
        tile = make_tile(operator, low.plan(operator, templates(operator)), b)
        if compute == "int8" and low.target.has("int8_words"):
            words = relax.const(packing.depthwise_words(weight, b))
            args = read(b), words, geometry, pad_value, tile
            return low.emit(depthwise2d_words, *args, name="depthwise", kind=OUT_FUSABLE), b
        args = read(b), packed, geometry, pad_value, tile
        return low.emit(depthwise2d, *args, name="depthwise", kind=OUT_FUSABLE), b
    if fixed and groups == 1 and in_tiles(compute, low.target):
        if channels >= lanes or x.block == lanes:
            return conv_tiles(low, x, read, weight, geometry, pad_value, compute, together)
        if (sums := pixel_tiles(low, x, weight, geometry, pad_value, compute, together)) is not None:
            return sums
    span = tensor_span(low, out, groups, channels, compute) if groups > 1 and (fixed or listed) else 0
    whole = (fixed or listed) and (groups == 1 or span > 0)
    c, b = _blocks(low, x, weight, compute, together) if whole else (lanes, lanes)
    fours = compute in TENSOR_CORE and (groups == 1 or span > 0) and low.target.has("tensor_fours")
    g = dot_group(low) if compute == "int8" else 2 if pairs else 4 if fours else 1
    if c > lanes:
        g = c
    if channels < lanes and x.block != lanes and groups == 1:
        # Planes as they are serve a kernel that takes one channel at a time; pairs and fours have to lie together.
        c = packing.round_up(channels, g) if g > 1 else 1
    if listed:
        packed = relax.const(packing.conv_weight(weight, groups, b, c, g, span))
        nominal = str(_operator(x, weight, geometry, groups, compute, c, b))
        define = functools.partial(conv2d_positions, operator=nominal, span=span)
        sums = low.emit(
            define, read(c), packed, geometry, (channels, out), groups, pad_value, name="conv2d", kind=OUT_FUSABLE
        )
        return sums, b
    if not fixed:
        m, tile, by_rows = _open_winograd(low, x, geometry, groups, compute, weight, c, b)
        if by_rows:
            packed = relax.const(winograd_weight(exact, m, b))
            return low.emit(
                winograd_by_rows, x.form(b), packed, geometry, m, tile, name="winograd", kind=OUT_FUSABLE
            ), b
        if m:
            tiles = low.emit(open_winograd_tiles, x.form(b), geometry, m, tile.rows, name="winograd_tiles", kind=OPAQUE)
            packed = relax.const(winograd_weight(exact, m, b))
            made = low.emit(winograd_product, tiles, packed, tile, name="winograd_product", kind=OPAQUE)
            extents = m, x.shape[0], oh, ow
            return low.emit(open_winograd_output, made, *extents, name="winograd", kind=OUT_FUSABLE), b
        packed = relax.const(packing.conv_weight(weight.view(BITS) if pairs else weight, groups, b, c, g))
        tile = choose_tile(OPEN_ROWS, math.ceil(out / b), registers)
        options = (channels, out), groups, pad_value, tile
        return low.emit(conv2d_tiles, read(c), packed, geometry, *options, name="conv2d", kind=OUT_FUSABLE), b
    operator = _operator(x, weight, geometry, groups, compute, c, b)
    plan = low.plan(operator, templates(operator, _winograd_side(low, x, geometry, groups, compute)))
    tile, m = make_tile(operator, plan, b), winograd_side(plan)
    if m:
        packed, narrow = winograd_weight(exact, m, b), pairs and m == 2
        if compute == "bfloat16" and not narrow:
            low.revise("float32", "Winograd's algorithm in float32 is faster")
        packed = relax.const(winograd_pairs(packed) if narrow else packed)
        data = x.form(b) if x.dtype == "float32" else low.bind(relax.op.astype(x.form(b), "float32"))
        by_rows = BY_ROWS in plan.params
        if not by_rows and not isinstance(x.shape[0], int):
            # How many tiles there are in all is not known, but of a row it is.
            by_rows, tile = True, row_tile(operator, plan.template, low.target)
        if by_rows:
            return low.emit(winograd_by_rows, data, packed, geometry, m, tile, name="winograd", kind=OUT_FUSABLE), b
        return low.emit(winograd, data, packed, geometry, m, tile, native, name="winograd", kind=OUT_FUSABLE), b
    array = packing.conv_weight(weight.view(BITS) if pairs else weight, groups, b, c, g, span)
    if c < b and (pairs or (compute == "int8" and low.target.has("int8_words"))):
        # Few channels: each position's are one word or a few, made straight from the planes.
        plain = low.bind(relax.op.astype(x.plain(), "float32")) if pairs and x.dtype != "float32" else x.plain()
        made = functools.partial(channel_pairs, native=native) if pairs else channel_words
        data = low.emit(made, plain, name="channel_words")
        packed = relax.const(packing.conv_words(array))
        padding = int(np.full(4, pad_value, "u1").view("<i4")[0])
        options = (c // g, out), groups, padding, tile
        return low.emit(conv2d, data, packed, geometry, *options, name="conv2d", kind=OUT_FUSABLE), b
    define = functools.partial(conv2d, span=span)
    options = (channels, out), groups, pad_value, tile
    return low.emit(define, read(c), relax.const(array), geometry, *options, name="conv2d", kind=OUT_FUSABLE), b
