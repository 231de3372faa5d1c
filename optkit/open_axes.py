"""Axes that a model file leaves open in words ONNX does not have."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

_ANY = frozenset({"", "?", "-1", "None"})
"""Names that exporters give to an extent they know nothing about; two axes of such a name need not be equal."""


def open_unknown_axes(model: ir.Model) -> None:
    """Make axes that a file gives as -1 or "?" open ones without a name."""
    for graph in model.graphs():
        for value in _values(graph):
            if value.shape is not None and any(_unknown(d) for d in value.shape):
                value.shape = ir.Shape([None if _unknown(d) else d for d in value.shape])


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.outputs
    for node in graph:
        yield from node.outputs


def _unknown(size: int | ir.SymbolicDim) -> bool:
    return size < 0 if isinstance(size, int) else size.value in _ANY


__all__ = ["open_unknown_axes"]
