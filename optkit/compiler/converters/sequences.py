"""Sequences and optionals whose length is known when the model is compiled (`optkit.compiler.lists`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from tvm import relax, te, tirx

from optkit.compiler.converters.repeat import stack
from optkit.compiler.lists import Absent, TensorList
from optkit.compiler.lowering import Converter, Lowering, Node
from optkit.compiler.subgraphs import refine
from optkit.compiler.values import Value, dims
from optkit.errors import UnsupportedError

_LONGEST = 1024
"""Tensors a sequence may hold: each is code of its own."""


def _items(value: Value | None) -> tuple[Value, ...]:
    if not isinstance(value, TensorList):
        raise UnsupportedError("the length of its sequence is known only when the model runs")
    return value.items


def _position(value: Value, length: int, last: int) -> int:
    """A constant position from -length to `last`."""
    if value.const is None:
        raise UnsupportedError("its position in the sequence is computed when the model runs; make it a constant")
    at = int(value.const.reshape(-1)[0])
    if not -length <= at <= last:
        raise UnsupportedError(f"position {at} lies outside a sequence of {length}")
    return at if at >= 0 else at + length


def construct(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """SequenceConstruct."""
    return TensorList(low, [v for v in inputs if v is not None])


def empty(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """SequenceEmpty."""
    return TensorList(low, [])


def insert(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """SequenceInsert: before a position, at the end without one."""
    items = _items(inputs[0])
    new, where = inputs[1], inputs[2] if len(inputs) > 2 else None
    if new is None or len(items) >= _LONGEST:
        raise UnsupportedError(f"a sequence of more than {_LONGEST} tensors")
    at = len(items) if where is None else _position(where, len(items), len(items))
    return TensorList(low, [*items[:at], new, *items[at:]])


def erase(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """SequenceErase: the last tensor without a position."""
    items = _items(inputs[0])
    where = inputs[1] if len(inputs) > 1 else None
    if not items:
        raise UnsupportedError("there is nothing in the sequence to erase")
    at = len(items) - 1 if where is None else _position(where, len(items), len(items) - 1)
    return TensorList(low, [*items[:at], *items[at + 1 :]])


def at(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """SequenceAt. A computed position works on tensors of one shape."""
    items, where = _items(inputs[0]), inputs[1]
    if where is not None and where.const is None and items:
        alike = {(tuple(v.shape), v.dtype) for v in items if all(isinstance(d, int) for d in v.shape)}
        if len(alike) == 1 and all(all(isinstance(d, int) for d in v.shape) for v in items):
            return _pick(low, items, where)
    return items[_position(where, len(items), len(items) - 1)] if where is not None else items[0]


def _pick(low: Lowering, items: Sequence[Value], where: Value) -> Value:
    """One of several tensors of one shape by a position found when the model runs."""
    table = stack(low, items)
    index = low.tensor(where)
    if len(index.ty.shape.values):
        index = low.bind(relax.op.reshape(index, ()))
    count = relax.const(len(items), str(index.ty.dtype))
    negative = low.bind(relax.op.less(index, relax.const(0, str(index.ty.dtype))))
    index = low.bind(relax.op.where(negative, low.bind(relax.op.add(index, count)), index))
    expr = low.bind(relax.op.take(table.plain(), index, axis=0, mode="clip"))
    return refine(low, expr, dims(expr.ty.shape.values), items[0].dtype)


def length(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """SequenceLength, a constant."""
    return Value(low, (), "int64", const=np.array(len(_items(inputs[0])), np.int64))


def split(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """SplitToSequence along an axis of constant extent, by a constant."""
    x, sizes = inputs[0], inputs[1] if len(inputs) > 1 else None
    if x is None or not x.shape:
        raise UnsupportedError("there is no axis to split")
    axis = int(node.get("axis", 0)) % len(x.shape)
    extent = x.shape[axis]
    if sizes is not None and sizes.const is None:
        return _split_computed(low, x, sizes, axis)
    if not isinstance(extent, int):
        raise UnsupportedError("the axis it splits is symbolic; fix it with --input-shape")
    if sizes is None:
        parts = [1] * extent
    elif sizes.const is not None and sizes.const.ndim:
        parts = [int(n) for n in sizes.const]
    else:
        step = int(sizes.const.reshape(-1)[0]) if sizes.const is not None else 1
        if step < 1:
            raise UnsupportedError(f"pieces of length {step}")
        parts = [min(step, extent - begin) for begin in range(0, extent, step)]
    if sum(parts) != extent or any(p < 0 for p in parts):
        raise UnsupportedError(f"pieces of {parts} do not make an axis of {extent}")
    if len(parts) > _LONGEST:
        raise UnsupportedError(f"a sequence of more than {_LONGEST} tensors")
    squeeze = sizes is None and not node.get("keepdims", 1)
    items, begin = [], 0
    for part in parts:
        expr = low.bind(relax.op.strided_slice(x.plain(), [axis], [begin], [begin + part], [1]))
        if squeeze:
            expr = low.bind(relax.op.squeeze(expr, [axis]))
        items.append(refine(low, expr, dims(expr.ty.shape.values), x.dtype))
        begin += part
    return TensorList(low, items)


def _split_computed(low: Lowering, x: Value, sizes: Value, axis: int) -> Value:
    """As many pieces as there are lengths; the lengths are read when the model runs."""
    if len(sizes.shape) != 1 or not isinstance(sizes.shape[0], int):
        raise UnsupportedError("how many pieces it makes is known only when the model runs; make `split` a constant")
    lengths = [tirx.Var(f"{low.node}_{i}", "int64") for i in range(sizes.shape[0])]
    given = low.bind(relax.op.astype(low.tensor(sizes), "int64"))
    low.bb.match_cast(low.bind(relax.op.tensor_to_shape(given)), relax.ShapeType(lengths))
    items = []
    for i, size in enumerate(lengths):
        begin = sum(lengths[:i], tirx.const(0, "int64"))
        expr = low.emit(_piece, x.plain(), begin, size, axis, name="split_piece")
        items.append(refine(low, expr, dims(expr.ty.shape.values), x.dtype))
    return TensorList(low, items)


def _piece(x: te.Tensor, begin: Any, size: Any, axis: int) -> te.Tensor:
    """Elements from `begin`; lengths that leave the axis read its last element instead of other memory."""
    shape = list(x.shape)

    def element(*at: Any) -> Any:
        place = te.max(te.min(begin + at[axis], shape[axis] - 1), 0)
        return x(*at[:axis], place, *at[axis + 1 :])

    return te.compute([*shape[:axis], size, *shape[axis + 1 :]], element, name="split_piece")


def concat(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """ConcatFromSequence, along an axis or, with new_axis, a new one."""
    items = _items(inputs[0])
    if not items:
        raise UnsupportedError("an empty sequence has nothing to concatenate")
    rank = len(items[0].shape)
    if node.get("new_axis", 0):
        return stack(low, items, int(node.get("axis")) % (rank + 1))
    axis = int(node.get("axis")) % max(rank, 1)
    expr = low.bind(relax.op.concat([low.tensor(v) for v in items], axis))
    return refine(low, expr, dims(expr.ty.shape.values), items[0].dtype)


def map_(low: Lowering, node: Node, inputs: list[Value | None]) -> Sequence[Value] | None:
    """SequenceMap: its body once for each tensor."""
    body = node.get("body")
    if not isinstance(body, ir.Graph):
        return None
    first = _items(inputs[0])
    others = [v for v in inputs[1:] if v is not None]
    if any(isinstance(v, TensorList) and len(v.items) != len(first) for v in others):
        raise UnsupportedError("its sequences differ in length")
    results: list[list[Value]] = [[] for _ in body.outputs]
    for i, item in enumerate(first):
        given = [v.items[i] if isinstance(v, TensorList) else v for v in others]
        for collected, result in zip(results, low.inline(body, [item, *given]), strict=True):
            collected.append(result)
    return [TensorList(low, values) for values in results]


def optional(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """Optional: with an element it is that element."""
    given = inputs[0] if inputs else None
    return Absent(low) if given is None else given


def has_element(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """OptionalHasElement, a constant."""
    given = inputs[0] if inputs else None
    return Value(low, (), "bool", const=np.array(not (given is None or isinstance(given, Absent))))


def get_element(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """OptionalGetElement."""
    given = inputs[0]
    if given is None or isinstance(given, Absent):
        raise UnsupportedError("the optional it reads is empty")
    return given


CONVERTERS: dict[str, Converter] = {
    "SequenceConstruct": construct,
    "SequenceEmpty": empty,
    "SequenceInsert": insert,
    "SequenceErase": erase,
    "SequenceAt": at,
    "SequenceLength": length,
    "SplitToSequence": split,
    "ConcatFromSequence": concat,
    "SequenceMap": map_,
    "Optional": optional,
    "OptionalHasElement": has_element,
    "OptionalGetElement": get_element,
}
