"""Operators that decide by position: OneHot, EyeLike, Trilu, ReverseSequence, TensorScatter."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from tvm import relax, te, tirx

from optkit.compiler.converters.dynamic import complete, runtime_extents
from optkit.compiler.converters.extents import numbers, tensor, vector
from optkit.compiler.lowering import Converter, Lowering, Node
from optkit.compiler.operators.common import const
from optkit.compiler.values import INJECTIVE, Value


def one_hot(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """OneHot: values[1] where an axis' position is the index, else values[0]; indices count from behind too."""
    indices, depth, values = inputs
    assert indices is not None and depth is not None and values is not None
    axis = int(node.get("axis", -1)) % (len(indices.shape) + 1)
    shape, known = complete(low, node), numbers(depth)
    if known is not None:
        size: Any = int(known[0])
    elif shape is not None:
        size = shape[axis]
    else:
        count = low.bind(relax.op.reshape(tensor(low, depth, "int64"), (1,)))
        size = runtime_extents(low, count, 1, low.node)[0]

    def body(at: te.Tensor, pair: te.Tensor, size: Any) -> te.Tensor:
        length = const(size, "int64") if isinstance(size, int) else size
        out = [*at.shape[:axis], size, *at.shape[axis:]]

        def element(*index: Any) -> Any:
            place = at(*index[:axis], *index[axis + 1 :])
            # float indices are truncated
            place, here = place.astype("int64"), index[axis].astype("int64")
            hit = tirx.any(place == here, place + length == here)
            return te.if_then_else(hit, pair(1), pair(0))

        return te.compute(tuple(out), element, name="one_hot")

    return low.wrap(low.emit(body, tensor(low, indices), tensor(low, values), size, name="one_hot", kind=INJECTIVE))


def eye_like(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """EyeLike: ones on a diagonal of a matrix shaped like the input."""
    x = inputs[0]
    assert x is not None
    given, k = node.get("dtype"), int(node.get("k", 0))
    dtype = x.dtype if given is None else str(ir.DataType(int(given)).numpy().name)

    def body(data: te.Tensor) -> te.Tensor:
        return te.compute(data.shape, lambda i, j: (i + k == j).astype(dtype), name="eye_like")

    return low.wrap(low.emit(body, tensor(low, x), name="eye_like", kind=INJECTIVE))


def reverse_sequence(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """ReverseSequence: the first elements along the time axis, as many as their batch says, back to front."""
    x, lengths = inputs[0], inputs[1]
    assert x is not None and lengths is not None
    batch, time = int(node.get("batch_axis", 1)) % len(x.shape), int(node.get("time_axis", 0)) % len(x.shape)

    def body(data: te.Tensor, sizes: te.Tensor) -> te.Tensor:
        def element(*index: Any) -> Any:
            length, t = sizes(index[batch]).astype("int64"), index[time].astype("int64")
            last = data.shape[time].astype("int64") - const(1, "int64")
            mirrored = tirx.max(tirx.min(length - const(1, "int64") - t, last), const(0, "int64"))
            at = list(index)
            at[time] = tirx.Select(t < length, mirrored, t)
            return data(*at)

        return te.compute(data.shape, element, name="reverse_sequence")

    data = tensor(low, x)
    return low.wrap(low.emit(body, data, tensor(low, lengths), name="reverse_sequence", kind=INJECTIVE))


def trilu(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """Trilu: one side of a diagonal, zeros on the other; the diagonal's number may be a tensor."""
    x, k = inputs[0], inputs[1] if len(inputs) > 1 else None
    assert x is not None
    upper, known = bool(node.get("upper", 1)), numbers(k)
    given = [] if k is None or known is not None else [vector(low, k, "int64")]

    def body(data: te.Tensor, *offset: te.Tensor) -> te.Tensor:
        diagonal = offset[0](0) if offset else const(0 if known is None else int(known[0]), "int64")

        def element(*index: Any) -> Any:
            row, column = (i.astype("int64") for i in index[-2:])
            kept = column - row >= diagonal if upper else column - row <= diagonal
            return te.if_then_else(kept, data(*index), const(0, data.dtype))

        return te.compute(data.shape, element, name="trilu")

    return low.wrap(low.emit(body, tensor(low, x), *given, name="trilu", kind=INJECTIVE))


def tensor_scatter(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """TensorScatter: an update written into a cache along its sequence axis, at a place of each batch's own."""
    cache, update, places = [*inputs, None][:3]
    assert cache is not None and update is not None
    axis, circular = int(node.get("axis", -2)) % len(cache.shape), str(node.get("mode", "linear")) == "circular"
    given = [] if places is None else [vector(low, places, "int64")]

    def body(old: te.Tensor, new: te.Tensor, *first: te.Tensor) -> te.Tensor:
        longest, length = (t.shape[axis].astype("int64") for t in (old, new))
        zero = const(0, "int64")

        def element(*index: Any) -> Any:
            at = index[axis].astype("int64") - (first[0](index[0]) if first else zero)
            at = tirx.floormod(at, longest) if circular else at
            source = list(index)
            source[axis] = tirx.max(tirx.min(at, length - const(1, "int64")), zero)
            return te.if_then_else(tirx.all(at >= zero, at < length), new(*source), old(*index))

        return te.compute(old.shape, element, name="tensor_scatter")

    args = [tensor(low, cache), tensor(low, update), *given]
    return low.wrap(low.emit(body, *args, name="tensor_scatter", kind=INJECTIVE))


CONVERTERS: dict[str, Converter] = {
    "OneHot": one_hot,
    "EyeLike": eye_like,
    "ReverseSequence": reverse_sequence,
    "Trilu": trilu,
    "TensorScatter": tensor_scatter,
}
