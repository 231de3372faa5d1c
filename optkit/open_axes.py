"""Open axes without a name, or with words for one that ONNX does not have."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

_ANY = frozenset({"", "?", "-1", "None"})
"""Names that exporters give to an extent they know nothing about; two axes of such a name need not be equal."""


def open_unknown_axes(model: ir.Model) -> None:
    """Make axes that a file gives as -1 or "?" open ones, and name the open axes of inputs that have no name.

    Axes in front of all others share the name "batch", as exporters mean it; any other has a name of its own.
    """
    for graph in model.graphs():
        for value in _values(graph):
            if value.shape is not None and any(_unknown(d) for d in value.shape):
                value.shape = ir.Shape([None if _unknown(d) else d for d in value.shape])
    inputs = [v for v in model.graph.inputs if v.shape is not None and v.name not in model.graph.initializers]
    taken = {d.value for v in inputs for d in v.shape or () if isinstance(d, ir.SymbolicDim) and d.value}
    for value in inputs:
        names = [_free(f"{value.name}_{axis}" if axis else "batch", taken) for axis in range(len(value.shape or ()))]
        shape = zip(value.shape or (), names, strict=True)
        value.shape = ir.Shape([name if _unnamed(d) else d for d, name in shape])


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.outputs
    for node in graph:
        yield from node.outputs


def _unknown(size: int | ir.SymbolicDim) -> bool:
    return size < 0 if isinstance(size, int) else size.value in _ANY


def _unnamed(size: int | ir.SymbolicDim) -> bool:
    return isinstance(size, ir.SymbolicDim) and size.value is None


__all__ = ["open_unknown_axes"]
