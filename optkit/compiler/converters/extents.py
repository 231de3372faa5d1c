"""Extents that are not attributes: declared by the model, given as tensors, or found only when the model runs."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax, tirx

from optkit.compiler.lowering import Lowering, Node
from optkit.compiler.values import Known, Value
from optkit.errors import UnsupportedError


def refuse(node: Node, why: str) -> UnsupportedError:
    """The error for a node that cannot be compiled; `why` also says what to do."""
    return UnsupportedError(f"node {node.name!r} ({node.op_type}): {why}")


def declared(low: Lowering, node: Node, output: int = 0) -> list[Any] | None:
    """The shape the model declares or ONNX infers for an output: ints, symbolic axes of the inputs, None where open."""
    shape = node.source.outputs[output].shape
    if shape is None:
        return None
    return [d if isinstance(d, int) else low.symbols.get(d.value or "") for d in shape]


def count_axes(node: Node, value: Value) -> int:
    """The length of a vector that says something of every axis; refuses one that only a run knows."""
    if len(value.shape) != 1 or not isinstance(value.shape[0], int):
        raise refuse(node, "how many axes it works on is known only at run time; fix the length of its inputs")
    return int(value.shape[0])


def numbers(value: Value | None) -> np.ndarray | None:
    """A constant's elements as a vector; None where they are computed at run time."""
    return None if value is None or value.const is None else value.const.reshape(-1)


def known_extents(value: Value | None) -> list[Any] | None:
    """Elements of an integer tensor that is constant or arithmetic on shapes: ints and TIR expressions."""
    if value is None:
        return None
    if value.const is not None:
        return [int(d) for d in value.const.reshape(-1)]
    if isinstance(value, Known) and len(value.shape) == 1:
        return list(value.elements)
    if value.dtype == "shape":
        values = getattr(value.plain().ty, "values", None)
        return None if values is None else [int(d) if isinstance(d, tirx.IntImm) else d for d in values]
    return None


def tensor(low: Lowering, value: Value, dtype: str | None = None) -> Any:
    """A value as a Relax tensor of the given type, shapes included."""
    expr = value.plain()
    if isinstance(expr.ty, relax.ShapeType):
        expr = low.bind(relax.op.shape_to_tensor(expr))
    if dtype is not None and str(expr.ty.dtype) != dtype:
        expr = low.bind(relax.op.astype(expr, dtype))
    return expr


def vector(low: Lowering, value: Value, dtype: str | None = None) -> Any:
    """`tensor` with one axis."""
    expr = tensor(low, value, dtype)
    return expr if len(value.shape) == 1 else low.bind(relax.op.reshape(expr, (-1,)))


def runtime_extent(low: Lowering, count: Any, name: str, expected: int | None = None) -> Any:
    """The number in an int64 tensor of shape (1,) as an extent: a new symbolic variable, or `expected`.

    A number other than `expected` fails when the model runs.
    """
    shape = low.bind(relax.op.tensor_to_shape(count))
    extent = tirx.IntImm("int64", expected) if expected is not None else tirx.Var(name, "int64")
    low.bb.match_cast(shape, relax.ShapeType([extent]))
    return extent if expected is None else expected


__all__ = ["count_axes", "declared", "known_extents", "numbers", "refuse", "runtime_extent", "tensor", "vector"]
