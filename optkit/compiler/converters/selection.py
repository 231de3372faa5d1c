"""Operators whose result is as long as the values say: NonZero, Compress, Unique, Range."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import relax, te, tirx

from optkit.compiler.converters import gathers, indicators
from optkit.compiler.converters.dynamic import as_declared, complete, runtime_extents
from optkit.compiler.converters.extents import refuse, tensor
from optkit.compiler.lowering import Converter, Lowering, Node
from optkit.compiler.operators import device_sorting
from optkit.compiler.operators import selection as define
from optkit.compiler.operators.common import const
from optkit.compiler.values import INJECTIVE, Value


def _is_set(value: Any) -> Any:
    dtype = str(value.ty.dtype)
    return value if dtype == "bool" else value != const(0, dtype)


def _chosen(low: Lowering, flags: Any) -> tuple[Any, Any]:
    """Positions of what is set in a flat tensor, and how many there are as an extent."""
    made = device_sorting.chosen if low.target.device == "cuda" else define.chosen
    found = low.emit(lambda data: made(data, _is_set), flags, name="chosen")
    positions, count = (low.bind(relax.TupleGetItem(found, i)) for i in (0, 1))
    return positions, runtime_extents(low, count, 1, low.node)[0]


def nonzero(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """NonZero: the coordinates of what is not zero, one column an element."""
    x = inputs[0]
    assert x is not None
    data = tensor(low, x)
    positions, count = _chosen(low, low.bind(relax.op.reshape(data, (-1,))))
    rank = max(len(x.shape), 1)

    def body(at: te.Tensor, source: te.Tensor, length: Any) -> te.Tensor:
        def element(d: Any, i: Any) -> Any:
            index = define.coordinates(at(i), source.shape) or [const(0, "int64")]
            found = index[-1]
            for axis in reversed(range(len(index) - 1)):
                found = tirx.Select(d == axis, index[axis], found)
            return found

        return te.compute((rank, length), element, name="nonzero")

    return as_declared(low, node, low.wrap(low.emit(body, positions, data, count, name="nonzero", kind=INJECTIVE)))


def compress(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """Compress: the slices along an axis, or the elements of the flat tensor, whose condition is true."""
    x, condition = inputs[0], inputs[1]
    assert x is not None and condition is not None
    data, axis = tensor(low, x), node.get("axis")
    if axis is None:
        data, axis = low.bind(relax.op.reshape(data, (-1,))), 0
    axis %= len(data.ty.shape.values)
    positions, count = _chosen(low, tensor(low, condition))

    def body(source: te.Tensor, at: te.Tensor, length: Any) -> te.Tensor:
        out = [length if d == axis else e for d, e in enumerate(source.shape)]
        # A condition longer than the axis must not read outside.
        last = source.shape[axis] - 1

        def element(*index: Any) -> Any:
            return source(*(tirx.min(at(i), last) if d == axis else i for d, i in enumerate(index)))

        return te.compute(tuple(out), element, name="compress")

    return as_declared(low, node, low.wrap(low.emit(body, data, positions, count, name="compress", kind=INJECTIVE)))


def unique(low: Lowering, node: Node, inputs: list[Value | None]) -> Sequence[Value]:
    """Unique: distinct elements or slices, where they first appear, which of them each is, how often."""
    x = inputs[0]
    assert x is not None
    data, axis, ordered = tensor(low, x), node.get("axis"), bool(node.get("sorted", 1))
    if axis is None:
        front, rest = low.bind(relax.op.reshape(data, (-1,))), []
    else:
        axis %= len(x.shape)
        order = [axis, *(d for d in range(len(x.shape)) if d != axis)]
        front = low.bind(relax.op.permute_dims(data, order))
        rest = [x.shape[d] for d in order[1:]]
    if any(not isinstance(d, int) for d in rest):
        raise refuse(node, "slices of symbolic size are not supported; fix the shape with --input-shape")
    width = define.total(rest)
    if width == 0:
        raise refuse(node, "it has slices without elements; remove the node")
    rows = low.bind(relax.op.reshape(front, (-1, width)))
    found = low.emit(lambda m: define.unique(m, ordered), rows, name="unique")
    first, inverse, counts, number = (low.bind(relax.TupleGetItem(found, i)) for i in range(4))
    count = runtime_extents(low, number, 1, low.node)[0]

    def cut(vector: te.Tensor, length: Any) -> te.Tensor:
        return te.compute((length,), lambda i: vector(i), name="cut")

    def take(source: te.Tensor, at: te.Tensor, length: Any) -> te.Tensor:
        return te.compute((length, *rest), lambda i, *others: source(at(i), *others), name="take")

    values = low.emit(take, front, first, count, name="take", kind=INJECTIVE)
    if axis is not None:
        back = [d + 1 for d in range(axis)] + [0] + list(range(axis + 1, len(x.shape)))
        values = low.bind(relax.op.permute_dims(values, back))
    results = [
        values,
        low.emit(cut, first, count, name="cut", kind=INJECTIVE),
        inverse,
        low.emit(cut, counts, count, name="cut", kind=INJECTIVE),
    ]
    return [as_declared(low, node, low.wrap(e), i) for i, e in enumerate(results[: node.outputs])]


def arange(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """Range whose limits are not all constants."""
    given = [v for v in inputs if v is not None]
    if all(v.const is not None for v in given) or any(v.dtype == "shape" for v in given):
        return None
    start, limit, delta = (low.bind(relax.op.reshape(tensor(low, v), (1,))) for v in given)
    shape = complete(low, node)
    if shape is None:
        count = low.emit(define.range_count, start, limit, delta, name="count")
        shape = runtime_extents(low, count, 1, low.node)
    return low.wrap(low.emit(define.arange, start, delta, shape[0], name="range", kind=INJECTIVE))


CONVERTERS: dict[str, Converter] = {
    **gathers.CONVERTERS,
    **indicators.CONVERTERS,
    "NonZero": nonzero,
    "Compress": compress,
    "Unique": unique,
    "Range": arange,
}
