"""Operators that ONNX defines by other operators, replaced by that definition when a model is loaded.

Many operators carry a function body in their schema; some bodies depend on the node's attributes and on the
types of its inputs. A node is replaced where the compiler has no kernel for the operator itself: what its body
consists of is folded, fused and quantized like any other part of the graph. Operators of com.microsoft and of
ai.onnx.preview.training have bodies of ours (`optkit.bodies`), written with the same meaning.
"""

from __future__ import annotations

import logging
from typing import Any

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from optkit.bodies import own_body
from optkit.opset import MINIMUM_OPSET
from optkit.tidy import infer_shapes

__all__ = ["KEPT", "expand_functions", "spell_defaults"]

KEPT = frozenset(
    {
        *("AffineGrid", "Bernoulli", "BlackmanWindow", "CastLike", "CenterCropPad", "Clip", "DepthToSpace"),
        *("DynamicQuantizeLinear", "Elu", "Gelu", "GreaterOrEqual", "GroupNormalization", "HammingWindow"),
        *("HannWindow", "HardSigmoid", "HardSwish", "LayerNormalization", "LeakyRelu", "LessOrEqual"),
        *("LogSoftmax", "MeanVarianceNormalization", "Mish", "NegativeLogLikelihoodLoss", "PRelu"),
        *("RMSNormalization", "Range", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp"),
        *("ReduceSumSquare", "Relu", "Selu", "SequenceMap", "Shrink", "Softmax", "SoftmaxCrossEntropyLoss"),
        *("Softplus", "Softsign", "SpaceToDepth", "ThresholdedRelu"),
    }
)
"""Functions of ONNX that the compiler has converters for: faster than their bodies, more accurate, or able to
take at run time what the body needs at compile time."""

_MARK = "optkit-body-"
_log = logging.getLogger(__name__)


def expand_functions(model: ir.Model) -> int:
    """Replace nodes by the bodies of their operators, in place; returns how many.

    Every node of a body is named after the node it stands for: `attention_0/MatMul`. Operators in `KEPT` stay, and so
    does a node whose body cannot be had: its operator is then judged like any other.
    """
    total = 0
    while True:
        found = [n for n in ir.traversal.RecursiveGraphIterator(model.graph) if _wanted(n, model)]
        if not found:
            break
        model.opset_imports.setdefault("", MINIMUM_OPSET)
        if any(_needs_types(node) for node in found):
            infer_shapes(model)
        done = 0
        for number, node in enumerate(found):
            function = _function(node, model.opset_imports)
            if function is None:
                continue
            node.overload = f"{_MARK}{number}"
            _prepare(function, node, model.opset_imports)
            model.functions[node.op_identifier()] = function
            done += 1
        if not done:
            break
        common.InlinePass(criteria=lambda f: f.overload.startswith(_MARK))(model)
        total += done
    if total:
        common.RemoveUnusedNodesPass()(model)
    return total


def spell_defaults(model: ir.Model) -> None:
    """Write down the default attributes of nodes whose shapes ONNX infers through their body.

    Its inference does not fill them in, and fails (onnx 1.23, MeanVarianceNormalization without `axes`).
    """
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        schema = _schema(node, model.opset_imports)
        if schema is not None and schema.has_function and not schema.has_type_and_shape_inference_function:
            _spell(node, schema)


def _spell(node: ir.Node, schema: Any) -> None:
    for name, attribute in schema.attributes.items():
        if name not in node.attributes and attribute.default_value.type:
            node.attributes[name] = ir.serde.deserialize_attribute(attribute.default_value)


def _schema(node: ir.Node, imports: dict[str, int]) -> Any:
    # onnx's stubs leave out what it knows of functions.
    version = imports.get(node.domain)
    if version is None or not onnx.defs.has(node.op_type, version, node.domain):
        return None
    return onnx.defs.get_schema(node.op_type, version, node.domain)


def _wanted(node: ir.Node, model: ir.Model) -> bool:
    if own_body(node) is not None:
        return True
    if (not node.domain and node.op_type in KEPT) or node.op_identifier() in model.functions:
        return False
    schema = _schema(node, model.opset_imports)
    return schema is not None and bool(schema.has_function or schema.has_context_dependent_function)


def _needs_types(node: ir.Node) -> bool:
    return any(v is not None and (v.type is None or v.shape is None) for v in node.inputs)


def _function(node: ir.Node, imports: dict[str, int]) -> ir.Function | None:
    """The body of a node's operator for this node; None where there is none."""
    build = own_body(node)
    if build is not None:
        return build(node)
    schema = _schema(node, imports)
    if schema is None:
        return None
    version = imports[node.domain]
    if schema.has_function:
        proto = onnx.FunctionProto.FromString(schema.get_function_with_opset_version(version))
        _spell(node, schema)
    else:
        types = [_type(value).SerializeToString() for value in node.inputs]
        call = ir.to_proto(node)
        try:
            text = schema.get_context_dependent_function_with_opset_version(version, call.SerializeToString(), types)
        except Exception as error:  # the bindings raise many kinds
            _log.info("node %s: no body for this %s: %s", node.name, node.op_type, error)
            return None
        proto = onnx.FunctionProto.FromString(text)
        # What its subgraph attributes say is in the body.
        for name in [a.name for a in node.attributes.values() if a.type in _GRAPHS]:
            node.attributes.pop(name)
    if not proto.node or not all(_fits(n, imports) for n in proto.node):
        _log.info("node %s: the body of %s does not fit opset %s", node.name, node.op_type, version)
        return None
    _close(proto, node)
    return ir.serde.deserialize_function(proto)


def _close(proto: onnx.FunctionProto, node: ir.Node) -> None:
    """Leave the outputs that the node has; those nobody reads need not be computed by the body, but must exist."""
    del proto.output[len(node.outputs) :]
    made = {name for n in proto.node for name in n.output}
    for name in proto.output:
        if name not in made:
            proto.node.append(onnx.helper.make_node("Identity", [proto.input[0]], [name]))


_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def _fits(node: onnx.NodeProto, imports: dict[str, int]) -> bool:
    """Whether a body written for an older operator set means the same in the model's: same inputs, same attributes."""
    version = imports.get(node.domain, imports.get("", 0) if not node.domain else 1)
    if not onnx.defs.has(node.op_type, version, node.domain):
        return False
    schema = onnx.defs.get_schema(node.op_type, version, node.domain)
    return len(node.input) <= schema.max_input and all(a.name in schema.attributes for a in node.attribute)


def _type(value: ir.Value | None) -> onnx.TypeProto:
    """A value's type as the schemas' body builders take it; empty for an input that is not there."""
    if value is None or value.dtype is None:
        return onnx.TypeProto()
    shape = None if value.shape is None else [d if isinstance(d, int) else d.value for d in value.shape]
    return onnx.helper.make_tensor_type_proto(int(value.dtype), shape)


def _prepare(function: ir.Function, node: ir.Node, imports: dict[str, int]) -> None:
    """Name everything after the node, so that reports and kernels lead back to it."""
    function.name, function.domain, function.overload = node.op_type, node.domain, node.overload
    prefix = node.name or node.op_type
    for inner in ir.traversal.RecursiveGraphIterator(function):
        inner.name = f"{prefix}/{inner.op_type}"
        for output in inner.outputs:
            output.name = f"{prefix}/{output.name}"
    function.opset_imports.clear()
    function.opset_imports.update(imports)
