"""MatMul and Gemm: packed constant weights, or two activations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import tvm_ffi
from tvm import relax
from tvm.ir import GenericConst

from optkit.compiler import packing, planning
from optkit.compiler.converters.accumulation import BYTES, COPY, OPEN, bits, dot_group
from optkit.compiler.converters.grouped import grouped_codes, grouped_product
from optkit.compiler.converters.integer_conv import SIGN, bias_fits, integer_bias
from optkit.compiler.converters.movement import permuted, rounded
from optkit.compiler.lowering import Lowering, Node
from optkit.compiler.matrix_tiles import step_bytes
from optkit.compiler.operator import BATCH_MATMUL, MATMUL, TENSOR_CORE, TENSOR_FLOAT, Operator
from optkit.compiler.operators import matmul as define
from optkit.compiler.operators.common import BITS
from optkit.compiler.operators.quant import flip_sign, last_channel, less_zero_points
from optkit.compiler.planning import TILES, make_tile, templates
from optkit.compiler.tiling import Tile
from optkit.compiler.values import (
    OUT_FUSABLE,
    PLAIN,
    Accumulated,
    Dequantized,
    GroupedWeight,
    QuantizedWeight,
    Value,
    dims,
)

_EIGHT = 8
"""Columns of a core matrix."""


def matmul(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """(..., M, K) x (K, N), or two activations of equal rank."""
    a, b = inputs[0], inputs[1]
    if a is None or b is None or not _real(a) or not _real(b):
        return None
    if b.const is not None and len(b.shape) == 2 and len(a.shape) >= 2 and a.const is None:
        weight = b.q if isinstance(b, QuantizedWeight) else b.const
        return _packed(low, node, a, b, weight, None, 1)
    if a.const is None and len(a.shape) == len(b.shape) >= 2:
        return _activations(low, node, a, b)
    return None


def gemm(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """alpha * A x B + beta * C with constant B; alpha and beta are folded into the constants."""
    a, b, c = inputs[0], inputs[1], inputs[2] if len(inputs) > 2 else None
    if a is None or b is None or b.const is None or a.const is not None or node.get("transA", 0):
        return None
    if not _real(a) or (c is not None and c.const is None):
        return None
    transposed = bool(node.get("transB", 0))
    alpha, beta = float(node.get("alpha", 1.0)), float(node.get("beta", 1.0))
    if isinstance(b, QuantizedWeight | GroupedWeight) and alpha != 1.0:
        b = Value(low, b.shape, b.dtype, const=b.const)
    assert b.const is not None
    quantized = isinstance(b, QuantizedWeight) and beta == 1.0
    weight = b.q if isinstance(b, QuantizedWeight) and quantized else b.const * np.asarray(alpha, b.const.dtype)
    if transposed:
        weight = weight.T
    if c is not None and c.const is not None and beta != 1.0:
        c = Value(low, c.shape, c.dtype, const=(c.const * beta).astype(c.const.dtype))
    return _packed(low, node, a, b, weight, c, 0 if transposed else 1)


OPEN_ROWS = 128
"""Rows of a product where their number is open: so many tokens decide on its tile."""


def _real(value: Value) -> bool:
    return value.dtype in ("float32", "float16")


def _misfit(rows: Sequence[Any], weight: Sequence[int]) -> str:
    """Why tensor cores do not multiply (*rows, K) floats by (K, N), "" where they do."""
    depth, columns = weight
    if not all(isinstance(d, int) for d in rows):
        return OPEN
    if depth < 8:
        return f"its sums are of {depth} terms"
    if depth % 4 or columns % 4:
        return f"{depth} x {columns} is not in whole fours"
    return ""


def _macs(shape: Any, columns: int) -> int:
    return columns * math.prod(d for d in shape if isinstance(d, int))


def _packed(low: Lowering, node: Node, a: Value, b: Value, weight: np.ndarray, bias: Value | None, axis: int) -> Value:
    target, shape = low.target, a.shape
    depth, columns = weight.shape
    open_rows = target.device == "cpu" and not isinstance(shape[-2], int)
    rows = OPEN_ROWS if open_rows else define.row_split(shape)[1]
    product = define.matmul_tiles if open_rows else define.matmul
    out_shape = (*shape[:-1], columns)
    macs = _macs(shape, columns)
    simple_bias = bias is None or bias.shape in ((columns,), (1, columns), (1,), ())
    reason = ""

    def tile(compute: str) -> Tile:
        operator = Operator(MATMUL, compute, (rows, depth, columns))
        allowed = (TILES,) if in_tiles(compute) else templates(operator)
        return make_tile(operator, low.plan(operator, allowed), target.lanes)

    def in_tiles(compute: str) -> bool:
        return planning.in_tiles(compute, target) and all(isinstance(d, int) for d in shape[:-1])

    if not isinstance(a, Dequantized):
        reason = "its input is not quantized"
    elif not isinstance(b, QuantizedWeight) or b.q.dtype != np.int8 or weight.dtype != np.int8:
        reason = "its weights are not int8"
    elif b.scale.size > 1 and b.axis != axis:
        reason = "its weight scales are not per output column"
    elif not simple_bias:
        reason = "its bias is not one value a column"
    elif not bias_fits(bias, b.scale.astype("float64") * a.affine.scale):
        reason = "its bias leaves int32"
    if not reason:
        assert isinstance(a, Dequantized) and isinstance(b, QuantizedWeight)
        low.record(node, "int8", macs)
        g = _group(low, "int8", weight)
        data = a.affine.q.plain()
        missing = -depth % (step_bytes(depth) if in_tiles("int8") else g)
        if missing:
            data = low.bind(relax.op.nn.pad(data, [0, 0] * (len(shape) - 1) + [0, missing]))
        zero = a.affine.zero
        if target.has("int8_signed"):
            data, zero = low.emit(flip_sign, data, "int8", name="flip_sign"), zero - SIGN
        filled = packing.pad_axis(weight, 0, depth + missing)
        packed = relax.const(packing.matmul_weight(filled, _together(low, "int8", weight, g), g))
        acc = low.emit(product, data, packed, columns, tile("int8"), name="matmul", kind=OUT_FUSABLE)
        scale = np.broadcast_to(b.scale.astype("float64") * a.affine.scale, (columns,))
        flat = None if bias is None else _flat_bias(low, bias, columns)
        offset = integer_bias(flat, scale) - zero * weight.astype("int64").sum(0)
        if b.zero is not None:
            acc = _less_zero_points(low, acc, data, b.zero, weight.shape)
            offset = offset + zero * b.zero * weight.shape[0]
        offset = np.broadcast_to(offset, (columns,)).astype("int32")
        return Accumulated(low, out_shape, acc, PLAIN, offset, scale)
    compute, wider = low.arithmetic(node, a.dtype, _misfit((), weight.shape))
    low.record(node, compute, macs, wider or reason)
    data, g = a.plain(), 1
    if compute == "float32" and (codes := grouped_codes(low, b, axis)) is not None:
        result = grouped_product(low, data, codes, define.row_split(shape)[1])
        return _with_bias(low, a, out_shape, result, bias)
    if compute == "bfloat16" and target.has("bf16_pairs"):
        g = 2
        missing = -depth % (step_bytes(depth * 2) // 2 if in_tiles(compute) else g)
        if missing:
            data = low.bind(relax.op.nn.pad(data, [0, 0] * (len(shape) - 1) + [0, missing]))
        filled = packing.pad_axis(weight, 0, depth + missing)
        data, weight = bits(low, data), filled.astype(ml_dtypes.bfloat16).view(BITS)
    elif compute == "bfloat16":
        data, weight = rounded(low, data), weight.astype(ml_dtypes.bfloat16)
    elif weight.dtype == np.int8:
        assert b.const is not None
        weight = b.const if axis == 1 else b.const.T
    if g == 1:
        g = _group(low, compute, weight)
    packed = relax.const(packing.matmul_weight(weight, _together(low, compute, weight, g), g))
    result = low.emit(product, data, packed, columns, tile(compute), name="matmul", kind=OUT_FUSABLE)
    return _with_bias(low, a, out_shape, result, bias)


def _group(low: Lowering, compute: str, weight: np.ndarray) -> int:
    """Rows of the weights that lie together: those of an instruction, or of a copy of 16 bytes to tensor cores."""
    depth, columns = weight.shape
    copied = COPY // BYTES[compute] if compute in BYTES and low.target.has("async_copy") else 0
    if copied and depth >= 2 * copied and depth % copied == 0 and columns % low.target.lanes == 0:
        return copied
    if compute == "int8":
        return dot_group(low)
    return 4 if compute in TENSOR_CORE and low.target.has("tensor_fours") and depth % 4 == 0 else 1


def _together(low: Lowering, compute: str, weight: np.ndarray, g: int) -> int:
    """Columns of the weights that lie together, of which `g` rows do: warpgroups read eight of them at once."""
    wide = low.target.has("warpgroup") and compute in BYTES and compute != TENSOR_FLOAT
    return _EIGHT if wide and g * BYTES[compute] == COPY and weight.shape[1] % _EIGHT == 0 else low.target.lanes


def _with_bias(low: Lowering, a: Value, shape: Any, result: Any, bias: Value | None) -> Value:
    if bias is not None and bias.const is not None:
        result = low.bind(relax.op.add(result, relax.const(bias.const.astype("float32"))))
    if a.dtype != "float32":
        result = low.bind(relax.op.astype(result, a.dtype))
    return low.blocked(shape, a.dtype, PLAIN, result)


def _less_zero_points(low: Lowering, acc: Any, data: Any, zeros: np.ndarray, shape: tuple[int, ...]) -> Any:
    """Sums over q_a (q_b - z_b) for those over q_a q_b: less z_b times the sum of a row, a column of ones' product."""
    depth, columns = shape
    _, rows = define.row_split(dims(data.ty.shape.values))
    operator = Operator(MATMUL, "int8", (rows, depth, 1))
    tile = make_tile(operator, low.plan(operator, templates(operator)), low.target.lanes)
    packed = relax.const(packing.matmul_weight(np.ones((depth, 1), np.int8), low.target.lanes, dot_group(low)))
    sums = low.emit(define.matmul, data, packed, 1, tile, name="row_sums", kind=OUT_FUSABLE)
    sums = low.bind(relax.op.squeeze(sums, [-1]))
    zero = relax.const(np.broadcast_to(zeros, (columns,)).astype("int32"))
    return low.emit(less_zero_points, acc, sums, zero, last_channel, _rows, name="less_zero_points")


