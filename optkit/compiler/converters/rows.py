"""Softmax, LogSoftmax, Hardmax and LayerNormalization, over any axes: what is reduced becomes the last axis."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from tvm import relax

from optkit.compiler.lowering import Lowering, Node
from optkit.compiler.operators import half_rows, norms
from optkit.compiler.operators import rows as define
from optkit.compiler.values import OPAQUE, OUT_FUSABLE, PLAIN, Value

FLOATS = ("float16", "bfloat16", "float32", "float64")


def product(sizes: Sequence[Any]) -> Any:
    """The number of elements, an int where all sizes are."""
    if all(isinstance(d, int) for d in sizes):
        return math.prod(sizes)
    return functools.reduce(operator.mul, sizes)


def reshape(low: Lowering, expr: Any, shape: Sequence[Any]) -> Any:
    """A reshape that may have symbolic extents."""
    return low.bind(relax.op.reshape(expr, relax.ShapeExpr(list(shape))))


@dataclass(frozen=True)
class Rows:
    """A value as rows: the axes to reduce are its last one.

    Attributes:
        expr: (..., length), of at least two axes; bfloat16 is widened to float32.
        written: type of what a kernel makes of it, where that is not the value's.
    """

    low: Lowering
    value: Value
    axes: tuple[int, ...]
    expr: Any
    lead: tuple[Any, ...]
    length: Any
    written: str | None = None

    @property
    def _order(self) -> list[int]:
        rank = len(self.value.shape)
        return [a for a in range(rank) if a not in self.axes] + list(self.axes)

    def restore(self, expr: Any, dtype: str | None = None) -> Value:
        """A Value of the original shape around what a kernel made of the rows."""
        low, shape, order = self.low, self.value.shape, self._order
        if tuple(expr.ty.shape.values) != tuple(shape[a] for a in order) or len(order) == 1:
            expr = reshape(low, expr, [shape[a] for a in order])
        if order != sorted(order):
            expr = low.bind(relax.op.permute_dims(expr, [order.index(a) for a in range(len(order))]))
        return self._typed(expr, shape, dtype or self.written or self.value.dtype)

    def restore_rows(self, expr: Any, dtype: str) -> Value:
        """A Value around one number a row; the reduced axes have length 1."""
        shape = tuple(1 if a in self.axes else d for a, d in enumerate(self.value.shape))
        return self._typed(reshape(self.low, expr, shape), shape, dtype)

    def _typed(self, expr: Any, shape: tuple[Any, ...], dtype: str) -> Value:
        if str(expr.ty.dtype) != dtype:
            expr = self.low.bind(relax.op.astype(expr, dtype))
        return self.low.blocked(shape, dtype, PLAIN, expr)


def rows_of(low: Lowering, x: Value, axes: Sequence[int], written: str | None = None) -> Rows:
    """`x` with the given axes moved to the end and joined."""
    rank = len(x.shape)
    chosen = tuple(sorted({a % rank for a in axes}))
    kept = [a for a in range(rank) if a not in chosen]
    expr = x.plain()
    if [*kept, *chosen] != list(range(rank)):
        expr = low.bind(relax.op.permute_dims(expr, [*kept, *chosen]))
    lead = tuple(x.shape[a] for a in kept) or (1,)
    length = product([x.shape[a] for a in chosen])
    if len(chosen) != 1 or not kept:
        expr = reshape(low, expr, [*lead, length])
    if x.dtype == "bfloat16":
        expr = low.bind(relax.op.astype(expr, "float32"))
    return Rows(low, x, chosen, expr, lead, length, written)


def matrix(low: Lowering, x: Value) -> Any:
    """The plain form; a vector is one row."""
    return low.bind(relax.op.expand_dims(x.plain(), 0)) if len(x.shape) == 1 else x.plain()


def like(low: Lowering, x: Value, out: Any) -> Value:
    """A Value of x's shape around what a kernel made of `matrix(low, x)`."""
    expr = low.bind(relax.op.squeeze(out, [0])) if len(x.shape) == 1 else out
    return low.blocked(x.shape, x.dtype, PLAIN, expr)


def real(x: Value | None) -> bool:
    """Whether a value is there, of a floating type and not without elements."""
    return x is not None and x.dtype in FLOATS and len(x.shape) > 0 and 0 not in x.shape


def row_lanes(low: Lowering) -> int:
    """The partial sums of a row; its sum is left whole where threads share it."""
    return define.WHOLE if low.target.has("row_threads") else low.target.lanes


def row_kind(low: Lowering) -> int:
    """How kernels of rows are fused: where threads share a row, element-wise operators behind are part of them."""
    return OUT_FUSABLE if low.target.has("row_threads") else OPAQUE


def unwidened(low: Lowering, node: Node, x: Value) -> tuple[Value, str | None]:
    """The float16 value that `x`, what the node reads, was widened from, and the type to write if it is another one.

    The node's kernel reads float16 then, and computes in float32 as before. It writes float16 where all that reads the
    node rounds back. Where something does not, only threads that share a row read float16.
    """
    read = node.source.inputs[0]
    cast = None if read is None else read.producer()
    if cast is None or not _casts(cast, ir.DataType.FLOAT) or cast.inputs[0] not in low.values:
        return x, None
    source = low.values[cast.inputs[0]]
    if source.dtype != "float16" or x.dtype != "float32":
        return x, None
    (made,) = node.source.outputs[:1]
    users = [user for user, _ in made.uses()]
    if users and not made.is_graph_output() and all(_casts(user, ir.DataType.FLOAT16) for user in users):
        return source, None
    return (source, "float32") if low.target.has("row_threads") else (x, None)


