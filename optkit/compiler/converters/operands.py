"""Operands of element-wise operators in one layout, and formulas over them, computed in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import relax

from optkit.compiler.lowering import Lowering
from optkit.compiler.values import PLAIN, Value

op = relax.op
Formula = Callable[..., Any]
"""Relax expressions of the operands -> Relax expression of the result."""


def common_block(values: Sequence[Value], lanes_safe: bool = True) -> int:
    """The block all operands can be read in, the smallest that there is among them, or plain."""
    live = [v for v in values if v.const is None]
    blocks = {v.block for v in live if v.block}
    if not blocks:
        return PLAIN
    rank = max(len(v.shape) for v in values)
    channels = next(v.shape[1] for v in live if v.block)
    for v in values:
        if v.const is None and len(v.shape) != rank:
            return PLAIN
        aligned = (*[1] * (rank - len(v.shape)), *v.shape)
        if not (isinstance(aligned[1], int) and aligned[1] in (1, channels)):
            return PLAIN
        if v.const is None and aligned[1] == 1 and channels != 1 and v.block:
            return PLAIN
    return min(blocks)


def read(value: Value, block: int, rank: int, channels: int) -> Any:
    """An operand broadcastable against the others in the common form, as float32."""
    low = value.low
    if value.const is not None:
        array = value.const.astype("float32")
        if array.size == 1:
            return relax.const(float(array.reshape(())), "float32")
        if block != PLAIN:
            array = array.reshape(*[1] * (rank - array.ndim), *array.shape)
            if array.shape[1] == 1:
                array = array[..., None]
            else:
                array = Value(low, array.shape, "float32", const=array).form(block).value.numpy()
        return relax.const(array, "float32")
    if block != PLAIN and value.shape[1] == 1 and channels != 1:
        expr = low.bind(op.expand_dims(value.plain(), len(value.shape)))
    else:
        expr = value.form(block)
    return expr if value.dtype == "float32" else low.bind(op.astype(expr, "float32"))


def apply(low: Lowering, formula: Formula, values: Sequence[Value]) -> Value:
    """Emit a formula over the operands' common form."""
    block = common_block(values)
    rank = max(len(v.shape) for v in values)
    channels = next((v.shape[1] for v in values if v.const is None and v.block), 1) if block else 1
    result = low.bb.normalize(formula(*[read(v, block, rank, channels) for v in values]))
    dtype = values[0].dtype
    if dtype != "float32":
        result = op.astype(result, dtype)
    expr = low.bind(result)
    if block == PLAIN:
        missing = rank - expr.ty.ndim  # a single number is read as a scalar, whatever its rank
        return low.wrap(low.bind(op.expand_dims(expr, list(range(missing)))) if missing > 0 else expr)
    shapes = [(*[1] * (rank - len(v.shape)), *v.shape) for v in values]
    shape = tuple(next((s[i] for s in shapes if not (isinstance(s[i], int) and s[i] == 1)), 1) for i in range(rank))
    return low.blocked(shape, dtype, block, expr)


__all__ = ["Formula", "apply", "common_block", "read"]
