"""ONNX to Relax: walk the graph once, asking a converter for every node.

Why the graph is lowered here and not by TVM's importer as a whole: the importer turns everything between
DequantizeLinear and QuantizeLinear into float32 arithmetic before a pass of ours could see it, and TVM's
ConvertLayout leaves depthwise convolutions and odd channel counts in NCHW. So Q/DQ regions and layouts are
decided while the ONNX graph, with its producers and consumers, is still there. Operators that need neither
go through TVM's converters, one node at a time.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from tvm import relax

from optkit.artifact.spec import storage
from optkit.compiler.extent_order import order_made_extents
from optkit.compiler.lowering import Converter, Lowering, Node, NodeRecord, Sites
from optkit.compiler.operator import Operator
from optkit.compiler.planning import Records
from optkit.compiler.subgraphs import abandon, settled
from optkit.compiler.values import PLAIN, Value
from optkit.compiler.windows_fit import least_extents, spatial
from optkit.errors import CompileError, OptkitError, UnsupportedError
from optkit.shape_ranges import Least
from optkit.target import Target

_STEPS = ("QuantizeLinear", "DynamicQuantizeLinear", "Floor", "Ceil", "Round", "Mod", "Equal")
_NAMED = 5
"""So many nodes that cannot be compiled are named in one error."""


@dataclass
class Lowered:
    """A Relax module with the model's inputs as parameters of `main`."""

    module: Any
    input_names: list[str]
    output_names: list[str]
    records: list[NodeRecord]
    operators: dict[Operator, Sites] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    """The node that a variable of the module belongs to, by the variable's name."""
    narrow: dict[str, str] = field(default_factory=dict)
    """Types of the inputs and outputs that the module has as bytes (see `optkit.artifact.spec.storage`)."""
    least: dict[str, Least] = field(default_factory=dict)
    """What open axes have to be at least, by name."""


def lower(model: ir.Model, target: Target, tuned: Records | None = None) -> Lowered:
    """Lower a whole model.

    Args:
        tuned: plans that were measured, which go before the analytical model's.

    Raises:
        UnsupportedError: a node has no converter; names it.
        CompileError: a converter failed; names the node and what it said.
    """
    from optkit.compiler.converters import convert
    from optkit.compiler.lines import lines_as_images
    from optkit.compiler.products import merge_products

    order_made_extents()
    graph = model.graph
    rounded = any(node.op_type == "QuantizeLinear" for node in graph)
    stepped = any(_steps(node) for inner in model.graphs() for node in inner)
    low = Lowering(target, rounded, stepped, tuned)
    low.opset = model.opset_imports.get("", 18)
    graph = merge_products(low, lines_as_images(model)).graph
    parameters = []
    names: set[str] = set()
    for value in graph.inputs:
        if value.name in graph.initializers:
            continue
        if value.dtype == ir.DataType.STRING or isinstance(value.type, ir.SequenceType | ir.OptionalType):
            raise UnsupportedError(f"input {value.name!r} is {value.type}; only tensors of numbers can be inputs")
        if value.shape is None or value.dtype is None:
            raise UnsupportedError(f"input {value.name!r} has no shape or type; give it with --input-shape")
        shape = [low.dimension(d, f"input {value.name!r}") for d in value.shape]
        safe = "".join(c if c.isalnum() else "_" for c in value.name or "x")
        while safe in names:
            safe += "_"
        names.add(safe)
        dtype = value.dtype.numpy().name
        var = relax.Var(f"i_{safe}", relax.TensorType(shape, storage(dtype)))
        parameters.append(var)
        low.values[value] = Value(low, tuple(shape), dtype, {PLAIN: var})
    constants(low, graph)
    with low.bb.function("main", parameters):
        try:
            with low.bb.dataflow():
                _lower_nodes(low, graph, convert)
                low.node = low.label = "output"
                results = [_result(low, output) for output in graph.outputs]
                body = low.bb.emit_output(relax.Tuple(results))
        except Exception:
            abandon(low.bb)
            raise
        low.bb.emit_func_output(body)
    inputs = [v.name or "" for v in graph.inputs if v.name not in graph.initializers]
    ends = ((v.name or "", low.values[v].dtype) for v in (*graph.inputs, *graph.outputs) if v in low.values)
    narrow = {name: dtype for name, dtype in ends if storage(dtype) != dtype}
    outputs = [v.name or "" for v in graph.outputs]
    least = least_extents(low.needs, low.symbols)
    return Lowered(low.bb.get(), inputs, outputs, low.records, low.operators, low.names, narrow, least)


