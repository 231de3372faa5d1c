"""ONNX to Relax: walk the graph once, asking a converter for every node.

Why the graph is lowered here and not by TVM's importer as a whole: the importer turns everything between
DequantizeLinear and QuantizeLinear into float32 arithmetic before a pass of ours could see it, and TVM's
ConvertLayout leaves depthwise convolutions and odd channel counts in NCHW. So Q/DQ regions and layouts are
decided while the ONNX graph, with its producers and consumers, is still there. Operators that need neither
go through TVM's converters, one node at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx_ir as ir
import tvm
from tvm import relax, tirx

from optkit.artifact.spec import storage
from optkit.compiler.operator import TENSOR_FLOAT, Operator, Plan
from optkit.compiler.planning import Records, default_plan
from optkit.compiler.subgraphs import abandon, settled
from optkit.compiler.values import PLAIN, Value, dims
from optkit.errors import CompileError, OptkitError, UnsupportedError
from optkit.target import Target

_STEPS = ("QuantizeLinear", "DynamicQuantizeLinear", "Floor", "Ceil", "Round", "Mod", "Equal")
_NAMED = 5
"""So many nodes that cannot be compiled are named in one error."""
PARTS = "optkit.parts"
"""In the `meta` of a node that stands for several: their names, each with its share of the work."""


@dataclass
class NodeRecord:
    """What became of one node with multiply-accumulates: in which arithmetic, and why not in a narrower one."""

    node: str
    op_type: str
    compute: str
    macs: int
    reason: str = ""


@dataclass(frozen=True)
class Node:
    """A node as converters see it."""

    name: str
    op_type: str
    domain: str
    attributes: dict[str, Any]
    outputs: int
    opset: int
    compute_type: str
    source: ir.Node = field(repr=False)

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute's value or the default; strings are text."""
        return self.attributes.get(name, default)


Converter = Callable[["Lowering", Node, "list[Value | None]"], "Value | Sequence[Value] | None"]
"""Lowers a node, or returns None to leave it to the next converter."""


@dataclass
class Sites:
    """Where an operator occurs.

    Attributes:
        templates: those that may compute it, the direct one first.
        plan: what was decided.
        tuned: whether that was measured.
        nodes: names of the nodes, one an occurrence.
    """

    templates: tuple[str, ...]
    plan: Plan
    tuned: bool
    nodes: list[str] = field(default_factory=list)


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


