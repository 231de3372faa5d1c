"""The value of what is computed from constants alone, such as a scale that an exporter divides at run time.

`fold` would do, but it comes after this pass: it turns integer weights that are cast and multiplied into floats.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from optkit_passes.graph import constant, is_op

_OPERATORS = (
    *("Identity", "Cast", "CastLike", "Add", "Sub", "Mul", "Div", "Reciprocal", "Neg", "Abs", "Pow", "Sqrt"),
    *("Round", "Floor", "Ceil", "Clip", "Min", "Max", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten"),
    *("QuantizeLinear", "DequantizeLinear", "Expand", "ConstantOfShape", "Shape"),
)
_LIMIT = 1 << 26
"""Elements; a larger constant is no weight that anybody would want to compute."""


def evaluate(value: ir.Value | None) -> np.ndarray | None:
    """The array of a constant or of what a few operators make of constants; None for anything else."""
    found = constant(value)
    if found is not None or value is None:
        return found
    node = value.producer()
    if node is None or not is_op(node, *_OPERATORS) or len(node.outputs) != 1 or any(g for g in _bodies(node)):
        return None
    if not _constant_cone(node):
        return None
    inputs = [None if v is None else evaluate(v) for v in node.inputs]
    if any(a is None and v is not None for a, v in zip(inputs, node.inputs, strict=True)):
        return None
    if any(a is not None and math.prod(a.shape) > _LIMIT for a in inputs):
        return None
    return _run(node, inputs)


def scalar_of(value: ir.Value | None) -> float | None:
    """The one number that a constant expression holds; None where it is none or holds several."""
    array = evaluate(value)
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None


def _bodies(node: ir.Node) -> list[str]:
    return [a.name for a in node.attributes.values() if a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)]


def _constant_cone(node: ir.Node) -> bool:
    """Whether everything that the node is computed from is constant, found without computing any of it."""
    seen: set[ir.Node] = set()
    todo = [node]
    while todo:
        current = todo.pop()
        if current in seen:
            continue
        seen.add(current)
        if not is_op(current, *_OPERATORS, "Constant"):
            return False
        for value in current.inputs:
            if value is None or constant(value) is not None:
                continue
            producer = value.producer()
            if producer is None:
                return False
            todo.append(producer)
    return True


def _run(node: ir.Node, inputs: list[np.ndarray | None]) -> np.ndarray | None:
    """One node by onnx's reference evaluator; None where that has no answer."""
    proto = ir.serde.serialize_node(node)
    given = {name: array for name, array in zip(proto.input, inputs, strict=True) if array is not None}
    declared = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in given.items()
    ]
    output = onnx.helper.make_empty_tensor_value_info(proto.output[0])
    graph = onnx.helper.make_graph([proto], "constant", declared, [output])
    opset = 21 if node.graph is None else _opset(node.graph)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    try:
        (result,) = ReferenceEvaluator(model).run(None, given)
    except Exception:  # it raises whatever comes, for what it does not know
        return None
    return np.asarray(result)


def _opset(graph: ir.Graph | ir.Function) -> int:
    return int(graph.opset_imports.get("", 21))


__all__ = ["evaluate", "scalar_of"]
