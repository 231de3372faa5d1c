"""Networks over lines, (N, C, L), as networks over images of one row, (N, C, 1, L).

All that there is for images then serves them too: blocked layouts from one convolution to the next, integers, pools,
transposed convolutions by phases, joins. An image begins at a convolution and goes on through every operator of
`line_nodes`; what reads lines has the row dropped, which moves nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from optkit.compiler import line_nodes
from optkit.compiler.line_nodes import RANK, ROW, WRITERS, attributes_of, rank_of
from optkit.compiler.product_writer import constant, operand

_AXES_BY_TENSOR = 13
"""The first opset whose Squeeze and Unsqueeze take axes as a tensor."""
_BETWEEN = ("QuantizeLinear", "DequantizeLinear")


def lines_as_images(model: ir.Model) -> ir.Model:
    """The model with its networks over lines written over images; itself where there are none."""
    if not any(_begins(node) for graph in model.graphs() for node in graph):
        return model
    written = model.clone()
    taken = {value.name for graph in written.graphs() for value in _values(graph)}
    for graph in list(written.graphs()):
        if any(_begins(node) for node in graph):
            walk = _Walk(graph, model.opset_imports.get("", 18), taken)
            for node in list(graph):
                walk.visit(node)
    common.RemoveUnusedNodesPass()(written)
    return written


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from (*graph.inputs, *graph.initializers.values())
    for node in graph:
        yield from node.outputs


def _begins(node: ir.Node) -> bool:
    return node.op_type in line_nodes.CONVOLUTIONS and not node.domain and rank_of(node.inputs[1]) == RANK


class _Walk:
    """One walk over a graph in order.

    Attributes:
        taken: names of the whole model.
        images: the image of every line that has one.
    """

    def __init__(self, graph: ir.Graph, opset: int, taken: set[str | None]) -> None:
        self.graph, self.opset, self.taken = graph, opset, taken
        self.images: dict[ir.Value, ir.Value] = {}
        self.node = next(iter(graph))
        self.row: ir.Value | None = None

    def visit(self, node: ir.Node) -> None:
        """Write the node over images, where that is possible and it reads one or begins them."""
        self.node = node
        writer = None if node.domain else WRITERS.get(node.op_type)
        written = None if writer is None else writer(node, self)
        if written is None:
            return
        made = self._add(node.op_type, written.inputs, written.attributes, len(node.outputs))
        made.metadata_props.update(node.metadata_props)
        made.meta.update(node.meta)
        for old, new in zip(node.outputs, made.outputs, strict=True):
            new.type = old.type
            if written.flat:
                self._take_place(old, new)
                continue
            new.shape = _with_row(old.shape)
            if node.op_type == "DequantizeLinear":
                # What wants the line reads it behind the same conversion: bytes are moved then.
                self.images[old] = new
                continue
            line = self._move("Squeeze", new)
            line.type, line.shape = old.type, old.shape
            self._take_place(old, line)
            self.images[line] = new

    def is_image(self, value: ir.Value | None) -> bool:
        """Whether a line has an image."""
        return value in self.images

    def image(self, value: ir.Value) -> ir.Value:
        """The image of a line, made where it has none; behind conversions to integers and back it is made before."""
        if value not in self.images:
            maker = value.producer()
            if maker is not None and maker.graph is self.graph and maker.op_type in _BETWEEN and _of_numbers(maker):
                source = self.image(operand(maker, 0))
                made = self._add(maker.op_type, [source, *maker.inputs[1:]], attributes_of(maker), 1)
                made.metadata_props.update(maker.metadata_props)
                image = made.outputs[0]
            else:
                image = self._move("Unsqueeze", value)
            image.type, image.shape = value.type, _with_row(value.shape)
            self.images[value] = image
        return self.images[value]

    def known(self, array: np.ndarray, value: ir.Value) -> ir.Value:
        """An initializer named after the constant it is made of."""
        return self._initializer(array, f"{value.name}.row")

    def weight(self, value: ir.Value) -> ir.Value | None:
        """Weights of one row, as integers where they are some behind DequantizeLinear."""
        array, maker = constant(value), value.producer()
        if array is not None:
            return self.known(array[:, :, None], value)
        if maker is None or maker.op_type != "DequantizeLinear" or "block_size" in maker.attributes:
            return None
        integers, attributes = constant(maker.inputs[0]), attributes_of(maker)
        axis = attributes.get("axis", 1) % RANK
        if integers is None or axis == ROW:
            return None
        inputs = [self.known(integers[:, :, None], operand(maker, 0)), *maker.inputs[1:]]
        made = self._add(maker.op_type, inputs, {**attributes, "axis": axis}, 1)
        made.outputs[0].type, made.outputs[0].shape = value.type, _with_row(value.shape)
        return made.outputs[0]

    def _move(self, op_type: str, value: ir.Value) -> ir.Value:
        """Put the row in, or take it out."""
        if self.opset < _AXES_BY_TENSOR:
            return self._add(op_type, [value], {"axes": [ROW]}, 1).outputs[0]
        if self.row is None:
            self.row = self._initializer(np.array([ROW], "int64"), "row")
        return self._add(op_type, [value, self.row], {}, 1).outputs[0]

    def _add(
        self, op_type: str, inputs: Sequence[ir.Value | None], attributes: dict[str, Any], outputs: int
    ) -> ir.Node:
        """A node before the one that is visited, and of its name."""
        node = ir.node(op_type, inputs, attributes, num_outputs=outputs, name=self.node.name)
        for value in node.outputs:
            value.name = self._free(f"{self.node.name}.image")
        self.graph.insert_before(self.node, node)
        return node

    def _take_place(self, old: ir.Value, new: ir.Value) -> None:
        """Everything that read one value, and the graph's outputs, have the other, which gets its name."""
        name = old.name
        old.name = self._free(f"{name}.line")
        new.name = name
        old.replace_all_uses_with(new, replace_graph_outputs=True)

    def _initializer(self, array: np.ndarray, name: str) -> ir.Value:
        name = self._free(name)
        tensor = ir.tensor(np.ascontiguousarray(array), name=name)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def _free(self, name: str) -> str:
        """The name, or one like it that nothing else has."""
        base, number = name, 0
        while name in self.taken:
            number += 1
            name = f"{base}.{number}"
        self.taken.add(name)
        return name


def _of_numbers(node: ir.Node) -> bool:
    """Whether a conversion has one scale for all elements."""
    return all(value is None or value.shape in ((), (1,)) for value in node.inputs[1:])


def _with_row(shape: ir.Shape | None) -> ir.Shape | None:
    return None if shape is None or len(shape) != RANK else ir.Shape([*shape[:ROW], 1, *shape[ROW:]])
