"""Operands whose open extents are not known to be equal, made to agree before a converter sees them.

Two symbolic extents may be equal or, where an operator broadcasts, one of them may be 1; which it is shows when
the model runs. Relax keeps no shape for such a result, and makes no kernel for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import onnx_ir as ir
from tvm import relax, tirx
from tvm.sym import Analyzer

from optkit.compiler.converters.dynamic import runtime_extents
from optkit.compiler.converters.gates import hold
from optkit.compiler.lowering import Lowering, Node
from optkit.compiler.operators import shapes as define
from optkit.compiler.subgraphs import equal
from optkit.compiler.values import INJECTIVE, PLAIN, Dequantized, Value

_BROADCASTING = frozenset(
    [
        *["Add", "Sub", "Mul", "Div", "Mod", "Pow", "Max", "Min", "Sum", "Mean", "Where", "BitShift"],
        *["Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or", "Xor"],
        *["BitwiseAnd", "BitwiseOr", "BitwiseXor"],
    ]
)


def agree(low: Lowering, node: Node, inputs: list[Value | None]) -> list[Value | None]:
    """The inputs, those of element-wise operators, Concat and MatMul with extents that are the same expressions.

    A run whose extents do not agree is an error.
    """
    if node.op_type == "Concat" and _tensors(inputs):
        return _joined(low, node, inputs)
    if node.op_type == "MatMul" and _tensors(inputs):
        return _multiplied(low, node, inputs)
    if node.op_type not in _BROADCASTING:
        return inputs
    inputs = hold(low, inputs)
    return _broadcast(low, node, inputs) if _tensors(inputs) else inputs


def _tensors(inputs: Sequence[Value | None]) -> bool:
    """Whether there are several, each a tensor, of which some have open extents."""
    given = [v for v in inputs if v is not None]
    if len(given) < 2 or any(v.dtype in ("shape", "sequence") for v in given):
        return False
    return any(not isinstance(d, int) for v in given for d in v.shape)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    return equal(a, b) or bool(Analyzer().can_prove_equal(a, b))


def _is_one(extent: Any) -> bool:
    return isinstance(extent, int) and extent == 1


def _joined(low: Lowering, node: Node, inputs: list[Value | None]) -> list[Value | None]:
    """Parts of a Concat: all axes but one have one extent, which the model says."""
    given = [v for v in inputs if v is not None]
    rank = len(given[0].shape)
    axis = int(node.get("axis", 0)) % rank
    common = [next((v.shape[d] for v in given if isinstance(v.shape[d], int)), given[0].shape[d]) for d in range(rank)]
    return [None if v is None else _cast(low, v, [*common[:axis], v.shape[axis], *common[axis + 1 :]]) for v in inputs]


def _multiplied(low: Lowering, node: Node, inputs: list[Value | None]) -> list[Value | None]:
    """Stacks of matrices, of equal numbers along every axis or of one, and the terms of their sums as many."""
    a, b = inputs
    if a is None or b is None or a.const is not None or b.const is not None or min(len(a.shape), len(b.shape)) < 2:
        return inputs
    b = _cast(low, b, [*b.shape[:-2], a.shape[-1], b.shape[-1]])
    rank = max(len(a.shape), len(b.shape))
    values = [(value, _names(source, rank)) for value, source in zip((a, b), node.source.inputs, strict=True)]
    lead: list[Any] = []
    for axis in range(rank - 2):
        given = [(v.shape[axis - rank], names[axis]) for v, names in values if len(v.shape) >= rank - axis]
        lead.append(_common(low, [(extent, name) for extent, name in given if not _is_one(extent)])[0])
    nothing = [None] * rank
    return [_fitted(low, v, [*lead, *v.shape[-2:]], nothing, nothing) for v, _ in values]


def _cast(low: Lowering, value: Value, shape: Sequence[Any]) -> Value:
    """The value as one of this shape, which is checked when the model runs.

    By a kernel: Relax drops a match_cast between extents that it knows already.
    """
    pairs = [(a, b) for a, b in zip(value.shape, shape, strict=True) if not _same(a, b)]
    if not pairs or any(isinstance(a, int) and isinstance(b, int) for a, b in pairs):
        return value
    for a, b in pairs:
        _check(low, tirx.EQ(_expr(a), _expr(b)))
    return _expanded(low, value, shape)


def _expanded(low: Lowering, value: Value, shape: Sequence[Any]) -> Value:
    """The value as one of this shape, in the layout that it has; integers as they are."""
    if isinstance(value, Dequantized):
        return Dequantized(low, replace(value.affine, q=_expanded(low, value.affine.q, shape)))
    block = value.block
    if block == PLAIN or not isinstance(shape[1], int) or not _same(shape[1], value.shape[1]):
        return low.wrap(low.emit(define.expand, value.plain(), *shape, name="expand", kind=INJECTIVE))
    n, channels, *space = shape
    blocked = n, -(-channels // block), *space, block
    made = low.emit(define.expand, value.form(block), *blocked, name="expand", kind=INJECTIVE)
    return low.blocked(shape, value.dtype, block, made)


def _broadcast(low: Lowering, node: Node, inputs: list[Value | None]) -> list[Value | None]:
    """Operands of a broadcasting operator: one extent an axis, or 1."""
    rank = max(len(v.shape) for v in inputs if v is not None)
    shapes = [None if v is None else [*[1] * (rank - len(v.shape)), *v.shape] for v in inputs]
    names = [_names(source, rank) for source in node.source.inputs]
    target: list[Any] = []
    claims: list[Any] = []
    for axis in range(rank):
        given = [(s[axis], n[axis]) for s, n in zip(shapes, names, strict=True) if s is not None]
        extent, name = _common(low, [(e, n) for e, n in given if not _is_one(e)])
        target.append(extent)
        claims.append(name)
    return [None if v is None else _fitted(low, v, target, claims, n) for v, n in zip(inputs, names, strict=True)]


def _names(value: ir.Value | None, rank: int) -> list[Any]:
    """What the model calls the extents of a value, a name or a number, aligned to the right; None where nothing."""
    if value is None or value.shape is None or len(value.shape) > rank:
        return [None] * rank
    found = [d.value if isinstance(d, ir.SymbolicDim) else d for d in value.shape]
    return [*[None] * (rank - len(found)), *found]


def _common(low: Lowering, given: Sequence[tuple[Any, Any]]) -> tuple[Any, Any]:
    """The extent of the result, with its name if it has one, from those of the operands that are not plainly 1."""
    if not given:
        return 1, None
    for extent, name in given:
        if isinstance(extent, int):
            return extent, name
    (extent, name), *others = given
    rest = [e for e, n in others if not _same(e, extent) and (n is None or n != name)]
    if not rest:
        return extent, name
    for other in rest:
        extent = tirx.Select(tirx.EQ(extent, _expr(1)), other, extent)
    return _named(low, extent), None


def _named(low: Lowering, extent: Any) -> Any:
    """A variable that is this expression when the model runs; kernels cannot have the expression itself as extent."""
    numbers = low.bind(relax.op.shape_to_tensor(relax.ShapeExpr([extent])))
    return runtime_extents(low, numbers, 1, f"{low.node}_extent")[0]


def _fitted(low: Lowering, value: Value, target: Sequence[Any], claims: Sequence[Any], names: Sequence[Any]) -> Value:
    """An operand whose every extent is 1 or that of the result."""
    start = len(target) - len(value.shape)
    open_axes = [d for d, e in enumerate(value.shape) if not _is_one(e) and not _same(e, target[start + d])]
    if not open_axes or value.const is not None:
        return value
    said = [d for d in open_axes if names[start + d] is not None and names[start + d] == claims[start + d]]
    if said:
        value = _cast(low, value, [target[start + d] if d in said else e for d, e in enumerate(value.shape)])
    unsaid = [d for d in open_axes if d not in said]
    if not unsaid or any(isinstance(value.shape[d], int) for d in unsaid):
        return value
    for d in unsaid:
        extent, wanted = _expr(value.shape[d]), _expr(target[start + d])
        _check(low, tirx.any(tirx.EQ(extent, _expr(1)), tirx.EQ(extent, wanted)))
    return _expanded(low, value, [target[start + d] if d in unsaid else e for d, e in enumerate(value.shape)])


def _expr(extent: Any) -> Any:
    return tirx.const(extent, "int64") if isinstance(extent, int) else extent


def _check(low: Lowering, condition: Any) -> None:
    """Fail where the model runs on shapes that do not fulfil a condition."""
    shape = low.bind(relax.ShapeExpr([tirx.Select(condition, _expr(1), _expr(0))]))
    low.bb.match_cast(shape, relax.ShapeType([1]))


__all__ = ["agree"]
