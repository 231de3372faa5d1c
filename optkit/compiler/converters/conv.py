"""Conv in one to three dimensions, on real and on quantized tensors."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
from tvm import relax

from optkit.compiler import packing
from optkit.compiler.converters.geometry import channel_constant, static_shape, window, windows
from optkit.compiler.lower import Lowering, Node
from optkit.compiler.operator import CONV, DEPTHWISE, TENSOR_CORE, Operator
from optkit.compiler.operators import windows as general
from optkit.compiler.operators.common import BITS, to_bits
from optkit.compiler.operators.conv import Window, channel_pairs, channel_words, conv2d, depthwise2d, depthwise2d_words
from optkit.compiler.operators.open_conv import conv2d_tiles, crop, depthwise2d_tiles, output_size
from optkit.compiler.operators.quant import ChannelIndex, blocked_channel, flip_sign, less_zero_points, take_sums
from optkit.compiler.operators.volume import stack_depths as define_stack
from optkit.compiler.operators.volume import unstack_depths as define_unstack
from optkit.compiler.operators.winograd import winograd, winograd_pairs, winograd_weight
from optkit.compiler.planning import make_tile, templates, winograd_side
from optkit.compiler.tiling import choose_tile
from optkit.compiler.values import (
    INJECTIVE,
    OPAQUE,
    OUT_FUSABLE,
    PLAIN,
    Accumulated,
    Dequantized,
    QuantizedWeight,
    Value,
)

SIGN = 128
"""What signed bytes are less than unsigned ones: where an instruction multiplies only signed ones, data and its zero
point are moved by it, and the sums stay what they are."""


def dot_group(low: Lowering) -> int:
    """Input channels one integer dot-product instruction takes."""
    return 4 if low.target.has("int8_dot") else 2


def conv(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """Blocked convolution; the general form where weights or extents are known only when the model runs."""
    x, weight, bias = inputs[0], inputs[1], inputs[2] if len(inputs) > 2 else None
    if x is None or weight is None:
        return None
    rank = len(weight.shape)
    constant = weight.const is not None and (bias is None or bias.const is not None)
    if constant and x.dtype in ("float32", "float16") and static_shape(x, 1):
        static = static_shape(x, *range(2, rank))
        if rank == 3 and static:
            return _conv1d(low, node, x, weight, bias)
        size = x.shape[2:] if static else _open_size(node, weight.shape[2:])
        if rank == 4 and size is not None:
            return images(low, node, x, weight, bias, window(node, weight.shape[2:], size))
        if rank == 5 and static and int(node.get("group", 1)) == 1:
            return _conv3d(low, node, x, weight, bias)
    return general_conv(low, node, x, weight, bias)


def _open_size(node: Node, kernel: Sequence[int]) -> Sequence[int] | None:
    """A size that gives the padding of images of any size; None where the padding depends on the size."""
    same = str(node.get("auto_pad", "NOTSET")).startswith("SAME")
    return None if same and any(s != 1 for s in node.get("strides") or (1, 1)) else kernel


def general_conv(low: Lowering, node: Node, x: Value, weight: Value, bias: Value | None) -> Value:
    """Any convolution over plain tensors, on the generic schedule."""
    geometry = windows(node, weight.shape[2:])
    out = geometry.output(x.shape[2:])
    groups = int(node.get("group", 1))
    reason = "its weights or extents are known only when it runs" if weight.const is None else "it has no template"
    counts = (*out, *weight.shape, x.shape[0])
    low.record(node, x.dtype, math.prod(d for d in counts if isinstance(d, int)), reason)
    expr = low.emit(general.conv, x.plain(), weight.plain(), geometry, groups, name="conv", kind=OUT_FUSABLE)
    return finish(low, x, weight.shape[0], out, expr, bias)


def finish(low: Lowering, x: Value, filters: int, out: Sequence[Any], expr: Any, bias: Value | None) -> Value:
    """Bias and element type of an accumulated plain result."""
    kind = str(expr.ty.dtype)
    if bias is not None:
        column = low.bind(relax.op.reshape(bias.plain(), (1, filters, *[1] * len(out))))
        expr = low.bind(relax.op.add(expr, low.bind(relax.op.astype(column, kind)) if bias.dtype != kind else column))
    if kind != x.dtype:
        expr = low.bind(relax.op.astype(expr, x.dtype))
    return low.blocked((x.shape[0], filters, *out), x.dtype, PLAIN, expr)


def _conv3d(low: Lowering, node: Node, x: Value, weight: Value, bias: Value | None) -> Value:
    """Three dimensions as two: depths join the batch, and the kernel's depth taps join the channels.

    y[n, o, d] = sum over k of conv2d(x[n, :, d * stride + k * dilation - begin], w[:, :, k]), which is one conv2d
    of (N * OD, KD * C, H, W). The copy costs a read and a write a product over O * KH * KW of them.
    """
    assert weight.const is not None
    geometry = windows(node, weight.shape[2:]).fit(x.shape[2:])
    n, channels, *_ = x.shape
    filters, _, taps, kh, kw = weight.shape
    out = geometry.output(x.shape[2:])
    b = low.target.lanes
    block = b if x.block == b or channels >= b else PLAIN
    room = packing.round_up(channels, b) if block else channels
    stacked = low.emit(define_stack, x.form(block), geometry, out[0], block, name="stack_depths", kind=OPAQUE)
    flat_x = low.blocked((n * out[0], taps * room, *x.shape[3:]), x.dtype, block, stacked)
    wide = packing.pad_axis(weight.const, 1, room).transpose(0, 2, 1, 3, 4).reshape(filters, taps * room, kh, kw)
    flat_w = Value(low, wide.shape, weight.dtype, const=np.ascontiguousarray(wide))
    window2 = Window(
        (kh, kw),
        (geometry.strides[1], geometry.strides[2]),
        (geometry.dilations[1], geometry.dilations[2]),
        (*geometry.begins[1:], *geometry.ends[1:]),
    )
    made = images(low, node, flat_x, flat_w, bias, window2)
    apart = low.emit(define_unstack, made.form(b), n, out[0], name="unstack_depths", kind=OPAQUE)
    return low.blocked((n, filters, *out), x.dtype, b, apart)


def _conv1d(low: Lowering, node: Node, x: Value, weight: Value, bias: Value | None) -> Value:
    """One dimension is two with a height of one."""

    def widen(value: Value) -> Value:
        shape = (*value.shape[:2], 1, *value.shape[2:])
        if isinstance(value, QuantizedWeight):
            q, real = value.q.reshape(shape), value.const
            assert real is not None
            return QuantizedWeight(low, q, value.scale, value.axis, real.reshape(shape), value.zero)
        if value.const is not None:
            return Value(low, shape, value.dtype, const=value.const.reshape(shape))
        return low.wrap(relax.op.expand_dims(value.plain(), 2))

    attributes = dict(node.attributes)
    for name in ("strides", "dilations", "kernel_shape"):
        if name in attributes:
            attributes[name] = [1, *attributes[name]]
    if "pads" in attributes:
        attributes["pads"] = [0, attributes["pads"][0], 0, attributes["pads"][1]]
    flat = replace(node, attributes=attributes)
    wide_x, wide_w = widen(x), widen(weight)
    geometry = window(flat, wide_w.shape[2:], wide_x.shape[2:])
    result = images(low, flat, wide_x, wide_w, bias, geometry)
    return low.wrap(relax.op.squeeze(result.plain(), [2]))


def _integer_reason(x: Value, weight: Value, bias: Value | None, plain: bool) -> str:
    """Why a convolution cannot run in integers; empty where it can."""
    if not isinstance(x, Dequantized):
        return "its input is not quantized"
    if not isinstance(weight, QuantizedWeight) or weight.q.dtype != np.int8:
        return "its weights are not int8"
    if weight.scale.size > 1 and weight.axis != 0:
        return "its weight scales are not per output channel"
    if weight.zero is not None and not plain:
        return "its weights are in groups and have zero points"
    if not bias_fits(bias, weight.scale.astype("float64") * x.affine.scale):
        return "its bias leaves int32"
    return ""


def images(low: Lowering, node: Node, x: Value, weight: Value, bias: Value | None, geometry: Window) -> Value:
    """A convolution of constant weights over images, on the blocked kernels; height and width may be open."""
    groups = int(node.get("group", 1))
    n, channels, h, w = x.shape
    out, per_in, kh, kw = weight.shape
    oh, ow = output_size(geometry, h, w)
    macs = out * per_in * kh * kw * math.prod(d for d in (n, oh, ow) if isinstance(d, int))
    shape = (n, out, oh, ow)
    depthwise = groups == channels == out
    reason = _integer_reason(x, weight, bias, depthwise or groups == 1)
    b = low.target.lanes
    if not reason:
        assert isinstance(x, Dequantized) and isinstance(weight, QuantizedWeight)
        q, zero = x.affine.q, x.affine.zero
        if low.target.has("int8_signed") and not depthwise:
            zero -= SIGN
        low.record(node, "int8", macs)
        acc = _product(low, q, weight.q, geometry, groups, depthwise, zero, "int8")
        sums = weight.q.astype("int64").sum((1, 2, 3))
        product_scale = np.broadcast_to(weight.scale.astype("float64") * x.affine.scale, (out,))
        offset = integer_bias(bias, product_scale) - zero * sums
        if weight.zero is not None:
            acc = _less_zero_points(low, acc, q, weight.zero, weight.q.shape, geometry, depthwise, zero)
            offset = offset + zero * weight.zero * (per_in * kh * kw)
        return Accumulated(
            low,
            shape,
            acc,
            b,
            packing.channel_vector(offset.astype("int32"), b),
            packing.channel_vector(product_scale, b, 1.0),
        )
    misfit = "it is grouped" if groups != 1 else "" if isinstance(oh, int) and isinstance(ow, int) else OPEN
    compute, wider = low.arithmetic(node, x.dtype, misfit)
    low.record(node, compute, macs, wider or reason)
    assert weight.const is not None
    acc = _product(low, x, weight.const, geometry, groups, depthwise, 0, compute)
    if bias is not None and bias.const is not None:
        acc = low.bind(relax.op.add(acc, channel_constant(bias.const, b, 2, "float32")))
    if x.dtype != "float32":
        acc = low.bind(relax.op.astype(acc, x.dtype))
    return low.blocked(shape, x.dtype, b, acc)


def bits(low: Lowering, expr: Any) -> Any:
    """A tensor rounded to bfloat16, as bits; element by element, so that what makes the tensor can write them."""
    if str(expr.ty.dtype) != "float32":
        expr = low.bind(relax.op.astype(expr, "float32"))
    return low.emit(to_bits, expr, low.target.has("bf16_vector"), name="to_bits")


def integer_bias(bias: Value | None, scale: np.ndarray) -> np.ndarray:
    """The bias in units of the accumulator, int64."""
    if bias is None:
        return np.zeros(1, "int64")
    if isinstance(bias, QuantizedWeight) and np.allclose(bias.scale, scale, rtol=1e-4):
        return bias.q.astype("int64")
    assert bias.const is not None
    steps: np.ndarray = np.rint(bias.const.astype("float64") / scale)
    return steps.astype("int64")


BIAS_LIMIT = 2**30
"""Largest bias, in units of the accumulator: the other half of int32 is for the products."""


def bias_fits(bias: Value | None, scale: np.ndarray) -> bool:
    """Whether a bias leaves int32 sums room; foreign models have float ones beside channels of tiny weights."""
    if bias is None or bias.const is None:
        return True
    return bool((np.abs(bias.const.astype("float64").reshape(-1)) <= BIAS_LIMIT * scale).all())


def _less_zero_points(
    low: Lowering,
    acc: Any,
    q: Value,
    zeros: np.ndarray,
    shape: tuple[int, ...],
    geometry: Window,
    depthwise: bool,
    pad_value: int,
) -> Any:
    """Sums over q_x (q_w - z_w) for those over q_x q_w: less z_w times the sum of the inputs in the window.

    Those sums are one more output channel with weights of one; depthwise they are a product of their own.
    """
    b = low.target.lanes
    ones = np.ones(shape if depthwise else (1, *shape[1:]), np.int8)
    sums = _product(low, q, ones, geometry, shape[0] if depthwise else 1, depthwise, pad_value, "int8")
    zero = relax.const(packing.channel_vector(np.broadcast_to(zeros, (shape[0],)).astype("int32"), b))
    position: ChannelIndex = _everywhere
    if not depthwise:
        sums, position = low.emit(take_sums, sums, name="take_sums"), _all_but_channels
    return low.emit(less_zero_points, acc, sums, zero, blocked_channel, position, name="less_zero_points")


def _everywhere(*index: Any) -> tuple[Any, ...]:
    return index


def _all_but_channels(*index: Any) -> tuple[Any, ...]:
    """Where a blocked activation's index is in one of a single channel, taken out."""
    return index[0], *index[2:-1]


