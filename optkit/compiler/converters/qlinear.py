"""QLinearConv, QLinearMatMul and QGemm: products of quantized tensors, requantized.

Where all parameters are constants they are a DequantizeLinear on each side and a QuantizeLinear behind, which the
packed integer kernels absorb. Else the sums are integer all the same, and scaled by what comes at run time.
"""

from __future__ import annotations

import numpy as np

from optkit.compiler.converters import conv as packed_conv
from optkit.compiler.converters import matmul as packed_matmul
from optkit.compiler.converters.integer_products import centred, conv_sums, matmul_sums, one_number
from optkit.compiler.converters.quantized import dequantize_linear, quantize_linear
from optkit.compiler.lowering import Converter, Lowering, Node
from optkit.compiler.operators import integer_products as define
from optkit.compiler.values import PLAIN, Accumulated, QuantizedWeight, Value
from optkit.errors import UnsupportedError


def need(node: Node, *values: Value | None) -> list[Value]:
    """Inputs that must be there; refuses a node that leaves one out."""
    if any(v is None for v in values):
        raise UnsupportedError(f"node {node.name!r} ({node.op_type}): an input that it needs is left out")
    return [v for v in values if v is not None]


def _constants(*values: Value | None) -> bool:
    """Whether parameters are constants of one number, scales in float32."""
    return all(v is None or (v.const is not None and v.const.size == 1 and v.dtype != "float16") for v in values)


def _weight(low: Lowering, w: Value, scale: Value, zero: Value | None, axis: int) -> QuantizedWeight | None:
    """Constant weights with constant parameters as symmetric int8, if they are."""
    q = centred(w, zero, axis)
    if q is None or scale.const is None or scale.dtype != "float32" or scale.const.ndim > 1:
        return None
    step = scale.const.reshape(-1)
    if step.size not in (1, q.shape[axis]):
        return None
    shape = [-1 if k == axis % q.ndim else 1 for k in range(q.ndim)]
    real = q.astype("float32") * (step.reshape(shape) if step.size > 1 else step.reshape(()))
    return QuantizedWeight(low, q, step, axis % q.ndim, real)


def _bias(low: Lowering, bias: Value | None, x_scale: Value, weight: QuantizedWeight) -> Value | None:
    """An int32 bias in units of the products."""
    if bias is None:
        return None
    assert bias.const is not None and x_scale.const is not None
    step = (weight.scale.astype("float64") * float(x_scale.const.reshape(()))).astype("float32")
    step = np.broadcast_to(step, bias.const.shape) if step.size > 1 else step
    return QuantizedWeight(low, bias.const, step, 0, (bias.const * step).astype("float32"))


def qlinear_conv(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """QLinearConv of ONNX and of com.microsoft (not channels_last)."""
    x, xs, xz, w, ws, wz, ys, yz, bias = [*inputs, None][:9]
    x, xs, w, ws, ys = need(node, x, xs, w, ws, ys)
    if node.get("channels_last", 0):
        raise UnsupportedError(f"node {node.name!r} (QLinearConv): channels_last; export it channels first")
    if _constants(xs, xz, ys, yz) and (bias is None or bias.const is not None) and x.const is None:
        weight = _weight(low, w, ws, wz, 0)
        real = dequantize_linear(low, node, [x, xs, xz]) if weight is not None else None
        if real is not None and weight is not None:
            found = packed_conv.conv(low, node, [real, weight, _bias(low, bias, xs, weight)])
            if isinstance(found, Accumulated):
                return quantize_linear(low, node, [found, ys, yz])
    sums = conv_sums(low, node, x, w, xz, wz)
    return requantized(low, sums, (xs, ws, ys), yz, bias, (1, 1))


def qlinear_matmul(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """QLinearMatMul: scales and zero points of one number, one a row of a, one a column of b."""
    a, sa, za, b, sb, zb, sy, zy = inputs[:8]
    a, sa, b, sb, sy = need(node, a, sa, b, sb, sy)
    if _constants(sa, za, sy, zy) and a.const is None and len(b.shape) == 2:
        weight = _weight(low, b, sb, zb, 1)
        real = dequantize_linear(low, node, [a, sa, za]) if weight is not None else None
        if real is not None and weight is not None:
            found = packed_matmul.matmul(low, node, [real, weight])
            if isinstance(found, Accumulated):
                return quantize_linear(low, node, [found, sy, zy])
    if not one_number(sy) or not one_number(zy):
        raise UnsupportedError(f"node {node.name!r} ({node.op_type}): its result has one scale a row; use one for all")
    if 1 in (len(a.shape), len(b.shape)) and not all(map(one_number, (sa, za, sb, zb))):
        raise UnsupportedError(f"node {node.name!r} ({node.op_type}): a vector with a scale for each element")
    sums = matmul_sums(low, node, a, b, za, zb)
    return requantized(low, sums, (sa, sb, sy), zy, None, (-2, -1))


def requantized(
    low: Lowering,
    sums: Value,
    scales: tuple[Value, Value, Value],
    zero: Value | None,
    bias: Value | None,
    axes: tuple[int, int],
) -> Value:
    """Sums as the quantized result, for scales of a, b and y; see `operators.integer_products.requantize`."""
    dtype = zero.dtype if zero is not None else "uint8"
    rest = [None if v is None else v.plain() for v in (zero, bias)]

    def body(acc: object, a: object, b: object, y: object, *more: object) -> object:
        given = iter(more)
        zero_point, offset = (None if v is None else next(given) for v in rest)
        return define.requantize(acc, (a, b, y), zero_point, offset, dtype, axes)

    present = [v for v in rest if v is not None]
    expr = low.emit(body, sums.plain(), *[s.plain() for s in scales], *present, name="requantize")
    return low.blocked(sums.shape, dtype, PLAIN, expr)


CONVERTERS: dict[str, Converter] = {"QLinearConv": qlinear_conv, "QLinearMatMul": qlinear_matmul}

__all__ = ["CONVERTERS", "need", "qlinear_conv", "qlinear_matmul", "requantized"]
