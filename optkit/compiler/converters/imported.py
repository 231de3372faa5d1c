"""Operators without kernels of our own: TVM's ONNX converters, one node at a time, on plain layouts."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend

from optkit.compiler.lowering import Lowering, Node
from optkit.compiler.values import Value

# Operators whose converter understands a shape where others need a tensor.
_SHAPE_READERS = frozenset(
    [
        "Reshape",
        "Resize",
        "ConstantOfShape",
        "Gather",
        "Slice",
        "Shape",
        "Expand",
        "Concat",
        "Equal",
        "Where",
        "Cast",
        "CastLike",
        "Squeeze",
    ]
)


@functools.cache
def convert_map() -> dict[str, Any]:
    """TVM's table of converters."""
    table: dict[str, Any] = onnx_frontend._get_convert_map()
    return table


def knows(op_type: str) -> bool:
    """Whether TVM has a converter for the operator."""
    return op_type in convert_map()


def _arguments(low: Lowering, node: Node, inputs: Sequence[Value | None]) -> Any:
    args = onnx_frontend.onnx_input()
    for value in inputs:
        expr = None if value is None else value.plain()
        if expr is not None and isinstance(expr.ty, relax.ShapeType) and node.op_type not in _SHAPE_READERS:
            expr = low.bind(relax.op.shape_to_tensor(expr))
        if isinstance(expr, relax.TupleGetItem):  # which the converters of TVM 0.27 take for a constant
            expr = low.bind(expr)
        args.append(expr)
    return args


def convert(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | Sequence[Value] | None:
    """Run TVM's converter for the node; None where it has none."""
    if not knows(node.op_type):
        return None
    parser = onnx_frontend.ONNXGraphImporter({}, "float32")
    attrs = parser._parse_attr(ir.serde.serialize_node(node.source).attribute)
    attrs["tvm_custom"] = {"name": low.node, "num_outputs": node.outputs}
    function = convert_map()[node.op_type].get_converter(node.opset)
    result = function(low.bb, _arguments(low, node, inputs), attrs, [{}, {}])
    if isinstance(result, relax.Tuple):
        return [low.wrap(e) for e in result.fields]
    result = low.bb.normalize(result)
    if isinstance(result.ty, relax.TupleType):
        bound = low.bind(result)
        return [low.wrap(relax.TupleGetItem(bound, i)) for i in range(len(result.ty.fields))]
    return low.wrap(result)
