"""Small steps on an onnx_ir graph that several passes take."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The array behind an initializer or Constant node; None for anything computed or fed at run time."""
    if value is None or value.is_graph_input():
        return None
    if value.is_initializer():
        return None if value.const_value is None else value.const_value.numpy()
    producer = value.producer()
    if producer is None or producer.op_type != "Constant" or producer.domain:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def scalar(value: ir.Value | None) -> float | None:
    """The single number that a constant holds; None where it is no constant or holds several."""
    array = constant(value)
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None


def is_op(node: ir.Node | None, *op_types: str) -> bool:
    """Whether the node is one of these operators of ONNX's own domain."""
    return node is not None and not node.domain and node.op_type in op_types


def producer(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The node that computes `value`, if it is one of these operators."""
    node = None if value is None else value.producer()
    return node if is_op(node, *op_types) else None


def why_not_absorbed(value: ir.Value, by: ir.Node) -> str | None:
    """Why `value`, an intermediate result, cannot vanish inside `by`; None where it can."""
    if value.is_graph_output():
        return f"{value.name} is an output of the model"
    users = {user for user, _ in value.uses()}
    if users != {by}:
        return f"{value.name} has {len(users)} consumers"
    owner = value.producer()
    if owner is not None and owner.graph is not by.graph:
        return f"{value.name} comes from outside the subgraph"
    return None


def add_constant(graph: ir.Graph | ir.Function | None, name: str, array: np.ndarray) -> ir.Value:
    """A new initializer of `graph`, named after `name`; existing ones are never written to.

    A dtype numpy has no name for keeps its ml_dtypes type.
    """
    if not isinstance(graph, ir.Graph):
        raise TypeError("only graphs have initializers; inline functions first")
    taken = {v.name for n in graph for v in n.outputs} | {v.name for v in graph.inputs} | set(graph.initializers)
    unique, number = name, 1
    while unique in taken:
        unique, number = f"{name}_{number}", number + 1
    tensor = ir.tensor(np.ascontiguousarray(array) if array.ndim else array, name=unique)
    value = ir.Value(name=unique, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def can_bypass(node: ir.Node, source: ir.Value) -> bool:
    """Whether `source` may stand in for the node's first output without the model's interface changing."""
    if not node.outputs[0].is_graph_output():
        return True
    owner = source.producer()
    return owner is not None and owner.graph is node.graph and not source.is_graph_output()


def bypass(node: ir.Node, source: ir.Value) -> None:
    """Remove `node`; whoever used its first output uses `source`, which takes over an output's name."""
    old = node.outputs[0]
    graph = node.graph
    if graph is None:
        raise ValueError(f"{node.name} is in no graph")
    if old.is_graph_output():
        name, old.name = old.name, None
        source.name = name
        source.shape, source.type = old.shape or source.shape, old.type or source.type
    ir.convenience.replace_all_uses_with(old, source, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def replace(node: ir.Node, op_type: str, inputs: list[ir.Value | None], attributes: dict[str, object]) -> ir.Node:
    """Put a new operator in the place of `node`, which keeps its name and whose output keeps its name."""
    graph = node.graph
    if graph is None:
        raise ValueError(f"{node.name} is in no graph")
    old = node.outputs[0]
    new = ir.node(op_type, inputs, attributes)  # type: ignore[arg-type]
    new.name = node.name
    out = new.outputs[0]
    out.shape, out.type = old.shape, old.type
    name, old.name = old.name, None
    out.name = name
    graph.insert_before(node, new)
    ir.convenience.replace_all_uses_with(old, out, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    return new


def nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Every node still in the model, subgraphs included, safe against removal while iterating."""
    for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
        if node.graph is not None:
            yield node


def remove_unused(model: ir.Model) -> bool:
    """Remove nodes and initializers that nothing reads; returns whether there were any."""
    return common.RemoveUnusedNodesPass()(model).modified