def _rows(*index: Any) -> tuple[Any, ...]:
    """Where a matrix's index is in the sums of its rows."""
    return index[:-1]


def _flat_bias(low: Lowering, bias: Value, columns: int) -> Value:
    if isinstance(bias, QuantizedWeight):
        return bias
    assert bias.const is not None
    return Value(low, (columns,), bias.dtype, const=np.broadcast_to(bias.const.reshape(-1), (columns,)))


def _activations(low: Lowering, node: Node, a: Value, b: Value) -> Value | None:
    for x, y in zip(a.shape[:-2], b.shape[:-2], strict=True):
        same = tvm_ffi.structural_equal(x, y)
        if not same and not (isinstance(x, int) and x == 1) and not (isinstance(y, int) and y == 1):
            return None
    rows, columns = a.shape[-2], b.shape[-1]
    if not all(isinstance(d, int) for d in (rows, columns, a.shape[-1])):
        return None
    lanes = low.target.lanes
    lead = [y if isinstance(x, int) and x == 1 else x for x, y in zip(a.shape[:-2], b.shape[:-2], strict=True)]
    compute, wider = low.arithmetic(node, a.dtype, _misfit(lead, b.shape[-2:]))
    batch = math.prod(d for d in lead if isinstance(d, int))
    operator = Operator(BATCH_MATMUL, compute, (batch, rows, a.shape[-1], columns))
    in_tiles = planning.in_tiles(compute, low.target) and all(isinstance(d, int) for d in lead[1:])
    tile = make_tile(operator, low.plan(operator, (TILES,) if in_tiles else templates(operator)), lanes)
    low.record(node, compute, _macs(a.shape, columns), wider or "both operands are activations")
    left, right, transposed = a.plain(), b.plain(), False
    if (straight := untransposed(low, right)) is not None:
        right, transposed = straight, True
    if compute == "bfloat16" and low.target.has("bf16_pairs"):
        whole = step_bytes(a.shape[-1] * 2) // 2 if in_tiles else 2
        if missing := -a.shape[-1] % whole:
            left, right = (
                low.bind(relax.op.nn.pad(e, [0, 0] * (len(a.shape) - 2) + end))
                for e, end in (
                    (left, [0, 0, 0, missing]),
                    (right, [0, 0, 0, missing] if transposed else [0, missing, 0, 0]),
                )
            )
        left, right = bits(low, left), bits(low, right)
    elif compute == "bfloat16":
        left, right = rounded(low, left), rounded(low, right)
    args = left, right, lanes, tile, transposed
    result = low.emit(define.batch_matmul, *args, name="batch_matmul", kind=OUT_FUSABLE)
    if a.dtype != "float32":
        result = low.bind(relax.op.astype(result, a.dtype))
    return low.blocked((*lead, rows, columns), a.dtype, PLAIN, result)


def untransposed(low: Lowering, expr: Any) -> Any:
    """(..., N, K) for the (..., K, N) that a transposition made of it, maybe times a number; None for anything else.

    Keys come as K^T. To pack them from where their rows lie together saves moving every element on its own before.
    """
    made = low.bb.lookup_binding(expr) if isinstance(expr, relax.Var) else None
    if not isinstance(made, relax.Call):
        return None
    name = getattr(made.op, "name", "")
    if name == "relax.multiply" and isinstance(made.args[1], GenericConst) and made.args[1].value.numpy().size == 1:
        inner = untransposed(low, made.args[0])
        return None if inner is None else low.bind(relax.op.multiply(inner, made.args[1]))
    if name != "relax.permute_dims":
        return None
    axes = [int(axis) for axis in made.attrs.axes or ()]
    if len(axes) < 2 or axes[-2] != len(axes) - 1:
        return None
    rank = len(axes)
    return permuted(low, expr, [*range(rank - 2), rank - 1, rank - 2])


CONVERTERS = {"MatMul": matmul, "Gemm": gemm}
