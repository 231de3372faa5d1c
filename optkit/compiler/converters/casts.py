"""Cast, CastLike and BitCast between number types."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
from tvm import relax

from optkit.artifact.spec import storage
from optkit.compiler.lowering import Converter, Lowering, Node
from optkit.compiler.operators import casts as define
from optkit.compiler.values import Value
from optkit.errors import UnsupportedError


def type_name(node: Node, number: int) -> str:
    """The element type of an ONNX type number; refuses strings and complex numbers."""
    kind = ir.DataType(number)
    if kind in (ir.DataType.UNDEFINED, ir.DataType.STRING, ir.DataType.COMPLEX64, ir.DataType.COMPLEX128):
        raise UnsupportedError(f"node {node.name!r} ({node.op_type}): kernels have no type {kind.name}")
    return kind.numpy().name


def retype(low: Lowering, x: Value, dtype: str, saturate: bool = True, mode: str = "up") -> Value:
    """`x` converted to another type, in the layout it has."""
    if x.dtype == dtype:
        return x
    block = x.block
    if {x.dtype, dtype} <= {"float32", "float16"}:
        return low.blocked(x.shape, dtype, block, low.bind(relax.op.astype(x.form(block), dtype)))
    expr = low.emit(define.cast, x.form(block), x.dtype, dtype, saturate, mode, name="cast")
    return low.blocked(x.shape, dtype, block, expr)


def _cast(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    x = inputs[0]
    if x is None or x.dtype == "shape":
        return None
    if node.op_type == "CastLike":
        like = inputs[1]
        if like is None or like.dtype == "shape":
            return None
        dtype = like.dtype
    else:
        dtype = type_name(node, int(node.get("to", 0)))
    mode = str(node.get("round_mode", "up"))
    return retype(low, x, dtype, bool(node.get("saturate", 1)), mode)


def _bitcast(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    x = inputs[0]
    if x is None or x.dtype == "shape":
        return None
    dtype = type_name(node, int(node.get("to", 0)))
    if _width(x.dtype) != _width(dtype):
        raise UnsupportedError(f"node {node.name!r} (BitCast): {x.dtype} and {dtype} are not of one size")
    block = x.block
    expr = x.form(block)
    if storage(x.dtype) != storage(dtype):
        expr = low.emit(define.bitcast, expr, dtype, name="bitcast")
    return low.blocked(x.shape, dtype, block, expr)


def _width(name: str) -> int:
    if name == "bool":
        return 8
    kind = np.dtype(getattr(ml_dtypes, name, name))
    if name in ("int4", "uint4", "int2", "uint2"):
        return int(ml_dtypes.iinfo(kind).bits)
    return int(ml_dtypes.finfo(kind).bits) if "float" in name else 8 * kind.itemsize


CONVERTERS: dict[str, Converter] = {"Cast": _cast, "CastLike": _cast, "BitCast": _bitcast}

__all__ = ["CONVERTERS", "retype", "type_name"]
