"""The state of one walk over an ONNX graph, and what converters see of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx_ir as ir
import tvm
from tvm import relax, tirx

from optkit.compiler.canonical import canonical
from optkit.compiler.operator import TENSOR_FLOAT, Operator, Plan
from optkit.compiler.planning import Records, default_plan
from optkit.compiler.values import PLAIN, Value, dims
from optkit.errors import UnsupportedError
from optkit.target import Target

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


class Lowering:
    """State of one walk.

    Attributes:
        rounded: round every element-wise product and quotient where it stands, because a QuantizeLinear may
            follow and would turn another rounding into another integer.
        needs: extents of the model's own graph that have to be 1 or more, with the names of their nodes.
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
        self.needs: list[tuple[str, Any]] = []
        self.node = self.label = ""
        self.names: dict[str, str] = {}
        self.opset = 18

    def emit(
        self,
        define: Callable[..., Any],
        *args: Any,
        name: str,
        kind: int | None = None,
        marks: Mapping[str, int] | None = None,
    ) -> Any:
        """Emit a call of the tensor expression `define(*args)`; Relax expressions among `args` become tensors.

        Args:
            kind: TVM's kind of operator, for fusion.
            marks: more attributes of the kernel.
        """
        tensors = [a for a in args if isinstance(a, relax.Expr)]

        def body(*given: Any) -> Any:
            rest = iter(given)
            return define(*[next(rest) if isinstance(a, relax.Expr) else a for a in args])

        attrs = {**({} if kind is None else {"op_pattern": kind}), **(marks or {})}
        call = self.bb.call_te(body, *tensors, primfunc_name_hint=name, primfunc_attrs=attrs or None)
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
        return self._named(self.bb.emit(canonical(self.bb.normalize(expr)), self.node))

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
        from optkit.compiler.lower import constants, lower_node

        self.values.update(zip(graph.inputs, arguments, strict=True))
        constants(self, graph)
        for node in graph:
            lower_node(self, node, self.opset, convert)
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


__all__ = ["PARTS", "Converter", "Lowering", "Node", "NodeRecord", "Sites"]
