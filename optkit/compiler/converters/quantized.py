"""QuantizeLinear and DequantizeLinear: what makes a region integer."""

from __future__ import annotations

import numpy as np

from optkit.compiler.converters import affine
from optkit.compiler.converters.movement import before_reshapes
from optkit.compiler.lowering import Lowering, Node
from optkit.compiler.operators import quant
from optkit.compiler.values import PLAIN, Accumulated, Affine, Dequantized, GroupedWeight, QuantizedWeight, Value


class Quantized(Value):
    """An int8 activation of the model, kept as uint8 with an offset of 128 inside."""

    def __init__(self, low: Lowering, raw: Value) -> None:
        super().__init__(low, raw.shape, "int8")
        self.raw = raw

    @property
    def block(self) -> int:
        return self.raw.block

    def make(self, block: int) -> object:
        return self.low.emit(quant.flip_sign, self.raw.form(block), "int8", name="flip_sign")


def _scalar(value: Value | None) -> float | None:
    if value is None or value.const is None or value.const.size != 1:
        return None
    return float(value.const.reshape(()))


def quantize_linear(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """y = saturate(round(x / scale) + zero); constant scalars and 8 bits here, the rest in `affine`."""
    x, step, zero = inputs[0], inputs[1], inputs[2] if len(inputs) > 2 else None
    if x is None or step is None:
        return None
    dtype, scale = affine.result_type(node, zero), _scalar(step)
    simple = dtype in ("uint8", "int8") and (zero is None or _scalar(zero) is not None) and not node.get("precision")
    if scale is None or not simple or x.const is not None or x.dtype not in ("float32", "float16"):
        return affine.quantize(low, node, x, step, zero)
    signed = dtype == "int8"
    offset = int(_scalar(zero) or 0) + (128 if signed else 0)
    if isinstance(x, Dequantized):
        a = x.affine
        if a.scale == scale and a.zero == offset:
            return Quantized(low, a.q) if signed else a.q
    if isinstance(x, Accumulated) and x.acc_block not in x.forms:
        bias, factor = x.vectors(x.scale.astype("float64") / scale)
        low_bound, high_bound = (b / scale for b in x.bounds)
        expr = low.emit(
            quant.requantize,
            x.acc,
            bias,
            factor,
            x.channel(),
            offset,
            low_bound,
            high_bound,
            name="requantize",
        )
        raw = low.blocked(x.shape, "uint8", x.acc_block, expr)
    else:
        block = x.block

        def rounded(expr: object) -> object:
            return low.emit(quant.quantize, expr, scale, offset, name="quantize")

        made = before_reshapes(low, x.form(block), rounded) if block == PLAIN else rounded(x.form(block))
        raw = low.blocked(x.shape, "uint8", block, made)
    return Quantized(low, raw) if signed else raw


def dequantize_linear(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """x = (y - zero) * scale; constants are weights, activations stay integers until someone needs floats."""
    y, scale, zero = inputs[0], inputs[1], inputs[2] if len(inputs) > 2 else None
    if y is None or scale is None:
        return None
    constant = scale.const is not None and (zero is None or zero.const is not None)
    if y.const is not None and constant and not node.get("output_dtype"):
        return _weight(low, node, y, scale, zero)
    factor = _scalar(scale)
    if factor is None or not constant or y.dtype not in ("uint8", "int8") or scale.dtype != "float32":
        return affine.dequantize(low, node, y, scale, zero)
    offset = 0 if zero is None else int(_scalar(zero) or 0)
    if y.dtype == "uint8":
        return Dequantized(low, Affine(y, factor, offset, False))
    raw = y.raw if isinstance(y, Quantized) else None
    if raw is None:
        block = y.block
        flipped = low.emit(quant.flip_sign, y.form(block), "uint8", name="flip_sign")
        raw = low.blocked(y.shape, "uint8", block, flipped)
    return Dequantized(low, Affine(raw, factor, offset + 128, True))


_BYTES = ("int8", "uint8", "int4", "uint4", "int2", "uint2")
"""Integers that kernels multiply, or read as weights in groups."""
_HALF_BYTES = _BYTES[2:]


def _weight(low: Lowering, node: Node, y: Value, step: Value, offset: Value | None) -> Value:
    assert y.const is not None and step.const is not None
    q, scale, zero = y.const, step.const, None if offset is None else offset.const
    axis, block = affine.granularity(node, y, step)
    wide = q.astype("float32" if "float" in y.dtype else "int64")
    if zero is not None and not y.dtype.startswith("float8"):  # of which ONNX wants it to be 0
        wide = wide - affine.spread(zero.astype(wide.dtype), q.shape, axis, block)
    real = wide.astype("float32") * affine.spread(scale.astype("float32"), q.shape, axis, block)
    real = real.astype(scale.dtype)
    if not block and q.dtype == np.int32 and (zero is None or not zero.any()):
        return QuantizedWeight(low, q, scale.reshape(-1), axis, real)
    if block and q.ndim == 2 and y.dtype in _BYTES and real.dtype == np.float32:
        return GroupedWeight(low, q, scale, zero if zero is not None and zero.any() else None, axis, block, real)
    if not block and y.dtype in _BYTES:
        if wide.size == 0 or (wide.min() >= -128 and wide.max() <= 127):
            narrow = _narrow(low, y, scale, zero, axis, real)
            return QuantizedWeight(low, wide.astype(np.int8), scale.reshape(-1), axis, real, narrow=narrow)
        zero = np.zeros(1, np.int64) if zero is None else zero
        moved = 128 if q.dtype == np.uint8 else 0
        shifted = (q.astype("int64") - moved).astype(np.int8)
        return QuantizedWeight(low, shifted, scale.reshape(-1), axis, real, zero.astype("int64").reshape(-1) - moved)
    return Value(low, tuple(real.shape), real.dtype.name, const=real)


def _narrow(
    low: Lowering, y: Value, scale: np.ndarray, zero: np.ndarray | None, axis: int, real: np.ndarray
) -> GroupedWeight | None:
    """A matrix of half bytes as one group that is the whole of the axis without scales."""
    q = y.const
    if q is None or q.ndim != 2 or y.dtype not in _HALF_BYTES or real.dtype != np.float32:
        return None
    across = 1 - axis
    shape = [1 if k == across or scale.size == 1 else -1 for k in range(2)]
    zeros = None if zero is None or not zero.any() else zero.reshape(shape)
    return GroupedWeight(low, q, scale.reshape(shape), zeros, across, q.shape[across], real)


CONVERTERS = {
    "QuantizeLinear": quantize_linear,
    "DequantizeLinear": dequantize_linear,
    **affine.CONVERTERS,
}

__all__ = ["CONVERTERS", "Quantized"]
