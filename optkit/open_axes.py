"""Open axes without a name, or with words for one that ONNX does not have."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

_ANY = frozenset({"", "?", "-1", "None"})
"""Names that exporters give to an extent they know nothing about; two axes of such a name need not be equal."""


def open_unknown_axes(model: ir.Model) -> None:
    """Make axes that a file gives as -1 or "?" open ones, and name the open axes of inputs that have no name.

    Each has a name of its own, since the file says of no two that they are equal: INPUT_AXIS, or "batch" for the first
    axis of a single input.
    """
    for graph in model.graphs():
        for value in _values(graph):
            if value.shape is not None and any(_unknown(d) for d in value.shape):
                value.shape = ir.Shape([None if _unknown(d) else d for d in value.shape])
    inputs = [v for v in model.graph.inputs if v.shape is not None and v.name not in model.graph.initializers]
    taken = {d.value for v in inputs for d in v.shape or () if isinstance(d, ir.SymbolicDim) and d.value}
    for value in inputs:
        shape: list[int | ir.SymbolicDim | str] = list(value.shape or ())
        for axis, size in enumerate(shape):
            if _unnamed(size):
                shape[axis] = _free("batch" if axis == 0 and len(inputs) == 1 else f"{value.name}_{axis}", taken)
        value.shape = ir.Shape(shape)


def _free(name: str, taken: set[str]) -> str:
    """The name, or one like it that no other axis has; it counts as taken from now on."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.outputs
    for node in graph:
        yield from node.outputs


def _unknown(size: int | ir.SymbolicDim) -> bool:
    return size < 0 if isinstance(size, int) else size.value in _ANY


def _unnamed(size: int | str | ir.SymbolicDim) -> bool:
    return isinstance(size, ir.SymbolicDim) and size.value is None


__all__ = ["open_unknown_axes"]