OPEN = "its extents are known only when it runs"
"""Why tensor cores do not take a product."""
OPEN_ROWS = 7
"""Positions of a tile where the width is open: the widths of classifiers are multiples of it, and of 20 or 80,
as detectors have them, it wastes a twentieth."""


def _crop(low: Lowering, tiles: Any, width: Any) -> Any:
    """The output of whole tiles, cut to its width."""
    define = functools.partial(crop, width=width)
    return low.bind(low.emit(define, tiles, name="crop", kind=INJECTIVE))


def _winograd_side(low: Lowering, x: Value, geometry: Window, groups: int, compute: str) -> int:
    """Largest side of Winograd's output tiles that may be chosen; 0 where only direct summation serves."""
    missing = not isinstance(x.shape[0], int) or not low.target.has("winograd")
    if missing or groups != 1 or compute not in ("float32", "bfloat16") or not geometry.square3:
        return 0
    # On whole numbers F(2, 3) is exact, as direct sums are: its factors are powers of two. Those of F(4, 3) are not,
    # and bfloat16 has no room for the sums of tiles.
    return 4 if not low.stepped else 2 if compute == "float32" else 0


def _operator(
    x: Value, weight: np.ndarray, geometry: Window, groups: int, compute: str, block: int, b: int
) -> Operator:
    """A convolution as tuning knows it, its channels filled up to blocks; of an open batch, what one image takes."""
    n, channels, h, w = x.shape
    filters = weight.shape[0]
    images = n if isinstance(n, int) else 1
    window = (*geometry.kernel, *geometry.strides, *geometry.dilations, *geometry.pads)
    if groups == channels == filters:
        return Operator(DEPTHWISE, compute, (images, packing.round_up(channels, b), h, w, *window))
    if groups == 1:
        channels, filters = packing.round_up(channels, block), packing.round_up(filters, b)
    return Operator(CONV, compute, (images, channels, h, w, filters, *window, groups, block))


