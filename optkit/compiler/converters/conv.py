"""Conv in two and three dimensions, on real and on quantized tensors; in one it is written as in two before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from tvm import relax

from optkit.compiler import packing
from optkit.compiler.converters.accumulation import accumulation, tensor_span
from optkit.compiler.converters.geometry import channel_constant, open_size, static_shape, window, windows
from optkit.compiler.converters.integer_conv import integer_conv, integer_reason
from optkit.compiler.lowering import Lowering, Node
from optkit.compiler.operator import TENSOR_FLOAT
from optkit.compiler.operators import windows as general
from optkit.compiler.operators.conv import Window
from optkit.compiler.operators.volume import stack_depths as define_stack
from optkit.compiler.operators.volume import unstack_depths as define_unstack
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


def conv(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """Blocked convolution; the general form where weights or extents are known only when the model runs."""
    x, weight, bias = inputs[0], inputs[1], inputs[2] if len(inputs) > 2 else None
    if x is None or weight is None:
        return None
    rank = len(weight.shape)
    constant = weight.const is not None and (bias is None or bias.const is not None)
    if constant and x.dtype in ("float32", "float16") and static_shape(x, 1):
        static = static_shape(x, *range(2, rank))
        size = x.shape[2:] if static else open_size(node, weight.shape[2:])
        if rank == 4 and size is not None:
            return images(low, node, x, weight, bias, window(node, weight.shape[2:], size))
        if rank == 5 and static and int(node.get("group", 1)) == 1:
            return _conv3d(low, node, x, weight, bias)
    return general_conv(low, node, x, weight, bias)


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
    of (N * OD, KD * C, H, W). The copy costs a read and a write a product over O * KH * KW of them. Integers are
    stacked as they are, with their zero point where depths are padded.
    """
    assert weight.const is not None
    geometry = windows(node, weight.shape[2:]).fit(x.shape[2:])
    n, channels, *_ = x.shape
    filters, _, taps, kh, kw = weight.shape
    out = geometry.output(x.shape[2:])
    b = low.target.lanes
    affine = x.affine if isinstance(x, Dequantized) and not integer_reason(x, weight, bias, True) else None
    source, fill = (x, 0) if affine is None else (affine.q, affine.zero)
    block = source.block if source.block >= b else b if channels >= b else PLAIN
    room = packing.round_up(channels, block) if block else channels
    if room != channels and isinstance(weight, QuantizedWeight) and weight.zero is not None:
        affine, source, fill = None, x, 0  # zero points of weights would count what fills the blocks
    # A GPU computes what is between two such copies once more a tap rather than wait for memory once more, and sums
    # become bytes on the way.
    kind = INJECTIVE if low.target.device == "cuda" or affine is not None else OPAQUE
    stacked = low.emit(define_stack, source.form(block), geometry, out[0], block, fill, name="stack_depths", kind=kind)
    flat_x = low.blocked((n * out[0], taps * room, *x.shape[3:]), source.dtype, block, stacked)

    def flat(array: np.ndarray) -> np.ndarray:
        """(O, C, KD, KH, KW) -> (O, KD * room, KH, KW)."""
        moved = packing.pad_axis(array, 1, room).transpose(0, 2, 1, 3, 4)
        return np.ascontiguousarray(moved.reshape(filters, taps * room, kh, kw))

    wide = flat(weight.const)
    flat_w = Value(low, wide.shape, weight.dtype, const=wide)
    if affine is not None:
        assert isinstance(weight, QuantizedWeight)
        flat_x = Dequantized(low, replace(affine, q=flat_x))
        flat_w = QuantizedWeight(low, flat(weight.q), weight.scale, weight.axis, wide, weight.zero)
    window2 = Window(
        (kh, kw),
        (geometry.strides[1], geometry.strides[2]),
        (geometry.dilations[1], geometry.dilations[2]),
        (*geometry.begins[1:], *geometry.ends[1:]),
    )
    made = images(low, node, flat_x, flat_w, bias, window2)

    def apart(expr: Any) -> Any:
        return low.emit(define_unstack, expr, n, out[0], name="unstack_depths", kind=kind)

    shape = (n, filters, *out)
    if isinstance(made, Accumulated):
        return Accumulated(low, shape, apart(made.acc), made.block, made.bias, made.scale)
    return low.blocked(shape, x.dtype, made.block, apart(made.form(made.block)))


def images(
    low: Lowering,
    node: Node,
    x: Value,
    weight: Value,
    bias: Value | None,
    geometry: Window,
    together: int | None = None,
) -> Value:
    """A convolution of constant weights over images, on the blocked kernels; height and width may be open.

    Args:
        together: output channels that whole blocks have to make up; all of them where not given.
    """
    groups = int(node.get("group", 1))
    n, channels, h, w = x.shape
    out, per_in, kh, kw = weight.shape
    oh, ow = geometry.output(h, w)
    macs = out * per_in * kh * kw * math.prod(d for d in (n, oh, ow) if isinstance(d, int))
    shape = (n, out, oh, ow)
    depthwise = groups == channels == out
    reason = integer_reason(x, weight, bias, depthwise or groups == 1)
    if not reason:
        low.record(node, "int8", macs)
        assert isinstance(x, Dequantized) and isinstance(weight, QuantizedWeight)
        return integer_conv(low, x, weight, bias, geometry, groups, shape, together or out)
    misfit = ""
    if groups != 1 and (depthwise or not tensor_span(low, out, groups, channels, TENSOR_FLOAT)):
        misfit = "it is depthwise" if depthwise else "its groups are small"
    compute, wider = low.arithmetic(node, x.dtype, misfit)
    low.record(node, compute, macs, wider or reason)
    assert weight.const is not None
    acc, b = accumulation(low, x, weight.const, geometry, groups, depthwise, 0, compute, together or out)
    if bias is not None and bias.const is not None:
        acc = low.bind(relax.op.add(acc, channel_constant(bias.const, b, 2, "float32")))
    if x.dtype != "float32":
        acc = low.bind(relax.op.astype(acc, x.dtype))
    return low.blocked(shape, x.dtype, b, acc)


CONVERTERS = {"Conv": conv}
