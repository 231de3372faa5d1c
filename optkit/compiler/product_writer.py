"""Several products with constant weights written as one, and a Split behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from optkit.compiler.lowering import PARTS


@dataclass(frozen=True)
class Product:
    """A MatMul or Gemm with constant weights, and what lies behind it: an Add of a constant, a Cast."""

    node: ir.Node
    bias: ir.Node | None
    cast: ir.Node | None

    @property
    def weight(self) -> ir.Value:
        """The right operand."""
        return operand(self.node, 1)

    @property
    def axis(self) -> int:
        """Of the weights, along which the columns of the result lie."""
        return 0 if self.node.attributes.get_int("transB", 0) else 1

    @property
    def columns(self) -> int:
        """Of the result, 0 where they are not known."""
        extent = (self.weight.shape or (0, 0))[self.axis]
        return extent if isinstance(extent, int) else 0

    @property
    def addend(self) -> np.ndarray | None:
        """What the Add adds."""
        arrays = [] if self.bias is None else [constant(value) for value in self.bias.inputs]
        return next((array for array in arrays if array is not None), None)

    @property
    def end(self) -> ir.Value:
        """The last result."""
        return (self.cast or self.bias or self.node).outputs[0]


def operand(node: ir.Node, place: int) -> ir.Value:
    """What a node reads there."""
    value = node.inputs[place]
    assert value is not None
    return value


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The array of an initializer that no caller can replace, None for any other value."""
    if value is None or not value.is_initializer() or value.is_graph_input() or value.const_value is None:
        return None
    return value.const_value.numpy()


def write(graph: ir.Graph, group: Sequence[Product]) -> None:
    """Put one product in the place of the first of the group; it is named after all of them."""
    places = {node: place for place, node in enumerate(graph)}
    group = sorted(group, key=lambda product: places[product.node])
    first, writer = group[0], _Writer(graph, _together([product.node for product in group]))
    operands = [operand(first.node, 0), writer.joined([product.weight for product in group], first.axis, "weight")]
    if len(first.node.inputs) > 2:
        operands.append(writer.joined([operand(product.node, 2) for product in group], 0, "bias"))
    made = first.node.outputs[0]
    (result,) = writer.add(ir.node(first.node.op_type, operands, _attributes(first.node), name=writer.name), made)
    merged = writer.nodes[-1]
    merged.metadata_props.update(first.node.metadata_props)
    merged.meta[PARTS] = {product.node.name: product.columns for product in group}
    if adds := [product.bias for product in group if product.bias is not None]:
        given = next(product.addend for product in group if product.addend is not None)
        vectors = [np.zeros(p.columns, given.dtype) if p.addend is None else p.addend for p in group]
        addend = writer.constant(np.concatenate(vectors), "addend")
        (result,) = writer.add(ir.node("Add", [result, addend], name=_together(adds)), made)
    if casts := [product.cast for product in group if product.cast is not None]:
        cast = ir.node("Cast", [result], _attributes(casts[0]), name=_together(casts))
        (result,) = writer.add(cast, first.end)
    sizes = writer.constant(np.array([product.columns for product in group]), "sizes")
    split = ir.node("Split", [result, sizes], {"axis": -1}, num_outputs=len(group), name=f"{writer.name}.split")
    writer.add(split, first.end)
    graph.insert_before(first.node, writer.nodes)
    for product, part in zip(group, split.outputs, strict=True):
        end = product.end
        part.name, part.shape = end.name, end.shape
        end.replace_all_uses_with(part)
        chain = product.cast, product.bias, product.node
        graph.remove([node for node in chain if node is not None], safe=True)


@dataclass
class _Writer:
    """New nodes, in order, and constants, all with names of their own."""

    graph: ir.Graph
    name: str
    nodes: list[ir.Node] = field(default_factory=list)

    def add(self, node: ir.Node, like: ir.Value) -> Sequence[ir.Value]:
        """The node's results, which are of this one's type."""
        self.nodes.append(node)
        for number, value in enumerate(node.outputs):
            value.name, value.type = f"{node.name}.{number}", like.type
        return node.outputs

    def constant(self, array: np.ndarray, label: str) -> ir.Value:
        """An initializer."""
        name = f"{self.name}.{label}"
        tensor = ir.tensor(array, name=name)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def joined(self, values: Sequence[ir.Value], axis: int, label: str) -> ir.Value:
        """Constants, or integers behind DequantizeLinear, side by side; scales and zero points one a column then."""
        makers = [maker for value in values if (maker := value.producer()) is not None]
        if not makers:
            return self.constant(np.concatenate([_array(value) for value in values], axis), label)
        integers, *vectors = zip(*([_array(v) for v in maker.inputs] for maker in makers), strict=True)
        joined, columns = [np.concatenate(integers, axis)], [array.shape[axis] for array in integers]
        for each in vectors:
            wide = [np.broadcast_to(vector.reshape(-1), n) for vector, n in zip(each, columns, strict=True)]
            joined.append(np.concatenate(wide))
        kinds = "integers", "scale", "zero_point"
        inputs = [self.constant(array, f"{label}.{kind}") for array, kind in zip(joined, kinds, strict=False)]
        attributes = {**_attributes(makers[0]), "axis": axis}
        maker = ir.node("DequantizeLinear", inputs, attributes, name=f"{self.name}.{label}")
        return self.add(maker, values[0])[0]


def _array(value: ir.Value | None) -> np.ndarray:
    array = constant(value)
    assert array is not None
    return array


def _attributes(node: ir.Node) -> dict[str, Any]:
    return {attribute.name: attribute.value for attribute in node.attributes.values()}


def _together(nodes: Sequence[ir.Node]) -> str:
    """The name of a node that stands for several."""
    return " + ".join(str(node.name) for node in nodes)