def _steps(node: ir.Node) -> bool:
    """Whether the node's result jumps at whole numbers: it counts, compares or truncates."""
    if node.op_type == "Cast":
        source, to = node.inputs[0], node.attributes.get("to")
        real = source is None or source.dtype is None or source.dtype.is_floating_point()
        return real and to is not None and ir.DataType(to.as_int()).is_integer()
    return node.op_type in _STEPS


def _result(low: Lowering, output: ir.Value) -> Any:
    try:
        return low.tensor(low.values[output])
    except UnsupportedError as error:
        raise UnsupportedError(f"output {output.name!r} of the model: {error}") from error


def constants(low: Lowering, graph: ir.Graph) -> None:
    """Know a graph's initializers."""
    for initializer in graph.initializers.values():
        if initializer.const_value is None:
            raise UnsupportedError(f"initializer {initializer.name!r} has no data")
        array = initializer.const_value.numpy()
        low.values[initializer] = Value(low, tuple(array.shape), array.dtype.name, const=array)


def _lower_nodes(low: Lowering, graph: ir.Graph, convert: Converter) -> None:
    """Every node; what cannot be compiled is collected, so that one error names all such nodes."""
    from optkit.compiler.converters.attention import lower_attention
    from optkit.compiler.converters.attention_sites import attends, find_attention

    problems: list[str] = []
    names: list[str] = []
    attention = find_attention(low, graph)
    inner = {node for match in attention.values() for node in match.inner}
    for node in graph:
        if node in inner:
            continue
        match = attention.get(node)
        if match is not None and not problems and attends(low, match):
            lower_node(low, node, low.opset, functools.partial(lower_attention, match), [])
            continue
        for step in (*(match.inner if match is not None else ()), node):
            if problems and any(v is not None and v not in low.values for v in step.inputs):
                continue
            try:
                lower_node(low, step, low.opset, convert)
                made = [low.values[v] for v in step.outputs if v in low.values]
                low.needs += [(low.label, extent) for extent in spatial(step.op_type, made)]
            except UnsupportedError as error:
                problems.append(str(error))
                names.append(step.name or "")
    if problems:
        more = f"; and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise UnsupportedError("; ".join(problems[:_NAMED]) + more, names)


def lower_node(
    low: Lowering, node: ir.Node, opset: int, convert: Converter, inputs: list[Value | None] | None = None
) -> None:
    """One node, by a converter.

    Args:
        inputs: what the converter is given; by default what the node reads.
    """
    low.label = node.name or node.op_type
    low.node = "".join(c if c.isalnum() else "_" for c in low.label)
    view = Node(
        name=node.name or "",
        op_type=node.op_type,
        domain=node.domain,
        attributes={a.name: _attribute(a) for a in node.attributes.values()},
        outputs=len(node.outputs),
        opset=opset,
        compute_type=node.metadata_props.get("optkit.compute_type", ""),
        source=node,
    )
    if inputs is None:
        inputs = [None if v is None else low.values[v] for v in node.inputs]
    try:
        result = convert(low, view, inputs)
        if result is None:
            raise UnsupportedError(f"operator {node.domain or 'ai.onnx'}::{node.op_type} is not supported")
        results = [result] if isinstance(result, Value) else list(result)
        for output, value in zip(node.outputs, results, strict=False):
            low.values[output] = settled(low, value, output)
    except UnsupportedError as error:
        if "node '" in str(error):
            raise
        raise UnsupportedError(f"node {view.name!r} ({node.op_type}): {error}") from error
    except OptkitError:
        raise
    except Exception as error:
        text = str(error).strip().splitlines()
        reason = text[-1] if text else type(error).__name__
        raise CompileError(f"cannot lower node {node.name!r} ({node.op_type}): {reason}") from error


def _attribute(attribute: ir.Attr) -> Any:
    value = attribute.value
    if attribute.type == ir.AttributeType.TENSOR:
        return np.asarray(value.numpy())
    return value


__all__ = ["Lowered", "constants", "lower", "lower_node"]
