"""QuantizeLinear, DequantizeLinear and DynamicQuantizeLinear where `quantized` has no lazy form for them."""

from __future__ import annotations

import numpy as np

from optkit.artifact.spec import numpy_dtype
from optkit.compiler.converters.casts import type_name
from optkit.compiler.lowering import Lowering, Node
from optkit.compiler.operators import affine as define
from optkit.compiler.operators import formats
from optkit.compiler.values import PLAIN, Value
from optkit.errors import UnsupportedError


def result_type(node: Node, zero: Value | None) -> str:
    """What a QuantizeLinear makes: the zero point's type, `output_dtype`, or uint8."""
    number = int(node.get("output_dtype", 0))
    if zero is not None:
        return zero.dtype
    return type_name(node, number) if number else "uint8"


def granularity(node: Node, x: Value, scale: Value) -> tuple[int, int]:
    """The axis and the block size of the parameters; (0, 0) where they are one number.

    Raises:
        UnsupportedError: their shape fits none of ONNX's granularities.
    """
    rank, given = len(x.shape), scale.shape
    if all(isinstance(d, int) and d == 1 for d in given):
        return 0, 0
    axis, block = int(node.get("axis", 1)), int(node.get("block_size", 0))
    axis = axis + rank if axis < 0 else axis
    if len(given) == 1 and not block:
        axis = 0 if rank == 1 else axis
        if axis < rank:
            return axis, 0
    elif len(given) == rank and block > 0 and axis < rank:
        return axis, block
    raise UnsupportedError(
        f"node {node.name!r} ({node.op_type}): scales of shape {given} do not fit data of shape {x.shape} "
        f"(axis {axis}, block_size {block})"
    )


def quantize(low: Lowering, node: Node, x: Value, scale: Value, zero: Value | None) -> Value:
    """QuantizeLinear, whatever its parameters."""
    dtype = result_type(node, zero)
    if dtype not in define.RANGES and dtype not in formats.FORMATS:
        raise UnsupportedError(f"node {node.name!r} ({node.op_type}): {dtype} is no type to quantize to")
    axis, block = granularity(node, x, scale)
    number = int(node.get("precision", 0))
    # E8M0 holds powers of two only: no type to divide in.
    precision = type_name(node, number) if number else "float32" if scale.dtype == formats.SCALE else scale.dtype
    constants = scale.const is not None and (zero is None or zero.const is not None)
    if x.const is not None and constants and dtype in define.RANGES and x.dtype == precision == "float32":
        return _folded(low, x.const, scale, zero, dtype, axis, block)
    args = [x.plain(), scale.plain(), None if zero is None else zero.plain()]
    types = (x.dtype, scale.dtype, dtype)
    saturate = bool(node.get("saturate", 1))
    expr = low.emit(define.quantize, *args, types, precision, axis, block, saturate, name="quantize")
    return low.blocked(x.shape, dtype, PLAIN, expr)


def _folded(low: Lowering, x: np.ndarray, scale: Value, zero: Value | None, dtype: str, axis: int, block: int) -> Value:
    """A constant stays one, so that it may be a weight."""
    assert scale.const is not None
    steps = np.rint(x / spread(scale.const, x.shape, axis, block))
    if zero is not None and zero.const is not None:
        steps = steps + spread(zero.const.astype("float32"), x.shape, axis, block)
    clipped = np.clip(steps, *define.RANGES[dtype]).astype("int32")
    return Value(low, tuple(x.shape), dtype, const=clipped.astype(numpy_dtype(dtype)))


def spread(parameter: np.ndarray, shape: tuple[int, ...], axis: int, block: int) -> np.ndarray:
    """Parameters in a shape that broadcasts against the data's."""
    if parameter.size == 1:
        return parameter.reshape(())
    if not block:
        return parameter.reshape([-1 if k == axis else 1 for k in range(len(shape))])
    wide = np.repeat(parameter, block, axis)
    return np.take(wide, np.arange(shape[axis]), axis)


def dequantize(low: Lowering, node: Node, q: Value, scale: Value, zero: Value | None) -> Value:
    """DequantizeLinear, whatever its parameters."""
    number = int(node.get("output_dtype", 0))
    dtype = type_name(node, number) if number else scale.dtype
    axis, block = granularity(node, q, scale)
    if zero is not None and q.dtype in formats.FORMATS and formats.FORMATS[q.dtype].special != "none":
        zero = None  # ONNX wants it to be 0 for float8
    args = [q.plain(), scale.plain(), None if zero is None else zero.plain()]
    expr = low.emit(define.dequantize, *args, (q.dtype, scale.dtype, dtype), axis, block, name="dequantize")
    return low.blocked(q.shape, dtype, PLAIN, expr)


def dynamic(low: Lowering, node: Node, inputs: list[Value | None]) -> list[Value] | None:
    """DynamicQuantizeLinear: uint8 with scale and zero point of the range of this very input."""
    x = inputs[0]
    if x is None or x.dtype != "float32":
        return None
    params = low.emit(define.dynamic_range, x.plain(), name="dynamic_range")
    scale, zero = (low.wrap(low.bind(params[i])) for i in (0, 1))
    types = ("float32", "float32", "uint8")
    expr = low.emit(
        define.quantize, x.plain(), scale.plain(), zero.plain(), types, "float32", 0, 0, True, name="quantize"
    )
    return [low.blocked(x.shape, "uint8", PLAIN, expr), scale, zero]


CONVERTERS = {"DynamicQuantizeLinear": dynamic}

__all__ = ["CONVERTERS", "dequantize", "granularity", "quantize", "result_type", "spread"]
