"""Shapes that are computed while the model runs, and values cut to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm_ffi
from tvm import relax, te, tirx

from optkit.compiler.converters.extents import declared
from optkit.compiler.lowering import Lowering, Node
from optkit.compiler.values import Value


def runtime_extents(low: Lowering, sizes: Any, count: int, name: str) -> list[Any]:
    """The numbers in an int64 tensor of shape (count,) as extents: new symbolic variables."""
    shape = low.bind(relax.op.tensor_to_shape(sizes))
    extents = [tirx.Var(f"{name}_{i}", "int64") for i in range(count)]
    low.bb.match_cast(shape, relax.ShapeType(extents))
    return extents


def some_extents(low: Lowering, plan: Any, start: int, count: int, name: str) -> list[Any]:
    """`count` of the numbers in an int64 vector, from `start` on, as extents."""
    sizes = low.emit(lambda data: te.compute((count,), lambda i: data(i + start), name="sizes"), plan, name="sizes")
    return runtime_extents(low, sizes, count, name)


def complete(low: Lowering, node: Node, output: int = 0) -> list[Any] | None:
    """The declared shape of an output where all of it is known in terms of the inputs' axes."""
    shape = declared(low, node, output)
    return None if shape is None or any(d is None for d in shape) else shape


def as_declared(low: Lowering, node: Node, value: Value, output: int = 0) -> Value:
    """A value of a shape found at run time, as the shape that the model declares; it must have it.

    A tensor of another size fails when the model runs.
    """
    shape = declared(low, node, output)
    if shape is None or len(shape) != len(value.shape):
        return value
    merged = [b if a is None else a for a, b in zip(shape, value.shape, strict=True)]
    if all(a is b for a, b in zip(merged, value.shape, strict=True)):
        return value
    return low.wrap(low.bb.match_cast(value.plain(), relax.TensorType(merged, value.dtype)))


def same_shape(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """Whether two shapes are the same, symbolic extents included."""
    return len(a) == len(b) and all(tvm_ffi.structural_equal(x, y) for x, y in zip(a, b, strict=True))


__all__ = ["as_declared", "complete", "runtime_extents", "same_shape", "some_extents"]
