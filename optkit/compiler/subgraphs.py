"""Subgraphs of If, Loop and Scan as Relax functions of their own.

`main` stays one dataflow block, in which passes may fuse; control flow lives in private functions that it
calls. A function takes what its subgraph reads from outside as parameters; constants are constants inside
too, so that converters still see them. Extents that only types speak of come in as one shape.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
import tvm
import tvm_ffi
from tvm import relax, tirx
from tvm.relax.utils import copy_with_new_vars

from optkit.compiler.lists import Absent, TensorList
from optkit.compiler.values import PLAIN, Value, dims
from optkit.errors import UnsupportedError

if TYPE_CHECKING:
    from optkit.compiler.lowering import Lowering


@dataclass(frozen=True)
class Function:
    """A private function and the extents its types need beside its arguments."""

    var: Any
    extents: tuple[Any, ...]

    def call(self, arguments: Sequence[Any]) -> Any:
        """A call, not yet bound."""
        return call(self.var, self.extents, arguments)


def call(var: Any, extents: Sequence[Any], arguments: Sequence[Any]) -> Any:
    """A call of a global variable, extents first."""
    shapes = [relax.ShapeExpr(list(extents))] if extents else []
    return tvm.ir.Call(var, [*shapes, *arguments], None, None)


def define(
    low: Lowering,
    name: str,
    types: Sequence[Any],
    body: Callable[[list[Any]], Any],
    dataflow: bool = False,
    extents: Sequence[Any] | None = None,
) -> Function:
    """Add a private function of parameters of these types; `body` gets them and returns the result.

    Args:
        extents: take exactly these beside the parameters, and not those found to be needed.
    """
    params = [relax.Var(f"p{i}", t) for i, t in enumerate(types)]
    bb, node, symbols = low.bb, low.node, dict(low.symbols)
    with bb.function(bb.get_unique_name(name), params, private=True):
        try:
            with bb.dataflow() if dataflow else contextlib.nullcontext():
                result = body(params)
                result = bb.emit_output(result) if dataflow else bb.emit(result)
        except Exception:
            abandon(bb)
            raise
        finally:
            low.node, low.symbols = node, symbols
        var = bb.emit_func_output(result)
    function = bb.get()[var]
    needed = tuple(relax.analysis.free_symbolic_vars(function)) if extents is None else tuple(extents)
    if needed:
        shape = relax.Var("extents", relax.ShapeType(list(needed)))
        function = relax.Function([shape, *params], function.body, function.ret_ty, function.is_pure)
        var = bb.add_func(copy_with_new_vars(function), name)
    else:
        bb.update_func(var, copy_with_new_vars(function))
    return Function(var, needed)


def abandon(bb: Any) -> None:
    """Close the function that an exception leaves open in the builder."""
    bb._end_block()
    bb.end_scope()


def outer_values(*graphs: ir.Graph) -> list[ir.Value]:
    """What graphs, with the subgraphs in them, read and do not compute themselves, in order of first use."""
    found: dict[ir.Value, None] = {}

    def visit(graph: ir.Graph, known: set[ir.Value]) -> None:
        known = known | set(graph.inputs) | set(graph.initializers.values())
        for node in graph:
            found.update((v, None) for v in node.inputs if v is not None and v not in known)
            for attribute in node.attributes.values():
                for nested in subgraphs(attribute):
                    visit(nested, known)
            known |= set(node.outputs)
        found.update((v, None) for v in graph.outputs if v not in known)

    for graph in graphs:
        visit(graph, set())
    return list(found)


def subgraphs(attribute: ir.Attr) -> tuple[ir.Graph, ...]:
    """The graphs in an attribute."""
    if attribute.type == ir.AttributeType.GRAPH:
        return (attribute.value,)
    return tuple(attribute.value) if attribute.type == ir.AttributeType.GRAPHS else ()


class Captured:
    """Outer values of subgraphs: arguments where they are called, parameters inside."""

    def __init__(self, low: Lowering, *graphs: ir.Graph) -> None:
        self.low = low
        self.values = {v: low.values[v] for v in outer_values(*graphs)}
        self.arguments: list[Any] = []
        for value in self.values.values():
            self._collect(value)

    @property
    def types(self) -> list[Any]:
        """Types of the arguments."""
        return [a.ty for a in self.arguments]

    def _collect(self, value: Value) -> None:
        if isinstance(value, TensorList):
            for item in value.items:
                self._collect(item)
        elif not isinstance(value, Absent) and value.const is None and _known_shape(value) is None:
            expr = value.plain()
            if isinstance(expr.ty, relax.ShapeType):
                expr = self.low.bind(relax.op.shape_to_tensor(expr))
            self.arguments.append(expr if isinstance(expr, relax.Var) else self.low.bind(expr))

    @contextlib.contextmanager
    def inside(self, params: Sequence[Any]) -> Iterator[None]:
        """Within the block, outer values are these parameters."""
        rest = iter(params)
        before = self.low.values
        self.low.values = {v: self._inner(value, rest) for v, value in self.values.items()}
        try:
            yield
        finally:
            self.low.values = before

    def _inner(self, value: Value, rest: Iterator[Any]) -> Value:
        if isinstance(value, TensorList):
            return TensorList(self.low, [self._inner(item, rest) for item in value.items])
        if isinstance(value, Absent) or value.const is not None:
            return value
        known = _known_shape(value)
        if known is not None:
            return Value(self.low, (len(known),), "shape", {PLAIN: relax.ShapeExpr(known)})
        return tensor_value(self.low, next(rest), value.dtype)


def _known_shape(value: Value) -> Any:
    """The extents of a shape value, which need no argument of their own; None for a tensor."""
    return getattr(value.plain().ty, "values", None) if value.dtype == "shape" else None


def tensor_value(low: Lowering, expr: Any, dtype: str = "") -> Value:
    """A Value around a variable; `dtype` where the logical type is narrower than what is stored."""
    stored = str(expr.ty.dtype)
    shape = expr.ty.shape
    known = None if shape is None else dims(shape.values)
    return Value(low, known, stored if dtype in ("", "shape") else dtype, {PLAIN: expr})


def scalar(low: Lowering, value: Value) -> Any:
    """A tensor of one element without axes."""
    if value.const is not None:
        return relax.const(value.const.reshape(()), value.dtype)
    expr = low.tensor(value)
    return expr if len(expr.ty.shape.values) == 0 else low.bind(relax.op.reshape(expr, ()))


def refine(low: Lowering, expr: Any, shape: Sequence[Any], dtype: str) -> Value:
    """A Value of exactly that shape; checked when the model runs where types do not say so."""
    known = expr.ty.shape
    if known is None or not same(dims(known.values), shape):
        expr = low.bb.match_cast(expr, relax.TensorType(list(shape), expr.ty.dtype), low.node)
    return Value(low, tuple(shape), dtype, {PLAIN: expr})


def settled(low: Lowering, value: Value, declared: ir.Value) -> Value:
    """The value, its extents named where only its rank is known."""
    if type(value) is not Value or list(value.forms) != [PLAIN] or not isinstance(value.plain().ty, relax.TensorType):
        return value
    expr = value.plain()
    if expr.ty.shape is not None:
        return value
    rank = expr.ty.ndim if expr.ty.ndim >= 0 else None if declared.shape is None else len(declared.shape)
    if rank is None:
        raise UnsupportedError("the rank of its result is known only when the model runs; fix the shapes before it")
    return refine(low, expr, [settle(low, declared, axis) for axis in range(rank)], value.dtype)


def same(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """Whether two shapes are equal whatever the model runs on."""
    return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))


def equal(a: Any, b: Any) -> bool:
    """Whether two extents are."""
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    return bool(tvm_ffi.structural_equal(_expr(a), _expr(b)))


def _expr(extent: Any) -> Any:
    return tirx.const(extent, "int64") if isinstance(extent, int) else extent


def settle(low: Lowering, declared: ir.Value, axis: int) -> Any:
    """An extent found when the model runs: what the model declares for it, else a new symbol."""
    size = declared.shape[axis] if declared.shape is not None and axis < len(declared.shape) else None
    if isinstance(size, int):
        return size
    name = size.value if isinstance(size, ir.SymbolicDim) else None
    if name is None:
        return tirx.Var("".join(c if c.isalnum() else "_" for c in f"{declared.name or low.node}_{axis}"), "int64")
    return low.dimension(size, declared.name or "")


__all__ = [
    "Captured",
    "Function",
    "abandon",
    "call",
    "define",
    "equal",
    "outer_values",
    "refine",
    "same",
    "scalar",
    "settle",
    "settled",
    "subgraphs",
    "tensor_value",
]
