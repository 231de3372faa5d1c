"""A graph as its layers see it: what runs on a layer's account, and which tensors pass between two layers."""

from __future__ import annotations

import math
from collections.abc import Collection

import onnx_ir as ir


def label(node: ir.Node) -> str:
    """The name that kernels know a node by."""
    return node.name or node.op_type


def regions(graph: ir.Graph, layers: Collection[str]) -> dict[str, str]:
    """The layer on whose account every node runs: itself, else the last layer before it, else the first after it.

    Nodes with no layer before or behind them are left out.
    """
    order = {label(node): place for place, node in enumerate(graph)}
    found: dict[str, str] = {}
    for node in graph:
        name = label(node)
        if name in layers:
            found[name] = name
            continue
        makers = [value.producer() for value in node.inputs if value is not None]
        before = {found[label(maker)] for maker in makers if maker is not None and label(maker) in found}
        if before:
            found[name] = max(before, key=lambda layer: order.get(layer, -1))
    for node in reversed(list(graph)):
        if label(node) in found:
            continue
        users = [user for value in node.outputs for user, _ in value.uses()]
        after = {found[label(user)] for user in users if label(user) in found}
        if after:
            found[label(node)] = min(after, key=lambda layer: order.get(layer, len(order)))
    return found


def crossings(graph: ir.Graph, account: dict[str, str]) -> dict[tuple[str, str], int]:
    """Elements that pass from one layer's region to another's, a tensor once for every region that reads it."""
    found: dict[tuple[str, str], int] = {}
    for node in graph:
        source = account.get(label(node))
        for value in node.outputs:
            readers = {account.get(label(user)) for user, _ in value.uses()}
            for reader in readers - {source, None}:
                if source is not None and reader is not None:
                    found[source, reader] = found.get((source, reader), 0) + _elements(value)
    return found


def _elements(value: ir.Value) -> int:
    """Elements of a tensor; 0 where its shape or its being real is not known."""
    if value.shape is None or value.dtype is None or not value.dtype.is_floating_point():
        return 0
    return math.prod(d if isinstance(d, int) else 0 for d in value.shape)
