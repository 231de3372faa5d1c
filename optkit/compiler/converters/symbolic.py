"""Arithmetic on extents: small integer tensors whose elements follow from the shapes of others.

Exporters leave open axes open by computing targets of Reshape, limits of Range and the like from Shape. Followed
element by element, such a tensor needs no kernel, and what is made to its measure has an extent that is known to
be that of the tensor it was taken from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from optkit.compiler.lowering import Lowering, Node
from optkit.compiler.operators.common import const
from optkit.compiler.values import INJECTIVE, Known, Value

_LONGEST = 64
"""Longer tensors of integers are indices, not shapes."""
_INTEGERS = ("int64", "int32")
_CAST = {7: "int64", 6: "int32"}
"""ONNX's numbers of the types that extents may be cast to."""


def elements(value: Value | None) -> np.ndarray | None:
    """The elements of an integer tensor as ints and TIR expressions; None where they come from data."""
    if value is None:
        return None
    if isinstance(value, Known):
        return value.elements
    if value.const is not None:
        small = value.dtype in _INTEGERS and value.const.size <= _LONGEST
        return _objects([int(d) for d in value.const.flat], value.const.shape) if small else None
    if value.dtype != "shape":
        return None
    extents = getattr(value.plain().ty, "values", None)
    return None if extents is None else _objects([_number(e) for e in extents], (len(extents),))


def _objects(items: list[Any], shape: tuple[int, ...]) -> np.ndarray:
    found = np.empty(len(items), object)
    for i, item in enumerate(items):
        found[i] = item
    return found.reshape(shape)


def _number(extent: Any) -> Any:
    return int(extent) if isinstance(extent, tirx.IntImm) else extent


def value_of(low: Lowering, found: np.ndarray, dtype: str = "int64") -> Value:
    """A Value of these elements: a constant, a Relax shape, or one that becomes a tensor where it must."""
    found = _objects([_number(e) for e in found.flat], found.shape)
    if all(isinstance(e, int) for e in found.flat):
        return Value(low, found.shape, dtype, const=np.array(found.tolist(), dtype).reshape(found.shape))
    if found.ndim == 1 and dtype == "int64":
        return low.wrap(relax.ShapeExpr([tirx.const(e, "int64") if isinstance(e, int) else e for e in found]))
    return Known(low, found, dtype)


def convert(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """The node's result where all that it reads is arithmetic on extents, and some of it not constant."""
    follow = _FOLLOW.get(node.op_type)
    if follow is None or node.outputs != 1:
        return None
    if all(v is None or (v.const is not None and not isinstance(v, Known)) for v in inputs):
        return None
    known = [elements(v) for v in inputs]
    given = [k for k in known if k is not None]
    if len(given) != sum(v is not None for v in inputs) or not given:
        return None
    if node.op_type == "Range":
        return _range(low, given, _type(inputs[0]))
    found = follow(node, given)
    if found is None or found.size > _LONGEST:
        return None
    dtype = _CAST[int(node.get("to"))] if node.op_type == "Cast" else _type(inputs[0])
    return value_of(low, found, dtype)


def _type(value: Value | None) -> str:
    return "int64" if value is None or value.dtype == "shape" else value.dtype


def _integers(found: np.ndarray) -> list[int] | None:
    items = list(found.flat)
    return items if all(isinstance(e, int) for e in items) else None


def _range(low: Lowering, given: list[np.ndarray], dtype: str) -> Value | None:
    """Range over as many numbers as its limits, extents, say."""
    start, limit, delta = (g.item() for g in given)
    if not isinstance(delta, int) or delta == 0:
        return None
    if isinstance(start, int) and start == 0 and delta == 1 and isinstance(limit, tirx.Var):
        count = limit
    else:
        span = limit - start if delta > 0 else start - limit
        count = tirx.max(tirx.floordiv(span + (abs(delta) - 1), abs(delta)), tirx.const(0, "int64"))

    def body(length: Any, first: Any) -> te.Tensor:
        def element(i: Any) -> Any:
            return (first + i.astype("int64") * const(delta, "int64")).astype(dtype)

        return te.compute((length,), element, name="range")

    first = const(start, "int64") if isinstance(start, int) else start
    return low.wrap(low.emit(body, count, first, name="range", kind=INJECTIVE))


def _gather(node: Node, given: list[np.ndarray]) -> np.ndarray | None:
    data, at = given
    indices = _integers(at)
    axis = int(node.get("axis", 0))
    if indices is None or data.ndim == 0 or any(not -data.shape[axis] <= i < data.shape[axis] for i in indices):
        return None
    return np.asarray(np.take(data, np.array(indices, int).reshape(at.shape), axis=axis), object)


def _slice(node: Node, given: list[np.ndarray]) -> np.ndarray | None:
    data, *rest = given
    numbers = [_integers(r) for r in rest]
    if any(n is None for n in numbers):
        return None
    vectors: list[list[int] | None] = [n or [] for n in numbers]
    starts, ends, axes, steps = [*vectors, None, None][:4]
    assert starts is not None and ends is not None
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    if any(step <= 0 for step in steps):
        return None
    cut = [slice(None)] * data.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        cut[axis] = slice(start, end, step)
    return data[tuple(cut)]


def _concat(node: Node, given: list[np.ndarray]) -> np.ndarray | None:
    return np.concatenate(given, axis=int(node.get("axis", 0)))


def _axes(given: list[np.ndarray]) -> list[int] | None:
    return _integers(given[1]) if len(given) > 1 else []


def _squeeze(node: Node, given: list[np.ndarray]) -> np.ndarray | None:
    axes = _axes(given)
    return None if axes is None else np.squeeze(given[0], tuple(axes) if len(given) > 1 else None)


def _unsqueeze(node: Node, given: list[np.ndarray]) -> np.ndarray | None:
    axes = _axes(given)
    return np.expand_dims(given[0], tuple(axes)) if axes else None


def _reshape(node: Node, given: list[np.ndarray]) -> np.ndarray | None:
    shape = _integers(given[1])
    return None if shape is None or 0 in shape else given[0].reshape(shape)


def _cast(node: Node, given: list[np.ndarray]) -> np.ndarray | None:
    return given[0] if int(node.get("to", 0)) in _CAST else None


def _divide(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int):
        return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    return tirx.truncdiv(*(tirx.const(e, "int64") if isinstance(e, int) else e for e in (a, b)))


def _both(operator: Callable[[Any, Any], Any]) -> Callable[[Node, list[np.ndarray]], np.ndarray | None]:
    def follow(node: Node, given: list[np.ndarray]) -> np.ndarray | None:
        a, b = np.broadcast_arrays(*given)
        if node.op_type == "Div" and any(not isinstance(d, int) or d == 0 for d in b.flat):
            return None
        return _objects([operator(x, y) for x, y in zip(a.flat, b.flat, strict=True)], a.shape)

    return follow


_FOLLOW: dict[str, Callable[[Node, list[np.ndarray]], np.ndarray | None]] = {
    "Identity": lambda node, given: given[0],
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Reshape": _reshape,
    "Cast": _cast,
    "Add": _both(lambda a, b: a + b),
    "Sub": _both(lambda a, b: a - b),
    "Mul": _both(lambda a, b: a * b),
    "Div": _both(_divide),
    "Range": lambda node, given: None,
}

__all__ = ["convert", "elements", "value_of"]
