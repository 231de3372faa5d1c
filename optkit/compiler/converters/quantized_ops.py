"""Operators of com.microsoft on quantized tensors, which ONNX Runtime's quantizers emit.

Operators on one scale a tensor are what they are defined as: DequantizeLinear, the operator, QuantizeLinear, and are
lowered like these nodes would be. Products with dynamically quantized activations keep int32 sums.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from tvm import relax

from optkit.compiler.converters import affine
from optkit.compiler.converters.integer_products import matmul_sums
from optkit.compiler.converters.qlinear import need, requantized
from optkit.compiler.converters.quantized import dequantize_linear, quantize_linear
from optkit.compiler.lowering import Converter, Lowering, Node
from optkit.compiler.operators import integer_products as define
from optkit.compiler.values import PLAIN, GroupedWeight, Value
from optkit.errors import UnsupportedError


def _apply(low: Lowering, node: Node, op_type: str, inputs: list[Value | None], **attributes: Any) -> Value:
    """Lower an ONNX operator that a node stands for."""
    from optkit.compiler.converters import convert

    source = ir.node(op_type, [], attributes, num_outputs=1)
    inner = replace(node, op_type=op_type, domain="", attributes=attributes, outputs=1, source=source)
    result = convert(low, inner, inputs)
    if not isinstance(result, Value):
        raise UnsupportedError(f"node {node.name!r} ({node.op_type}): there is no {op_type} for these inputs")
    return result


def _real(low: Lowering, node: Node, parts: list[Value | None]) -> Value:
    x, scale, zero = parts
    need(node, x, scale)
    result = dequantize_linear(low, replace(node, attributes={}), [x, scale, zero])
    assert result is not None
    return result


def _quantized(low: Lowering, node: Node, real: Value, scale: Value | None, zero: Value | None) -> Value | None:
    return quantize_linear(low, replace(node, attributes={}), [real, scale, zero])


def _binary(op_type: str) -> Converter:
    def convert(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
        given = [*inputs, None][:8]
        operands: list[Value | None] = [_real(low, node, given[:3]), _real(low, node, given[3:6])]
        return _quantized(low, node, _apply(low, node, op_type, operands), given[6], given[7])

    return convert


def _unary(op_type: str, *kept: str) -> Converter:
    def convert(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
        given = [*inputs, None][:5]
        if node.get("channels_last", 0):
            raise UnsupportedError(f"node {node.name!r} ({node.op_type}): channels_last; export it channels first")
        attributes = {name: node.attributes[name] for name in kept if name in node.attributes}
        real = _apply(low, node, op_type, [_real(low, node, given[:3])], **attributes)
        return _quantized(low, node, real, given[3], given[4])

    return convert


def _concat(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    scale, zero, *rest = inputs
    parts: list[Value | None] = [_real(low, node, rest[i : i + 3]) for i in range(0, len(rest), 3)]
    return _quantized(low, node, _apply(low, node, "Concat", parts, axis=int(node.get("axis", 0))), scale, zero)


def _to_float(low: Lowering, sums: Value, a: Value, b: Value, bias: Value | None) -> Value:
    args = [v.plain() for v in (sums, a, b)]
    expr = low.emit(define.rescale, *args, None if bias is None else bias.plain(), name="rescale")
    return low.blocked(sums.shape, "float32", PLAIN, expr)


def _matmul_to_float(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """MatMulIntegerToFloat: scales of one number, or one a column of B."""
    a, b, sa, sb, za, zb, bias = [*inputs, None, None, None][:7]
    a, b, sa, sb = need(node, a, b, sa, sb)
    if sa.dtype != "float32":
        raise UnsupportedError(f"node {node.name!r} ({node.op_type}): {sa.dtype} scales; export it in float32")
    return _to_float(low, matmul_sums(low, node, a, b, za, zb), sa, sb, bias)


def _dynamic_matmul(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """DynamicQuantizeMatMul: A is quantized by its own range."""
    x, b, sb, zb, bias = [*inputs, None, None][:5]
    x, b, sb = need(node, x, b, sb)
    quantized = affine.dynamic(low, node, [x])
    if quantized is None:
        return None
    a, sa, za = quantized
    return _to_float(low, matmul_sums(low, node, a, b, za, zb), sa, sb, bias)


def _transposed(low: Lowering, x: Value) -> Value:
    if x.const is not None:
        return Value(low, x.shape[::-1], x.dtype, const=np.ascontiguousarray(x.const.T))
    return low.blocked(x.shape[::-1], x.dtype, PLAIN, low.bind(relax.op.permute_dims(x.plain())))


def _gemm(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """QGemm: requantized with y_scale, real without."""
    a, sa, za, b, sb, zb, bias, sy, zy = [*inputs, None, None, None][:9]
    a, sa, b, sb = need(node, a, sa, b, sb)
    if float(node.get("alpha", 1.0)) != 1.0:
        raise UnsupportedError(f"node {node.name!r} (QGemm): alpha other than 1; multiply a_scale by it")
    a = _transposed(low, a) if node.get("transA", 0) else a
    b = _transposed(low, b) if node.get("transB", 0) else b
    sums = matmul_sums(low, node, a, b, za, zb)
    if bias is not None:
        sums = low.blocked(sums.shape, "int32", PLAIN, low.bind(relax.op.add(sums.plain(), bias.plain())))
    if sy is None:
        return _to_float(low, sums, sa, sb, None)
    return requantized(low, sums, (sa, sb, sy), zy, None, (-2, -1))


def _unpack(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    """Numbers of 2, 4 or 8 bits out of the bytes of the last axis, lowest bits first."""
    parts = [(packed >> shift) & ((1 << bits) - 1) for shift in range(0, 8, bits)]
    return np.stack(parts, -1).reshape(*packed.shape[:-1], -1)[..., :count]


def _matmul_nbits(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """MatMulNBits with constant weights, integers still where activations are float32: A x ((q - zero) * scale)^T."""
    x, packed, scales, zeros, order, bias = [*inputs, None, None, None][:6]
    x, packed, scales = need(node, x, packed, scales)
    bits, block = int(node.get("bits", 4)), int(node.get("block_size", 0))
    rows, columns = int(node.get("N", 0)), int(node.get("K", 0))
    where = f"node {node.name!r} (MatMulNBits)"
    if packed.const is None or scales.const is None or (zeros is not None and zeros.const is None):
        raise UnsupportedError(f"{where}: its weights are computed at run time; make them initializers")
    if bits not in (2, 4, 8) or order is not None or node.get("weight_prepacked", 0) or not packed.const.size:
        raise UnsupportedError(f"{where}: {bits} bits, g_idx, prepacked or empty weights; quantize it to 4 or 8 bits")
    blocks = -(-columns // block)
    q = _unpack(packed.const.reshape(rows, blocks, -1), bits, block).astype("float32")
    zero: Any = float(1 << (bits - 1))
    if zeros is not None and zeros.const is not None:
        given = zeros.const
        unpacked = _unpack(given.reshape(rows, -1), bits, blocks) if given.dtype == np.uint8 else given
        zero = unpacked.astype("float32").reshape(rows, blocks, 1)
    step = scales.const.astype("float32").reshape(rows, blocks, 1)
    real = (q - zero) * step
    weight = np.ascontiguousarray(real.reshape(rows, -1)[:, :columns].T).astype(x.dtype)
    value = Value(low, weight.shape, x.dtype, const=weight)
    if x.dtype == "float32":
        codes = q.reshape(rows, -1)[:, :columns].T.astype(np.uint8 if bits == 8 else ml_dtypes.uint4)
        scale, offsets = (np.broadcast_to(part, (rows, blocks, 1))[..., 0].T for part in (step, zero))
        value = GroupedWeight(low, codes, scale, offsets, 0, block, weight)
    product = _apply(low, node, "MatMul", [x, value])
    return product if bias is None else _apply(low, node, "Add", [product, bias])


CONVERTERS: dict[str, Converter] = {
    "QLinearAdd": _binary("Add"),
    "QLinearMul": _binary("Mul"),
    "QLinearSigmoid": _unary("Sigmoid"),
    "QLinearLeakyRelu": _unary("LeakyRelu", "alpha"),
    "QLinearGlobalAveragePool": _unary("GlobalAveragePool"),
    "QLinearAveragePool": _unary(
        "AveragePool", "kernel_shape", "strides", "pads", "auto_pad", "ceil_mode", "count_include_pad"
    ),
    "QLinearConcat": _concat,
    "QGemm": _gemm,
    "DynamicQuantizeMatMul": _dynamic_matmul,
    "MatMulIntegerToFloat": _matmul_to_float,
    "MatMulNBits": _matmul_nbits,
}
"""Operators of com.microsoft; the domain knows no others by these names."""

__all__ = ["CONVERTERS"]