def _casts(node: ir.Node, dtype: ir.DataType) -> bool:
    return node.op_type == "Cast" and node.domain == "" and node.attributes.get_int("to", 0) == dtype.value


def _plain(kernel: Callable[..., Any], name: str) -> Callable[[Rows, Node], Value]:
    """A kernel that gives rows for rows."""

    def mapped(rows: Rows, node: Node) -> Value:
        low = rows.low
        return rows.restore(low.emit(kernel, rows.expr, row_lanes(low), rows.written, name=name, kind=row_kind(low)))

    return mapped


def _mapped(mapped: Callable[[Rows, Node], Value]) -> Callable[..., Value | None]:
    """A function of rows to rows along `axis`; before opset 13, of all axes from `axis` on together."""

    def converter(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
        x = inputs[0]
        if x is None or not real(x):
            return None
        rank, old = len(x.shape), node.opset < 13
        axis = int(node.get("axis", 1 if old else -1))
        axes = range(axis + rank if axis < 0 else axis, rank) if old else [axis]
        if not axes:
            return None
        read, written = unwidened(low, node, x)
        return mapped(rows_of(low, read, list(axes), written), node)

    return converter


def _softmax(rows: Rows, node: Node) -> Value:
    """In the type itself where rows are short and of half precision, else in float32."""
    low, written = rows.low, node.source.outputs[0].dtype
    # bfloat16 comes here as float32, see `elements`; float16 is float32 in the model where the kernel reads it so.
    kind = (rows.written or rows.value.dtype) if written is None else written.numpy().name
    if kind in ("float16", "bfloat16") and isinstance(rows.length, int) and rows.length <= half_rows.LONGEST:
        made = low.emit(half_rows.softmax, rows.expr, row_lanes(low), kind, name="half_softmax", kind=row_kind(low))
        return rows.restore(made)
    return _plain(define.softmax, "softmax")(rows, node)


def layer_normalization(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | Sequence[Value] | None:
    """LayerNormalization over the axes from `axis` on, with the mean and the inverse deviation where asked for."""
    return _normalization(low, node, inputs, centred=True)


def rms_normalization(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | Sequence[Value] | None:
    """RMSNormalization over the axes from `axis` on."""
    return _normalization(low, node, inputs, centred=False)


def _normalization(
    low: Lowering, node: Node, inputs: list[Value | None], centred: bool
) -> Value | Sequence[Value] | None:
    x, scale, shift = inputs[0], inputs[1], inputs[2] if len(inputs) > 2 else None
    if x is None or scale is None or not real(x):
        return None
    rank = len(x.shape)
    axis = int(node.get("axis", -1)) % rank
    read, written = unwidened(low, node, x) if node.outputs == 1 else (x, None)
    rows = rows_of(low, read, range(axis, rank), written)
    epsilon, lanes = float(node.get("epsilon", 1e-5)), low.target.lanes
    # One factor a place of the row goes into the kernel; one that is broadcast within a row follows it.
    inside = all(v is None or _covers(v, x.shape[axis:]) for v in (scale, shift))
    args: list[Any] = [
        reshape(low, v.plain(), [rows.length]) if v is not None and inside else None for v in (scale, shift)
    ]
    name = "layer_norm" if centred else "rms_norm"
    args = [*args, epsilon, row_lanes(low), centred, False, None, rows.written]
    out = low.emit(norms.normalize, rows.expr, *args, name=name, kind=row_kind(low))
    y = rows.restore(out)
    if not inside:
        expr = relax.op.multiply(y.plain(), scale.plain())
        y = low.wrap(low.bind(expr if shift is None else relax.op.add(low.bind(expr), shift.plain())))
    if node.outputs == 1:
        return y
    kept = "float32" if int(node.get("stash_type", 1)) == 1 or x.dtype == "float64" else x.dtype
    mean = low.emit(norms.mean, rows.expr, lanes, name="row_mean")
    inverse = low.emit(norms.inverse_deviation, rows.expr, epsilon, lanes, name="row_deviation")
    return [y, rows.restore_rows(mean, kept), rows.restore_rows(inverse, kept)]


def _covers(vector: Value, tail: Sequence[Any]) -> bool:
    """Whether a value holds one element for each place of a row."""
    given = list(vector.shape)
    while given and len(given) > len(tail) and given[0] == 1:
        given.pop(0)
    return len(given) == len(tail) and all(
        a is b or (isinstance(a, int) and a == b) for a, b in zip(given, tail, strict=True)
    )


CONVERTERS = {
    "Softmax": _mapped(_softmax),
    "LogSoftmax": _mapped(_plain(define.log_softmax, "log_softmax")),
    "Hardmax": _mapped(_plain(define.hardmax, "hardmax")),
    "LayerNormalization": layer_normalization,
    "RMSNormalization": rms_normalization,
}
