"""QuantizeLinear and DequantizeLinear of any type and granularity, with parameters known only at run time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import te, tirx

from optkit.compiler.operators import formats
from optkit.compiler.operators.casts import load, store
from optkit.compiler.operators.common import const, static
from optkit.compiler.operators.exact import product

RANGES = {
    "uint8": (0, 255),
    "int8": (-128, 127),
    "uint16": (0, 65535),
    "int16": (-32768, 32767),
    "uint4": (0, 15),
    "int4": (-8, 7),
    "uint2": (0, 3),
    "int2": (-2, 1),
}
"""What each quantized integer holds; QuantizeLinear saturates to it."""

Pick = Callable[..., Any]


def picker(parameter: te.Tensor, dtype: str, axis: int, block: int) -> Pick:
    """How an element's index finds its scale or zero point, as a number.

    Args:
        axis: of a vector of parameters, or the one that blocks run along.
        block: elements that share a parameter, 0 where it is not blocked.
    """
    shape = static(parameter.shape)

    def pick(*index: Any) -> Any:
        if all(isinstance(d, int) and d == 1 for d in shape):
            return load(parameter(*[0] * len(shape)), dtype)
        if not block:
            return load(parameter(index[axis]), dtype)
        at = [i // block if k == axis else i for k, i in enumerate(index)]
        return load(parameter(*at), dtype)

    return pick


def to_range(real: Any, zero: Any, dtype: str) -> Any:
    """float32 to a quantized integer: rounded half to even, then the zero point added, then clipped."""
    low, high = RANGES[dtype]
    shifted = tirx.nearbyint(real)
    if zero is not None:
        shifted = shifted + zero.astype("float32")
    clipped = te.max(te.min(shifted, const(high, "float32")), const(low, "float32"))
    return store(clipped.astype("int32"), dtype)


def quantize(
    data: te.Tensor,
    scale: te.Tensor,
    zero: te.Tensor | None,
    types: tuple[str, str, str],
    precision: str,
    axis: int,
    block: int,
    saturate: bool,
) -> te.Tensor:
    """saturate(round(x / scale) + zero).

    Args:
        types: of the data, the scale, and the result and its zero point.
        precision: the type that the quotient is rounded to.
    """
    source, scale_type, dtype = types
    scales = picker(scale, scale_type, axis, block)
    zeros = None if zero is None else picker(zero, dtype, axis, block)

    def element(*i: Any) -> Any:
        wide = "float64" if precision == "float64" else "float32"
        quotient = load(data(*i), source).astype(wide) / scales(*i).astype(wide)
        real = load(store(quotient, precision), precision).astype("float32")
        if dtype in RANGES:
            return to_range(real, None if zeros is None else zeros(*i), dtype)
        if zeros is not None and formats.FORMATS[dtype].special == "none":
            real = real + zeros(*i)
        return store(real, dtype, saturate)

    return te.compute(data.shape, element, name="quantize")


def dequantize(
    data: te.Tensor,
    scale: te.Tensor,
    zero: te.Tensor | None,
    types: tuple[str, str, str],
    axis: int,
    block: int,
) -> te.Tensor:
    """(q - zero) * scale, in float32; `types` are those of the data, the scale and the result."""
    source, scale_type, dtype = types
    scales = picker(scale, scale_type, axis, block)
    zeros = None if zero is None else picker(zero, source, axis, block)

    def element(*i: Any) -> Any:
        value = load(data(*i), source)
        if "int" in str(value.ty.dtype):
            value = value.astype("int32")
        if zeros is not None:
            offset = zeros(*i)
            value = value - offset.astype(str(value.ty.dtype))
        return store(product(value.astype("float32"), scales(*i).astype("float32")), dtype)

    return te.compute(data.shape, element, name="dequantize")


def dynamic_range(data: te.Tensor) -> tuple[te.Tensor, te.Tensor]:
    """Scale and zero point of DynamicQuantizeLinear: 0..255 for the range of x, widened to hold 0."""
    shape = static(data.shape)
    axes = [te.reduce_axis((0, d)) for d in shape]
    least = te.compute((), lambda: te.min(data(*axes), axis=axes), name="least")
    again = [te.reduce_axis((0, d)) for d in shape]
    most = te.compute((), lambda: te.max(data(*again), axis=again), name="most")
    nought, top = const(0, "float32"), const(255, "float32")

    def step() -> Any:
        width = (te.max(most(), nought) - te.min(least(), nought)) / top
        return tirx.Select(width == nought, const(1, "float32"), width)

    scale = te.compute((), step, name="scale")
    zero = te.compute(
        (),
        lambda: (
            tirx.nearbyint(te.max(te.min(-te.min(least(), nought) / scale(), top), nought))
            .astype("int32")
            .astype("uint8")
        ),
        name="zero",
    )
    return scale, zero


__all__ = ["RANGES", "dequantize", "dynamic_range", "picker", "quantize", "to_range"]
