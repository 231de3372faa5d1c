"""Sequences and optionals while a graph is lowered: lists whose length is known when the model is compiled.

ONNX's sequence and optional types have no place in a kernel and none in Relax. Almost all models use them so
that the length follows from the graph (SplitToSequence, a list built by constant loops), so a list of tensors
is all that is needed; what depends on a run is refused where it is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from optkit.compiler.values import Shape, Value
from optkit.errors import UnsupportedError

if TYPE_CHECKING:
    from optkit.compiler.lowering import Lowering


class TensorList(Value):
    """An ONNX sequence of known length."""

    def __init__(self, low: Lowering, items: Sequence[Value]) -> None:
        super().__init__(low, None, "sequence")
        self.items = tuple(items)

    @property
    def shape(self) -> Shape:
        raise UnsupportedError("a sequence where a tensor is needed")

    def form(self, block: int) -> Any:
        raise UnsupportedError("a sequence where a tensor is needed")


class Absent(Value):
    """An ONNX optional without an element; one with an element is that element itself."""

    def __init__(self, low: Lowering) -> None:
        super().__init__(low, None, "optional")

    @property
    def shape(self) -> Shape:
        raise UnsupportedError("an empty optional where a tensor is needed")

    def form(self, block: int) -> Any:
        raise UnsupportedError("an empty optional where a tensor is needed")


def tensors(values: Sequence[Value]) -> Iterator[Value]:
    """The tensors in values, in order, lists unpacked."""
    for value in values:
        if isinstance(value, TensorList):
            yield from tensors(value.items)
        elif not isinstance(value, Absent):
            yield value


def like(value: Value, leaves: Iterator[Value]) -> Value:
    """A value of the same make whose tensors are the next of `leaves`."""
    if isinstance(value, TensorList):
        return TensorList(value.low, [like(item, leaves) for item in value.items])
    return value if isinstance(value, Absent) else next(leaves)


def make(value: Value) -> object:
    """What `like` keeps, comparable: None for a tensor."""
    if isinstance(value, TensorList):
        return tuple(make(item) for item in value.items)
    return "absent" if isinstance(value, Absent) else None


__all__ = ["Absent", "TensorList", "like", "make", "tensors"]
