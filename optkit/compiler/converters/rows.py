"""Softmax and LayerNormalization over a static last axis."""

from __future__ import annotations

from typing import Any

from tvm import relax

from optkit.compiler.lower import Lowering, Node
from optkit.compiler.operators import rows as define
from optkit.compiler.values import OPAQUE, PLAIN, Value


def _rows(x: Value | None, axis: int) -> bool:
    if x is None or x.dtype not in ("float32", "float16"):
        return False
    return axis % len(x.shape) == len(x.shape) - 1 and isinstance(x.shape[-1], int)


def matrix(low: Lowering, x: Value) -> Any:
    """The plain form; a vector is one row."""
    return low.bind(relax.op.expand_dims(x.plain(), 0)) if len(x.shape) == 1 else x.plain()


def like(low: Lowering, x: Value, out: Any) -> Value:
    """A Value of x's shape around what a kernel made of `matrix(low, x)`."""
    expr = low.bind(relax.op.squeeze(out, [0])) if len(x.shape) == 1 else out
    return low.blocked(x.shape, x.dtype, PLAIN, expr)


def softmax(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """Softmax along the last axis (opset 13 semantics)."""
    x = inputs[0]
    if x is None or node.opset < 13 or not _rows(x, int(node.get("axis", -1))):
        return None
    out = low.emit(define.softmax, matrix(low, x), low.target.lanes, name="softmax", kind=OPAQUE)
    return like(low, x, out)


def layer_normalization(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """LayerNormalization over the last axis, one output."""
    x, scale, shift = inputs[0], inputs[1], inputs[2] if len(inputs) > 2 else None
    if x is None or scale is None or node.outputs != 1 or not _rows(x, int(node.get("axis", -1))):
        return None
    if scale.shape != (x.shape[-1],) or (shift is not None and shift.shape != scale.shape):
        return None
    epsilon = float(node.get("epsilon", 1e-5))
    args = [matrix(low, x), scale.plain(), None if shift is None else shift.plain()]
    out = low.emit(define.layer_norm, *args, epsilon, low.target.lanes, name="layer_norm", kind=OPAQUE)
    return like(low, x, out)


CONVERTERS = {"Softmax": softmax, "LayerNormalization": layer_normalization}