def _product(
    low: Lowering,
    x: Value,
    weight: np.ndarray,
    geometry: Window,
    groups: int,
    depthwise: bool,
    pad_value: int,
    compute: str,
) -> Any:
    """Emit the accumulation over the right layouts of data and weights."""
    b, registers = low.target.lanes, low.target.registers
    _, channels, h, w = x.shape
    out = weight.shape[0]
    oh, ow = output_size(geometry, h, w)
    fixed = isinstance(oh, int) and isinstance(ow, int)
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
        if pairs:
            weight = weight.astype("float32")  # as rounded
        packed = relax.const(packing.depthwise_weight(weight, b))
        if not fixed:
            tile = choose_tile(OPEN_ROWS, 1, registers)
            args = read(b), packed, geometry, pad_value, tile
            return _crop(low, low.emit(depthwise2d_tiles, *args, name="depthwise", kind=OPAQUE), ow)
        operator = _operator(x, weight, geometry, groups, compute, b, b)
        tile = make_tile(operator, low.plan(operator, templates(operator)), b)
        if compute == "int8" and low.target.has("int8_words"):
            words = relax.const(packing.depthwise_words(weight, b))
            args = read(b), words, geometry, pad_value, tile
            return low.emit(depthwise2d_words, *args, name="depthwise", kind=OUT_FUSABLE)
        return low.emit(depthwise2d, read(b), packed, geometry, pad_value, tile, name="depthwise", kind=OUT_FUSABLE)
    fours = compute in TENSOR_CORE and groups == 1 and low.target.has("tensor_fours")
    g = dot_group(low) if compute == "int8" else 2 if pairs else 4 if fours else 1
    c = b
    if channels < b and x.block != b and groups == 1:
        # Planes as they are serve a kernel that takes one channel at a time; pairs and fours have to lie together.
        c = packing.round_up(channels, g) if g > 1 else 1
    if not fixed:
        packed = relax.const(packing.conv_weight(weight.view(BITS) if pairs else weight, groups, b, c, g))
        tile = choose_tile(OPEN_ROWS, math.ceil(out / b), registers)
        options = (channels, out), groups, pad_value, tile
        return _crop(low, low.emit(conv2d_tiles, read(c), packed, geometry, *options, name="conv2d", kind=OPAQUE), ow)
    operator = _operator(x, weight, geometry, groups, compute, c, b)
    plan = low.plan(operator, templates(operator, _winograd_side(low, x, geometry, groups, compute)))
    tile, m = make_tile(operator, plan, b), winograd_side(plan)
    if m:
        packed, narrow = winograd_weight(exact, m, b), pairs and m == 2
        if compute == "bfloat16" and not narrow:
            low.revise("float32", "Winograd's algorithm in float32 is faster")
        packed = relax.const(winograd_pairs(packed) if narrow else packed)
        data = x.form(b) if x.dtype == "float32" else low.bind(relax.op.astype(x.form(b), "float32"))
        return low.emit(winograd, data, packed, geometry, m, tile, native, name="winograd", kind=OUT_FUSABLE)
    array = packing.conv_weight(weight.view(BITS) if pairs else weight, groups, b, c, g)
    if c < b and (pairs or (compute == "int8" and low.target.has("int8_words"))):
        # Few channels: each position's are one word or a few, made straight from the planes.
        plain = low.bind(relax.op.astype(x.plain(), "float32")) if pairs and x.dtype != "float32" else x.plain()
        made = functools.partial(channel_pairs, native=native) if pairs else channel_words
        data = low.emit(made, plain, name="channel_words")
        packed = relax.const(packing.conv_words(array))
        padding = int(np.full(4, pad_value, "u1").view("<i4")[0])
        options = (c // g, out), groups, padding, tile
        return low.emit(conv2d, data, packed, geometry, *options, name="conv2d", kind=OUT_FUSABLE)
    options = (channels, out), groups, pad_value, tile
    return low.emit(conv2d, read(c), relax.const(array), geometry, *options, name="conv2d", kind=OUT_FUSABLE)


CONVERTERS = {"Conv": conv}
