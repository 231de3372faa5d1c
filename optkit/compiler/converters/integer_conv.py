"""Convolution of quantized tensors: integer sums, and what zero points and biases add to them."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from optkit.compiler import packing
from optkit.compiler.converters.accumulation import accumulation
from optkit.compiler.lowering import Lowering
from optkit.compiler.operators.conv import Window
from optkit.compiler.operators.quant import ChannelIndex, blocked_channel, less_zero_points, take_sums
from optkit.compiler.values import Accumulated, Dequantized, QuantizedWeight, Value

SIGN = 128
"""What signed bytes are less than unsigned ones: where an instruction multiplies only signed ones, data and its zero
point are moved by it, and the sums stay what they are."""


def integer_reason(x: Value, weight: Value, bias: Value | None, plain: bool) -> str:
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


def integer_conv(
    low: Lowering,
    x: Dequantized,
    weight: QuantizedWeight,
    bias: Value | None,
    geometry: Window,
    groups: int,
    shape: tuple[Any, ...],
    together: int,
) -> Value:
    """The result, of this shape, of a convolution that no `integer_reason` is against; `together` as in `images`."""
    out = weight.q.shape[0]
    depthwise = groups == x.shape[1] == out
    q, zero = x.affine.q, x.affine.zero
    if low.target.has("int8_signed") and not depthwise:
        zero -= SIGN
    acc, b = accumulation(low, q, weight.q, geometry, groups, depthwise, zero, "int8", together)
    sums = weight.q.astype("int64").sum((1, 2, 3))
    product_scale = np.broadcast_to(weight.scale.astype("float64") * x.affine.scale, (out,))
    offset = integer_bias(bias, product_scale) - zero * sums
    if weight.zero is not None:
        acc = _less_zero_points(low, acc, b, q, weight.zero, weight.q.shape, geometry, depthwise, zero)
        offset = offset + zero * weight.zero * (weight.q.size // out)
    return Accumulated(
        low,
        shape,
        acc,
        b,
        packing.channel_vector(offset.astype("int32"), b),
        packing.channel_vector(product_scale, b, 1.0),
    )


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
    b: int,
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
    ones = np.ones(shape if depthwise else (1, *shape[1:]), np.int8)
    groups = shape[0] if depthwise else 1
    sums, _ = accumulation(low, q, ones, geometry, groups, depthwise, pad_value, "int8", len(ones))
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
