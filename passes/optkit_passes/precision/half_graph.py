"""Rewriting a graph to float16 with Casts between what is converted and what is not."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import onnx_ir as ir

from optkit_passes.graph import add_constant, constant, is_op

_HALF, _FULL = "tensor(float16)", "tensor(float)"
_QUANTIZATION = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")


@functools.cache
def _schema(domain: str, op_type: str, opset: int) -> onnx.defs.OpSchema | None:
    if not onnx.defs.has(op_type, opset, domain):
        return None
    return onnx.defs.get_schema(op_type, opset, domain)


def _formals(schema: onnx.defs.OpSchema, count: int, *, outputs: bool = False) -> list[str]:
    """The type text (a parameter such as "T", or a literal) of each of `count` inputs or outputs."""
    declared = [formal.type_str for formal in (schema.outputs if outputs else schema.inputs)]
    return [declared[min(i, len(declared) - 1)] for i in range(count)] if declared else []


def _allowed(schema: onnx.defs.OpSchema, type_text: str) -> set[str]:
    for parameter in schema.type_constraints:
        if parameter.type_param_str == type_text:
            return set(parameter.allowed_type_strs)
    return {type_text}


def why_no_half(node: ir.Node, opset: int) -> str | None:
    """Why ONNX or the shape of the graph rules float16 out for this node; None where it is possible."""
    if any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()):
        return "it holds a subgraph"
    if is_op(node, *_QUANTIZATION):
        return "it is part of the quantization"
    schema = _schema(node.domain, node.op_type, opset)
    if node.domain not in ("", "ai.onnx.ml") or schema is None:
        return f"nothing is known about operators of domain {node.domain!r}"
    for value in (*node.inputs, *node.outputs):
        if value is not None and value.type is not None and not isinstance(value.type, ir.TensorType):
            return "it works on sequences or optional values"
    if is_op(node, "Cast"):
        # Integers computed in float32 (indices, sizes) past 2048 are not whole in float16.
        return None if node.attributes.get_int("to") == ir.DataType.FLOAT.value else "it converts to another type"
    for value, formal in zip(node.inputs, _formals(schema, len(node.inputs)), strict=False):
        if value is not None and value.dtype == ir.DataType.FLOAT and _HALF in _allowed(schema, formal):
            return None
    return "ONNX does not define it for float16"


class HalfGraph:
    """The main graph of a model while its nodes are moved to float16, one Cast a value at most each way."""

    def __init__(self, model: ir.Model) -> None:
        self.model, self.graph = model, model.graph
        self._as_half: dict[ir.Value, ir.Value] = {}
        self._as_full: dict[ir.Value, ir.Value] = {}

    def convert(self, stay: set[ir.Node]) -> int:
        """Convert every node with float inputs or results that is not in `stay`; returns how many."""
        converted = 0
        outputs = list(self.graph.outputs)
        opsets = self.model.opset_imports
        # Decided for all before any changes: the question is about float32 values.
        half = {
            node for node in self.graph if node not in stay and why_no_half(node, opsets.get(node.domain, 0)) is None
        }
        for node in list(self.graph):
            if node not in half:
                self._feed_full(node)
            elif self._feed_half(node, opsets.get(node.domain, 0)):
                converted += 1
        for index, value in enumerate(outputs):
            if value.dtype == ir.DataType.FLOAT16 and value in self._as_full:
                self._output(index, value)
        return converted

    def _feed_full(self, node: ir.Node) -> None:
        """Give a node that stays, and the subgraphs in it, float32 versions of what has become float16."""
        for index, value in enumerate(node.inputs):
            if value in self._as_full:
                node.replace_input_with(index, self._full(value))
        for inner in _inside(node):
            for index, value in enumerate(inner.inputs):
                if value in self._as_full:
                    inner.replace_input_with(index, self._full(value))

    def _feed_half(self, node: ir.Node, opset: int) -> bool:
        schema = _schema(node.domain, node.op_type, opset)
        if schema is None:
            return False
        parameters = set()
        formals = _formals(schema, len(node.inputs))
        for index, (value, formal) in enumerate(zip(list(node.inputs), formals, strict=False)):
            if value is None or not (value in self._as_full or value.dtype == ir.DataType.FLOAT):
                continue
            if _HALF in _allowed(schema, formal):
                node.replace_input_with(index, self._half(value))
                parameters.add(formal)
            elif value in self._as_full:
                node.replace_input_with(index, self._full(value))
        if is_op(node, "Cast"):
            node.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT16.value)
            parameters.add(_formals(schema, 1, outputs=True)[0])
        for value, formal in zip(node.outputs, _formals(schema, len(node.outputs), outputs=True), strict=False):
            if value.dtype == ir.DataType.FLOAT and formal in parameters:
                value.type = ir.TensorType(ir.DataType.FLOAT16)  # a new one: clones of the model share the old
                self._as_full[value] = value  # no Cast yet; `_full` makes one when it is asked for
        return bool(parameters)

    def _half(self, value: ir.Value) -> ir.Value:
        """`value` in float16: itself, a converted constant, or a Cast right behind where it is computed."""
        if value in self._as_full:
            return value
        if value not in self._as_half:
            array = constant(value)
            if array is not None:
                with np.errstate(over="ignore"):
                    small = array.astype(np.float16)
                made = add_constant(self.graph, f"{value.name}_fp16", small)
            else:
                made = self._cast(value, ir.DataType.FLOAT16, "fp16")
            self._as_half[value] = made
        return self._as_half[value]

    def _full(self, value: ir.Value) -> ir.Value:
        """A float32 version of a value that has become float16."""
        if self._as_full[value] is value:
            self._as_full[value] = self._cast(value, ir.DataType.FLOAT, "fp32")
        return self._as_full[value]

    def _cast(self, value: ir.Value, kind: ir.DataType, suffix: str) -> ir.Value:
        node = ir.node("Cast", [value], {"to": ir.AttrInt64("to", kind.value)})
        node.name = f"{value.name}_to_{suffix}"
        made = node.outputs[0]
        made.name, made.type, made.shape = f"{value.name}_{suffix}", ir.TensorType(kind), value.shape
        producer = value.producer()
        if producer is not None:
            self.graph.insert_after(producer, node)
        elif len(self.graph):
            self.graph.insert_before(self.graph[0], node)
        return made

    def _output(self, index: int, value: ir.Value) -> None:
        """An output of the model is float32 and keeps its name; the float16 value gets another."""
        made, name = self._full(value), value.name
        value.name = f"{name}_fp16"
        made.name = name
        self.graph.outputs[index] = made


def _inside(node: ir.Node) -> list[ir.Node]:
    """All nodes of the subgraphs of `node`."""
    found: list[ir.Node] = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            graphs = [attribute.as_graph()]
        elif attribute.type == ir.AttributeType.GRAPHS:
            graphs = list(attribute.as_graphs())
        else:
            continue
        for graph in graphs:
            found.extend(ir.traversal.RecursiveGraphIterator(graph))
    return found
