"""Which tensors become int8: decided from the graph alone, before anything is measured.

Anchors (convolutions and matrix products) read int8. Between convolutions, element-wise sums and products,
concatenations, pooling and data movement read int8 too, where all they read was produced in int8 and what
they produce is read in int8 again: then no tensor between two convolutions is float in memory. A residual
stream, which ends in a normalization, stays float. So do model outputs.

A tensor is quantized after the pointwise operators that follow a convolution, because it is quantized where
it is read: `Conv -> Relu -> Conv` has its Q after the Relu.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from optkit_passes.quantize.anchors import Anchor
from optkit_passes.quantize.roles import Role, constant, roles_of

_SHARING = (Role.TRANSPARENT, Role.CONCAT)
_BETWEEN = (*_SHARING, Role.ELEMENTWISE, Role.AVERAGE)


@dataclass(frozen=True)
class Edge:
    """Input `index` of `node`."""

    node: ir.Node
    index: int


@dataclass(frozen=True)
class Group:
    """Tensors with the same scale and zero point.

    Attributes:
        tensors: quantized ones, in graph order.
        sources: those whose values determine the range; the others hold the same values, moved.
    """

    tensors: tuple[ir.Value, ...]
    sources: tuple[ir.Value, ...]


@dataclass(frozen=True)
class Placement:
    """What to quantize.

    Attributes:
        groups: every quantized tensor, in exactly one group.
        readers: by tensor, the edges that read it dequantized.
    """

    groups: tuple[Group, ...]
    readers: Mapping[ir.Value, tuple[Edge, ...]]


def place(
    graph: ir.Graph, anchors: Iterable[Anchor], excluded: Collection[ir.Node], fuse_residual: bool = True
) -> Placement:
    """Decide for every tensor of `graph` whether it is quantized and who reads it so.

    Args:
        graph: with types inferred; subgraphs are not looked into.
        anchors: the convolutions and matrix products to quantize.
        excluded: nodes that must compute in float.
        fuse_residual: leave the operand of a residual sum that is added on its own accumulator in float.
    """
    reads = {a.node: a.activations for a in anchors}
    roles = roles_of(graph)
    roles.update((n, Role.OTHER) for n in excluded if roles.get(n) in _BETWEEN)
    between = {n for n, role in roles.items() if role in _BETWEEN}
    norm_bound = _norm_bound(graph, roles)
    while True:
        produced = _produced(graph, roles, reads, between)
        wanted = _wanted(graph, roles, reads, between)
        refused = {
            n
            for n in between
            if not all(produced.get(v, False) for v in _data_inputs(n, roles))
            or not any(wanted.get(v, False) for v in n.outputs)
            or (roles[n] in (Role.ELEMENTWISE, Role.CONCAT) and norm_bound.get(n.outputs[0], False))
        }
        if not refused:
            break
        between -= refused
    order = {n: i for i, n in enumerate(graph)}
    for n in between:
        kept = [i for i, v in enumerate(n.inputs) if v in _data_inputs(n, roles)]
        fused = _accumulates(n, kept, reads, order) if fuse_residual else None
        reads[n] = tuple(i for i in kept if i != fused)
    return _collect(graph, roles, reads, between, produced)


def _accumulates(
    node: ir.Node, inputs: Sequence[int], reads: Mapping[ir.Node, tuple[int, ...]], order: Mapping[ir.Node, int]
) -> int | None:
    """The operand of a residual Add that needs no int8 form: a product that nothing else reads.

    The sum then happens on that product's accumulator, in its epilogue, with one rounding less. Of two such
    products it is the one made first, because that is the one an Add is fused into.
    """
    if node.op_type != "Add" or len(inputs) != 2:
        return None
    found = []
    for index in inputs:
        value = node.inputs[index]
        producer = None if value is None else value.producer()
        if value is None or producer is None or producer not in reads or producer not in order:
            continue
        if producer.op_type in ("Conv", "Gemm") and len(value.uses()) == 1 and not value.is_graph_output():
            found.append((order[producer], index))
    return min(found)[1] if found else None


def _data_inputs(node: ir.Node, roles: Mapping[ir.Node, Role]) -> list[ir.Value]:
    """Inputs that carry values; sizes, axes and constants do not."""
    if roles[node] in (Role.TRANSPARENT, Role.AVERAGE):
        return [v for v in node.inputs[:1] if v is not None]
    return [v for v in node.inputs if v is not None and constant(v) is None]


def _produced(
    graph: ir.Graph,
    roles: Mapping[ir.Node, Role],
    reads: Mapping[ir.Node, tuple[int, ...]],
    between: Collection[ir.Node],
) -> dict[ir.Value, bool]:
    """Tensors in a convolution's neighbourhood: made by one in int8, or from such tensors.

    MatMul does not count: its products make up transformers, where only its own inputs are worth it.
    """
    found: dict[ir.Value, bool] = {}
    for node in graph:
        match roles[node]:
            case Role.ANCHOR:
                made = node in reads and node.op_type != "MatMul"
            case Role.TRANSPARENT | Role.POINTWISE:
                made = all(found.get(v, False) for v in _data_inputs(node, roles))
            case _:
                made = node in between
        found.update(dict.fromkeys(node.outputs, made))
    return found


def _wanted(
    graph: ir.Graph,
    roles: Mapping[ir.Node, Role],
    reads: Mapping[ir.Node, tuple[int, ...]],
    between: Collection[ir.Node],
) -> dict[ir.Value, bool]:
    """Tensors that end up in an anchor's int8 input, through what may stand between."""
    found: dict[ir.Value, bool] = {}
    for node in reversed(graph):
        passes = node in between or roles[node] is Role.POINTWISE
        onward = passes and any(found.get(v, False) for v in node.outputs)
        for index, value in enumerate(node.inputs):
            if value is not None and (onward or (node in reads and index in reads[node])):
                found[value] = True
    return found


