"""Splitting a model where some of its nodes are to run elsewhere."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import onnx_ir as ir


@dataclass(frozen=True)
class Part:
    """A model of its own out of another's nodes.

    Attributes:
        chosen: whether it holds the nodes that were named, or others.
        nodes: names of the nodes of the whole model in it.
    """

    model: ir.Model
    chosen: bool
    nodes: tuple[str, ...]

    @property
    def inputs(self) -> list[ir.Value]:
        """What it takes: inputs of the whole model, and outputs of parts before it."""
        return list(self.model.graph.inputs)

    @property
    def outputs(self) -> list[ir.Value]:
        """What it makes for others, or for the whole model's outputs."""
        return list(self.model.graph.outputs)


def split(model: ir.Model, chosen: Collection[str]) -> list[Part]:
    """Parts in an order they can run in, as few as the graph allows: neighbours lie on different sides.

    A node belongs to the part whose number is the most changes of side on any way to it. A node whose subgraph holds
    a chosen node is chosen itself. What
    nothing uses, and an output that is an input or a constant, belong to no part.

    >>> from onnx import parser
    >>> text = '<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y) '
    >>> model = ir.from_proto(parser.parse_model(text + "{ [a] u = Relu(x) [b] v = Sin(u) [c] y = Add(v, u) }"))
    >>> [(part.chosen, part.nodes) for part in split(model, ["b"])]
    [(False, ('a',)), (True, ('b',)), (False, ('c',))]
    """
    graph = model.graph
    sides = {node: _names(node) & set(chosen) != set() for node in graph}
    levels: dict[ir.Node, int] = {}
    for node in graph:
        before = [p for p in _producers(node) if p in levels]
        level = max((levels[p] + (sides[p] != sides[node]) for p in before), default=int(sides[node]))
        levels[node] = level
    users: dict[ir.Value, set[int]] = {value: {-1} for value in graph.outputs}
    for node in graph:
        for value in _read(node):
            users.setdefault(value, set()).add(levels[node])
    parts = []
    for level in sorted(set(levels.values())):
        inside = [node for node in graph if levels[node] == level]
        made = [v for node in inside for v in node.outputs if users.get(v, set()) - {level}]
        if made:
            parts.append(_extract(model, inside, made, sides[inside[0]]))
    return parts


def _names(node: ir.Node) -> set[str]:
    return {n.name or "" for n in (node, *_inner(node))}


def _inner(node: ir.Node) -> list[ir.Node]:
    """Nodes of its subgraphs, at any depth."""
    found = []
    for attribute in node.attributes.values():
        for graph in _graphs(attribute):
            found += list(ir.traversal.RecursiveGraphIterator(graph))
    return found


def _graphs(attribute: ir.Attr) -> list[ir.Graph]:
    if attribute.type == ir.AttributeType.GRAPH:
        return [attribute.as_graph()]
    return list(attribute.as_graphs()) if attribute.type == ir.AttributeType.GRAPHS else []


def _read(node: ir.Node) -> list[ir.Value]:
    """What a node and its subgraphs read, once each."""
    values = [v for n in (node, *_inner(node)) for v in n.inputs if v is not None]
    values += [v for a in node.attributes.values() for g in _graphs(a) for v in g.outputs]
    return list(dict.fromkeys(values))


def _producers(node: ir.Node) -> list[ir.Node]:
    return [p for p in (v.producer() for v in _read(node)) if p is not None]


def _extract(model: ir.Model, inside: list[ir.Node], made: list[ir.Value], chosen: bool) -> Part:
    graph, own = model.graph, set(inside)
    inputs = {value for value in graph.inputs if value.name not in graph.initializers}
    taken = [
        value
        for value in dict.fromkeys(v for node in inside for v in _read(node))
        if value in inputs or ((made_by := value.producer()) and made_by.graph is graph and made_by not in own)
    ]
    part = ir.Model(ir.convenience.extract(graph, taken, made), ir_version=model.ir_version)
    return Part(part, chosen, tuple(node.name or "" for node in inside))
