"""The first and the last layers of a network, which many leave at a higher precision than the others."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

CHOICES = ("same", "int8", "float")
"""What they are quantized to: as the others, weights of 8 bits, or not at all."""


def ends(graph: ir.Graph, layers: Collection[ir.Node]) -> set[ir.Node]:
    """Those of `layers` with no other of them before, and those with none behind."""
    before: dict[ir.Value, bool] = {}
    first = set()
    for node in graph:
        seen = any(before.get(v, False) for v in node.inputs if v is not None)
        if node in layers and not seen:
            first.add(node)
        before.update(dict.fromkeys(node.outputs, seen or node in layers))
    behind: dict[ir.Value, bool] = {}
    last = set()
    for node in reversed(graph):
        seen = any(behind.get(v, False) for v in node.outputs)
        if node in layers and not seen:
            last.add(node)
        for value in node.inputs:
            if value is not None and (seen or node in layers):
                behind[value] = True
    return first | last
