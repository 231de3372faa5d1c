"""One way to write the extent of a concatenation: Relax infers 1 + n, and its kernel, as all behind it, has n + 1.

TVM merges kernels whose tensors are the same by the structure of their extents, and gives up on two ways to write one.
"""

from __future__ import annotations

from typing import Any

from tvm import relax
from tvm.sym import Analyzer


def canonical(expr: Any) -> Any:
    """A normalized expression; where it concatenates, with the type that its kernel's result has."""
    if not isinstance(expr, relax.Call) or getattr(expr.op, "name", "") != "relax.concat":
        return expr
    ty = expr.ty
    if not isinstance(ty.shape, relax.ShapeExpr):
        return expr
    shape, axis = list(ty.shape.values), int(expr.attrs.axis)
    shape[axis] = Analyzer().simplify(shape[axis])
    return relax.Call(expr.op, expr.args, expr.attrs, expr.ty_args, ret_ty=relax.TensorType(shape, ty.dtype))