def _norm_bound(graph: ir.Graph, roles: Mapping[ir.Node, Role]) -> dict[ir.Value, bool]:
    """Tensors that reach a normalization without passing a convolution or matrix product."""
    found: dict[ir.Value, bool] = {}
    through = (Role.POINTWISE, Role.TRANSPARENT, Role.ELEMENTWISE)
    for node in reversed(graph):
        onward = roles[node] in through and any(found.get(v, False) for v in node.outputs)
        if roles[node] is Role.NORM or onward:
            found.update((v, True) for v in node.inputs[: 1 if roles[node] is Role.NORM else None] if v is not None)
    return found


def _collect(
    graph: ir.Graph,
    roles: Mapping[ir.Node, Role],
    reads: Mapping[ir.Node, tuple[int, ...]],
    between: Collection[ir.Node],
    produced: Mapping[ir.Value, bool],
) -> Placement:
    quantized: dict[ir.Value, None] = {}
    leader: dict[ir.Value, ir.Value] = {}

    def find(value: ir.Value) -> ir.Value:
        while leader.get(value, value) is not value:
            value = leader[value]
        return value

    moved: set[ir.Value] = set()
    for node in graph:
        for index in reads.get(node, ()):
            value = node.inputs[index]
            assert value is not None
            quantized[value] = None
        if node in between and roles[node] in _SHARING:
            used = [v for v in node.outputs if v.uses()]
            # exact, because the inputs have these parameters already: so whoever reads it may read int8
            quantized.update(dict.fromkeys(used))
            moved.update(used)
            for value in (*_data_inputs(node, roles), *used):
                leader[find(value)] = find(used[0])
    groups: dict[ir.Value, list[ir.Value]] = {}
    for value in quantized:
        groups.setdefault(find(value), []).append(value)
    return Placement(
        tuple(Group(tuple(g), tuple(v for v in g if v not in moved)) for g in groups.values()),
        {value: _readers(graph, value, reads, produced.get(value, False)) for value in quantized},
    )


def _readers(
    graph: ir.Graph, value: ir.Value, reads: Mapping[ir.Node, tuple[int, ...]], everyone: bool
) -> tuple[Edge, ...]:
    """Edges that read int8. Of what a convolution makes, all do: then it need not be stored in float too."""
    return tuple(
        Edge(node, index)
        for node, index in value.uses()
        if node.graph is graph and (everyone or index in reads.get(node, ()))
    )
