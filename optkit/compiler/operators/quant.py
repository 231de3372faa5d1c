"""Quantize, dequantize and requantize, the same arithmetic everywhere.

Requantization is int32 -> float32, times a float32 scale, round half to even, add the zero point, clip.
Rounding comes before the zero point is added, as ONNX's QuantizeLinear defines it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tvm import te, tirx
from tvm.ir import Op

from optkit.compiler.operators.common import const, static
from optkit.compiler.operators.exact import product

# LLVM has vector forms of nearbyint, but TVM does not list it among the operators it vectorizes: a vector loop
# around it would be split into scalars, and accumulators with it.
Op.get("tirx.nearbyint").set_attr("TVectorizable", True)


ROUNDER = 1.5 * 2**23
"""float32 numbers about this are whole: added to one of less than 2^22, it is rounded half to even."""


def to_uint8(real: Any, zero: int, low: float = -math.inf, high: float = math.inf) -> Any:
    """round(clip(real, low, high)) + zero, clipped to 0..255.

    Clipping to whole numbers may come before rounding, for rounding is monotonic: both clips are then one. The lowest
    byte of `ROUNDER` is 0, so that of the sum is the rounded number's. The zero point is added after that: in the sum,
    an odd one would turn ties the wrong way.
    """
    bottom, top = float(-zero), float(255 - zero)
    low, high = min(max(low, bottom), top), max(min(high, top), bottom)
    clipped = te.max(te.min(real, const(high, "float32")), const(low, "float32"))
    bits = tirx.reinterpret("int32", clipped + const(ROUNDER, "float32"))
    return (bits + zero if zero else bits).astype("uint8")


def quantize(data: te.Tensor, scale: float, zero: int) -> te.Tensor:
    """float -> uint8."""
    inverse = const(1.0 / scale, "float32")
    return te.compute(data.shape, lambda *i: to_uint8(data(*i).astype("float32") * inverse, zero), name="quantize")


def dequantize(data: te.Tensor, scale: float, zero: int) -> te.Tensor:
    """uint8 -> float32: (q - zero) * scale."""
    factor = const(scale, "float32")
    return te.compute(
        data.shape,
        lambda *i: product((data(*i).astype("int32") - zero).astype("float32"), factor),
        name="dequantize",
    )


ChannelIndex = Callable[..., tuple[Any, ...]]


def blocked_channel(*index: Any) -> tuple[Any, ...]:
    """Where a per-channel vector (C/b, b) is read for a blocked activation's index."""
    return index[1], index[-1]


def last_channel(*index: Any) -> tuple[Any, ...]:
    """Where a per-channel vector (C,) is read for a matrix product's index."""
    return (index[-1],)


def dequantize_accumulator(acc: te.Tensor, bias: te.Tensor, scale: te.Tensor, channel: ChannelIndex) -> te.Tensor:
    """int32 accumulator -> float32: (acc + bias[c]) * scale[c]."""
    return te.compute(
        acc.shape,
        lambda *i: product((acc(*i) + bias(*channel(*i))).astype("float32"), scale(*channel(*i))),
        name="rescale",
    )


def take_sums(sums: te.Tensor) -> te.Tensor:
    """(N, 1, *S, b) -> (N, *S): the only channel of blocked sums."""
    return te.compute((sums.shape[0], *sums.shape[2:-1]), lambda n, *s: sums(n, 0, *s, 0), name="take_sums")


def less_zero_points(
    acc: te.Tensor, sums: te.Tensor, zero: te.Tensor, channel: ChannelIndex, position: ChannelIndex
) -> te.Tensor:
    """acc - zero[c] * sums: products with weights q as those with weights q - zero, given the sums of the inputs."""
    return te.compute(acc.shape, lambda *i: acc(*i) - zero(*channel(*i)) * sums(*position(*i)), name="less_zero_points")


def requantize(
    acc: te.Tensor,
    bias: te.Tensor,
    scale: te.Tensor,
    channel: ChannelIndex,
    zero: int,
    low: float,
    high: float,
) -> te.Tensor:
    """int32 accumulator -> uint8: clip((acc + bias[c]) * scale[c], low, high), rounded, plus the zero point.

    `scale` holds input scale * weight scale / output scale; `low` and `high` are an absorbed Relu or Clip in
    units of the output step, infinite where there is none.
    """

    def element(*i: Any) -> Any:
        value = (acc(*i) + bias(*channel(*i))).astype("float32") * scale(*channel(*i))
        return to_uint8(value, zero, low, high)

    return te.compute(acc.shape, element, name="requantize")


def flip_sign(data: te.Tensor, dtype: str) -> te.Tensor:
    """int8 <-> uint8 with an offset of 128, so that every quantized activation is unsigned inside."""
    offset = 128 if dtype == "uint8" else -128
    return te.compute(data.shape, lambda *i: (data(*i).astype("int32") + offset).astype(dtype), name="flip_sign")


__all__ = [
    "blocked_channel",
    "dequantize",
    "dequantize_accumulator",
    "flip_sign",
    "last_channel",
    "less_zero_points",
    "quantize",
    "requantize",
    "static",
    "take_sums",
    "to_uint8",
]