class Lowering:
    """State of one walk.

    Attributes:
        rounded: round every element-wise product and quotient where it stands, because a QuantizeLinear may
            follow and would turn another rounding into another integer.
        stepped: some operator jumps where its input is a whole number, or compares it with one.
        tuned: plans that were measured; None: the analytical model decides everything.
    """

    def __init__(
        self, target: Target, rounded: bool = False, stepped: bool = False, tuned: Records | None = None
    ) -> None:
        self.target, self.rounded, self.stepped, self.tuned = target, rounded, stepped, tuned
        self.operators: dict[Operator, Sites] = {}
        self.bb = relax.BlockBuilder()
        self.values: dict[ir.Value, Value] = {}
        self.records: list[NodeRecord] = []
        self.symbols: dict[str, Any] = {}
        self.node = self.label = ""
        self.names: dict[str, str] = {}
        self.opset = 18

    def emit(self, define: Callable[..., Any], *args: Any, name: str, kind: int | None = None) -> Any:
        """Emit a call of the tensor expression `define(*args)`; Relax expressions among `args` become tensors."""
        tensors = [a for a in args if isinstance(a, relax.Expr)]

        def body(*given: Any) -> Any:
            rest = iter(given)
            return define(*[next(rest) if isinstance(a, relax.Expr) else a for a in args])

        attrs = None if kind is None else {"op_pattern": kind}
        call = self.bb.call_te(body, *tensors, primfunc_name_hint=name, primfunc_attrs=attrs)
        return self._named(self.bb.emit(call, self.node))

    def plan(self, operator: Operator, templates: Sequence[str]) -> Plan:
        """How an operator is computed, by one of these templates: as measured, or as the analytical model has it."""
        found = None if self.tuned is None else self.tuned.best(operator, self.target, templates)
        plan = found or default_plan(operator, self.target, templates)
        sites = self.operators.setdefault(operator, Sites(tuple(templates), plan, found is not None))
        sites.nodes.append(self.label)
        return plan

    def bind(self, expr: Any) -> Any:
        """Bind a Relax expression to a variable named after the node."""
        return self._named(self.bb.emit(expr, self.node))

    def _named(self, var: Any) -> Any:
        """Remember which node a variable belongs to; the builder makes names single by numbers at their ends."""
        self.names[str(var.name)] = self.label
        return var

    def clip(self, expr: Any, low: float, high: float) -> Any:
        """max(low) and min(high) where they are finite."""
        if low == 0.0:
            expr = self.bind(relax.op.nn.relu(expr))
        elif low != float("-inf"):
            expr = self.bind(relax.op.maximum(expr, relax.const(low, expr.ty.dtype)))
        if high != float("inf"):
            expr = self.bind(relax.op.minimum(expr, relax.const(high, expr.ty.dtype)))
        return expr

    def arithmetic(self, node: Node, dtype: str, misfit: str = "") -> tuple[str, str]:
        """The type that a node multiplies data of `dtype` in, and why it is not the one that its mark asks for.

        Args:
            misfit: why tensor cores do not take this product; "" where they do.
        """
        asked = node.compute_type or dtype
        if asked != TENSOR_FLOAT:
            return asked, ""
        if not self.target.has("tensor_fours"):
            misfit = "the target has no TF32"
        elif dtype != "float32":
            misfit = f"not in TF32: its type is {dtype}"
        elif misfit:
            misfit = f"not in TF32: {misfit}"
        return (dtype, misfit) if misfit else (TENSOR_FLOAT, "")

    def record(self, node: Node, compute: str, macs: int, reason: str = "") -> None:
        """Note the arithmetic a product runs in, or each of those that were merged into it."""
        parts = node.source.meta.get(PARTS, {node.name: 1})
        whole = sum(parts.values())
        for name, part in parts.items():
            self.records.append(NodeRecord(name, node.op_type, compute, macs * part // whole, reason))

    def revise(self, compute: str, reason: str) -> None:
        """Correct the last record: the algorithm that was chosen computes in another type."""
        self.records[-1] = replace(self.records[-1], compute=compute, reason=reason)

    def wrap(self, expr: Any) -> Value:
        """A Value for a plain Relax expression; constants become numpy arrays."""
        expr = self.bb.normalize(expr)
        if isinstance(expr, tvm.ir.GenericConst):
            array = expr.value.numpy()
            return Value(self, tuple(array.shape), array.dtype.name, const=array)
        if isinstance(expr, relax.Call):
            expr = self.bind(expr)
        ty = expr.ty
        if isinstance(ty, relax.TensorType):
            shape = None if ty.shape is None else dims(ty.shape.values if hasattr(ty.shape, "values") else ())
            return Value(self, shape, str(ty.dtype), {PLAIN: expr})
        values = getattr(ty, "values", None)
        if values is not None and all(isinstance(d, (int, tirx.IntImm)) for d in values):
            return Value(self, (len(values),), "int64", const=np.array([int(d) for d in values], np.int64))
        length = getattr(ty, "ndim", -1)
        return Value(self, (length,) if length >= 0 else None, "shape", {PLAIN: expr})

    def blocked(self, shape: Sequence[Any], dtype: str, block: int, expr: Any) -> Value:
        """A Value that lives in one layout."""
        return Value(self, tuple(shape), dtype, {block: expr})

    def tensor(self, value: Value) -> Any:
        """A value as a plain Relax tensor, shapes too."""
        expr = value.plain()
        return self.bind(relax.op.shape_to_tensor(expr)) if isinstance(expr.ty, relax.ShapeType) else expr

    def inline(self, graph: ir.Graph, arguments: Sequence[Value]) -> list[Value]:
        """Lower a graph where we are, given its inputs; its outputs."""
        from optkit.compiler.converters import convert

        self.values.update(zip(graph.inputs, arguments, strict=True))
        _constants(self, graph)
        for node in graph:
            _lower_node(self, node, self.opset, convert)
        return [self.values[output] for output in graph.outputs]

    def dimension(self, size: Any, where: str) -> Any:
        """A static extent, or the symbolic variable of a named axis."""
        if isinstance(size, int):
            return size
        name = size.value if isinstance(size, ir.SymbolicDim) else None
        if name is None:
            raise UnsupportedError(f"{where} has an axis with neither size nor name; fix it with --input-shape")
        if name not in self.symbols:
            safe = "".join(c if c.isalnum() else "_" for c in name)
            self.symbols[name] = tirx.Var(safe, "int64")
        return self.symbols[name]


def lower(model: ir.Model, target: Target, tuned: Records | None = None) -> Lowered:
    """Lower a whole model.

    Args:
        tuned: plans that were measured, which go before the analytical model's.

    Raises:
        UnsupportedError: a node has no converter; names it.
        CompileError: a converter failed; names the node and what it said.
    """
    from optkit.compiler.converters import convert
    from optkit.compiler.products import merge_products

    graph = model.graph
    rounded = any(node.op_type == "QuantizeLinear" for node in graph)
    stepped = any(_steps(node) for inner in model.graphs() for node in inner)
    low = Lowering(target, rounded, stepped, tuned)
    low.opset = model.opset_imports.get("", 18)
    graph = merge_products(low, model).graph
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
    _constants(low, graph)
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
    return Lowered(low.bb.get(), inputs, outputs, low.records, low.operators, low.names, narrow)


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


def _constants(low: Lowering, graph: ir.Graph) -> None:
    for initializer in graph.initializers.values():
        if initializer.const_value is None:
            raise UnsupportedError(f"initializer {initializer.name!r} has no data")
        array = initializer.const_value.numpy()
        low.values[initializer] = Value(low, tuple(array.shape), array.dtype.name, const=array)


def _lower_nodes(low: Lowering, graph: ir.Graph, convert: Converter) -> None:
    """Every node; what cannot be compiled is collected, so that one error names all such nodes."""
    from optkit.compiler.converters.attention import find_attention, lower_attention

    problems: list[str] = []
    names: list[str] = []
    attention = find_attention(low, graph)
    inner = {node for match in attention.values() for node in match.inner}
    for node in graph:
        if node in inner:
            continue
        if node in attention and not problems:
            _lower_node(low, node, low.opset, functools.partial(lower_attention, attention[node]), [])
            continue
        if problems and any(v is not None and v not in low.values for v in node.inputs):
            continue
        try:
            _lower_node(low, node, low.opset, convert)
        except UnsupportedError as error:
            problems.append(str(error))
            names.append(node.name or "")
    if problems:
        more = f"; and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise UnsupportedError("; ".join(problems[:_NAMED]) + more, names)


def _lower_node(
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


__all__ = ["Converter", "Lowered", "Lowering", "Node", "NodeRecord", "lower"]
