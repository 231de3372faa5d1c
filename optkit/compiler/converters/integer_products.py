"""MatMulInteger, ConvInteger and what is made of them, in integer arithmetic.

With constant weights the packed kernels of `conv` and `matmul` do the work on unsigned data whose zero point is
left out; sum(w) times the zero point is subtracted from the sums, so it may be known only at run time, as behind a
DynamicQuantizeLinear. Everything else runs on generic kernels.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from tvm import relax

from optkit.compiler.converters import conv as packed_conv
from optkit.compiler.converters import matmul as packed_matmul
from optkit.compiler.converters.geometry import static_shape
from optkit.compiler.lowering import Converter, Lowering, Node
from optkit.compiler.operators import integer_products as define
from optkit.compiler.operators import quant
from optkit.compiler.values import PLAIN, Accumulated, Affine, Dequantized, QuantizedWeight, Value
from optkit.errors import UnsupportedError

_BYTES = ("uint8", "int8")


def centred(weight: Value, zero: Value | None, axis: int) -> np.ndarray | None:
    """Constant weights minus their constant zero points as int8; None where they are not so, or do not fit."""
    if weight.const is None or weight.dtype not in _BYTES or (zero is not None and zero.const is None):
        return None
    wide = weight.const.astype("int64")
    if zero is not None and zero.const is not None:
        offset = zero.const.astype("int64")
        if offset.size > 1:
            if offset.size != wide.shape[axis] or offset.ndim != 1:
                return None
            offset = offset.reshape([-1 if k == axis % wide.ndim else 1 for k in range(wide.ndim)])
        else:
            offset = offset.reshape(())
        wide = wide - offset
    return wide.astype("int8") if wide.min(initial=0) >= -128 and wide.max(initial=0) <= 127 else None


def unsigned(low: Lowering, x: Value) -> tuple[Value, int]:
    """The value as uint8, and what that added to its zero point."""
    if x.dtype == "uint8":
        return x, 0
    raw = getattr(x, "raw", None)
    if raw is not None:
        return raw, 128
    block = x.block
    return low.blocked(
        x.shape, "uint8", block, low.emit(quant.flip_sign, x.form(block), "uint8", name="flip_sign")
    ), 128


def one_number(value: Value | None) -> bool:
    """Whether a parameter is absent or the same for the whole tensor."""
    return value is None or math.prod(d if isinstance(d, int) else 2 for d in value.shape) == 1


def _sums(low: Lowering, found: Accumulated, x_zero: Value | None, added: int, sums: np.ndarray) -> Value:
    """The int32 tensor behind an accumulator of products with a zero point of 0."""
    raw = low.blocked(found.shape, "int32", found.acc_block, found.acc).plain()
    axis = 1 if found.acc_block else len(found.shape) - 1
    own = found.bias.reshape(-1)[: sums.size]
    if own.any():  # of data that was moved to signed bytes
        column = [-1 if a == axis else 1 for a in range(len(found.shape))]
        raw = low.bind(relax.op.add(raw, relax.const(own.reshape(column).astype("int32"))))
    if x_zero is None and not added:
        return low.blocked(found.shape, "int32", PLAIN, raw)
    zero = None if x_zero is None else x_zero.plain()
    expr = low.emit(define.shift, raw, relax.const(sums.astype("int32")), zero, added, axis, name="shift")
    return low.blocked(found.shape, "int32", PLAIN, expr)


def _weight(low: Lowering, q: np.ndarray, axis: int) -> QuantizedWeight:
    return QuantizedWeight(low, q, np.ones(1, "float32"), axis, q.astype("float32"))


def matmul_sums(low: Lowering, node: Node, a: Value, b: Value, a_zero: Value | None, b_zero: Value | None) -> Value:
    """(a - a_zero) x (b - b_zero) as int32."""
    for operand in (a, b):
        if operand.dtype not in _BYTES:
            raise UnsupportedError(f"node {node.name!r} ({node.op_type}): {operand.dtype} operands; cast them to int8")
    q = centred(b, b_zero, -1)
    if q is not None and q.ndim == 2 and len(a.shape) >= 2 and a.const is None and one_number(a_zero):
        data, added = unsigned(low, a)
        real = Dequantized(low, Affine(data, 1.0, 0, False))
        found = packed_matmul.matmul(low, node, [real, _weight(low, q, 1)])
        if isinstance(found, Accumulated):
            return _sums(low, found, a_zero, added, q.astype("int64").sum(0))
    left, right = a.plain(), b.plain()
    if len(a.shape) == 1:
        left = low.bind(relax.op.expand_dims(left, 0))
    if len(b.shape) == 1:
        right = low.bind(relax.op.expand_dims(right, 1))
    zeros = [None if z is None else z.plain() for z in (a_zero, b_zero)]
    result = low.wrap(low.emit(define.matmul, left, right, *zeros, name="matmul_integer"))
    gone = [axis for axis, value in ((-2, a), (-1, b)) if len(value.shape) == 1]
    return low.wrap(relax.op.squeeze(result.plain(), gone)) if gone else result


def window(node: Node, kernel: tuple[Any, ...], size: tuple[Any, ...]) -> tuple[list[int], list[int], list[int]]:
    """Strides, dilations and pads of a convolution in any number of dimensions, auto_pad resolved."""
    rank = len(kernel)
    strides = [int(s) for s in node.get("strides") or [1] * rank]
    dilations = [int(d) for d in node.get("dilations") or [1] * rank]
    pads = [int(p) for p in node.get("pads") or [0] * 2 * rank]
    auto = str(node.get("auto_pad", "NOTSET"))
    if auto == "VALID":
        pads = [0] * 2 * rank
    elif auto.startswith("SAME"):
        if not all(isinstance(d, int) for d in size):
            raise UnsupportedError(
                f"node {node.name!r} ({node.op_type}): auto_pad {auto} needs a static size; fix it with --input-shape"
            )
        for i in range(rank):
            reach = (-(-size[i] // strides[i]) - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1
            total = max(reach - size[i], 0)
            small, large = total // 2, total - total // 2
            pads[i], pads[rank + i] = (small, large) if auto == "SAME_UPPER" else (large, small)
    return strides, dilations, pads


def conv_sums(low: Lowering, node: Node, x: Value, w: Value, x_zero: Value | None, w_zero: Value | None) -> Value:
    """The convolution of (x - x_zero) and (w - w_zero) as int32."""
    for operand in (x, w):
        if operand.dtype not in _BYTES:
            raise UnsupportedError(f"node {node.name!r} ({node.op_type}): {operand.dtype} operands; cast them to int8")
    strides, dilations, pads = window(node, w.shape[2:], x.shape[2:])
    groups = int(node.get("group", 1))
    q = centred(w, w_zero, 0)
    if q is not None and q.ndim in (3, 4) and x.const is None and one_number(x_zero) and static_shape(x, 1, 2, -1):
        data, added = unsigned(low, x)
        flat = replace(node, attributes={**node.attributes, "pads": [0] * len(pads), "auto_pad": "NOTSET"})
        zero = x_zero
        if any(pads):
            plain = low.emit(define.pad, x.plain(), None if zero is None else zero.plain(), pads, name="pad")
            data, added = unsigned(low, low.wrap(plain))
        real = Dequantized(low, Affine(data, 1.0, 0, False))
        if q.ndim == 4:
            found = packed_conv.conv(low, flat, [real, _weight(low, q, 0)])
            if isinstance(found, Accumulated):
                return _sums(low, found, zero, added, q.astype("int64").sum((1, 2, 3)))
    args = [x.plain(), w.plain(), *(None if z is None else z.plain() for z in (x_zero, w_zero))]
    return low.wrap(low.emit(define.conv, *args, strides, dilations, pads, groups, name="conv_integer"))


def _operands(inputs: list[Value | None]) -> tuple[Value, Value, Value | None, Value | None] | None:
    a, b, a_zero, b_zero = [*inputs, None, None][:4]
    return None if a is None or b is None else (a, b, a_zero, b_zero)


def _matmul_integer(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    given = _operands(inputs)
    return None if given is None else matmul_sums(low, node, *given)


def _conv_integer(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    given = _operands(inputs)
    return None if given is None else conv_sums(low, node, *given)


CONVERTERS: dict[str, Converter] = {"MatMulInteger": _matmul_integer, "ConvInteger": _conv_integer}

__all__ = ["CONVERTERS", "centred", "conv_sums", "matmul_sums", "one_number", "unsigned"]
