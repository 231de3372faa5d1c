"""Element-wise operators on every element type, one tensor expression a node, in plain layout.

The converters in `elementwise` come first: they keep layouts, and know float32 and float16 only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import relax, te

from optkit.compiler.converters.extents import refuse, tensor
from optkit.compiler.lowering import Converter, Lowering, Node
from optkit.compiler.operators.arithmetic import BINARY
from optkit.compiler.operators.common import const, static
from optkit.compiler.operators.scalars import FLOAT, PREDICATES, UNARY, Scalar, is_float, kind, largest, smallest
from optkit.compiler.values import INJECTIVE, Value


def broadcast(shapes: Sequence[Sequence[Any]]) -> list[Any]:
    """The common shape of operands, as numpy's; extents of 1 give way."""
    rank = max(map(len, shapes))
    padded = [[1] * (rank - len(s)) + static(s) for s in shapes]
    return [next((d for d in axis if not (isinstance(d, int) and d == 1)), 1) for axis in zip(*padded, strict=True)]


def at(data: te.Tensor, index: Sequence[Any]) -> Any:
    """An element of a tensor that is broadcast to the rank and extents that `index` runs over."""
    shape = static(data.shape)
    tail = index[len(index) - len(shape) :]
    return data(*(0 if isinstance(d, int) and d == 1 else i for d, i in zip(shape, tail, strict=True)))


def elementwise(
    low: Lowering, formula: Callable[..., Any], values: Sequence[Value], dtype: str, name: str, wide: bool = True
) -> Value:
    """`formula` on every element of the broadcast operands; with `wide`, float16 is read as float32."""

    def read(data: te.Tensor, index: Sequence[Any]) -> Any:
        element = at(data, index)
        return element.astype("float32") if wide and kind(element) == "float16" else element

    def define(*data: te.Tensor) -> te.Tensor:
        def element(*index: Any) -> Any:
            result = formula(*[read(d, index) for d in data])
            return result if kind(result) == dtype else result.astype(dtype)

        return te.compute(broadcast([d.shape for d in data]), element, name=name)

    return low.wrap(low.emit(define, *[tensor(low, v) for v in values], name=name, kind=INJECTIVE))


def _known(node: Node, inputs: Sequence[Value | None]) -> list[Value]:
    values = [v for v in inputs if v is not None]
    if any(v.dtype in ("object", "str") for v in values):
        raise refuse(node, "there is no arithmetic on strings; compute them outside of the model")
    return values


def unary(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """A function of one number."""
    (x,) = _known(node, inputs[:1])
    if node.op_type in FLOAT and not x.dtype.startswith("float"):
        raise refuse(node, f"it is not defined on {x.dtype}")
    formula: Scalar = UNARY[node.op_type]
    return elementwise(low, lambda e: formula(node.attributes, e), [x], x.dtype, node.op_type.lower())


def predicate(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """A question about one number."""
    formula = PREDICATES[node.op_type]
    values = _known(node, inputs[:1])
    return elementwise(low, lambda e: formula(node.attributes, e), values, "bool", node.op_type.lower())


def binary(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """A function of two numbers, in the type of the first."""
    a, b = _known(node, inputs[:2])
    dtype = "int64" if a.dtype == "shape" else a.dtype
    formula = BINARY[node.op_type]
    return elementwise(low, lambda x, y: formula(node.attributes, x, y), [a, b], dtype, node.op_type.lower())


def fold(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """Max, Min, Sum and Mean of several tensors; of integers, the mean is rounded towards zero."""
    values = _known(node, inputs)
    step: Callable[[Any, Any], Any] = {"Max": largest, "Min": smallest}.get(node.op_type, lambda a, b: a + b)

    def formula(*elements: Any) -> Any:
        total = elements[0]
        for element in elements[1:]:
            total = step(total, element)
        if node.op_type != "Mean":
            return total
        count = const(len(elements), kind(total))
        return total / count if is_float(total) else BINARY["Div"]({}, total, count)

    return elementwise(low, formula, values, values[0].dtype, node.op_type.lower())


def clip(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """min(max(x, low), high) with bounds that are tensors; attributes before opset 11."""
    given = [*inputs, None, None][:3]
    values = _known(node, given)
    has_low, has_high = given[1] is not None, given[2] is not None
    fixed = [node.get("min"), node.get("max")]

    def formula(x: Any, *bounds: Any) -> Any:
        rest = list(bounds)
        lowest = rest.pop(0) if has_low else None if fixed[0] is None else const(fixed[0], kind(x))
        highest = rest.pop(0) if has_high else None if fixed[1] is None else const(fixed[1], kind(x))
        x = x if lowest is None else largest(x, lowest)
        return x if highest is None else smallest(x, highest)

    for bound in values[1:]:
        if bound.shape not in ((), (1,)):
            raise refuse(node, f"a bound of shape {bound.shape} is not a scalar")
    scalars = [values[0], *(low.wrap(low.bind(_scalar(tensor(low, v)))) for v in values[1:])]
    return elementwise(low, formula, scalars, values[0].dtype, "clip")


def _scalar(expr: Any) -> Any:
    return relax.op.reshape(expr, ())


CONVERTERS: dict[str, Converter] = {
    **dict.fromkeys(UNARY, unary),
    **dict.fromkeys(PREDICATES, predicate),
    **dict.fromkeys(BINARY, binary),
    **dict.fromkeys(("Max", "Min", "Sum", "Mean"), fold),
    "Clip": clip,
}

__all__ = ["CONVERTERS", "at", "broadcast", "elementwise"]
