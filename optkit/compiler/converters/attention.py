"""Attention written out, MatMul, scale, mask, Softmax, MatMul, as one kernel that keeps no matrix of all scores."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import onnx_ir as ir
from tvm import relax
from tvm.sym import Analyzer

from optkit.compiler.converters.accumulation import bits
from optkit.compiler.converters.attention_sites import Attention, marked
from optkit.compiler.converters.matmul import untransposed
from optkit.compiler.converters.movement import narrowed, origin, permuted
from optkit.compiler.lowering import Lowering, Node
from optkit.compiler.operator import ATTENTION, Operator
from optkit.compiler.operators.attention import attention as define
from optkit.compiler.operators.half_attention import half_attention
from optkit.compiler.tiling import Tile, kept, tile_step
from optkit.compiler.values import OPAQUE, OUT_FUSABLE, PLAIN, Value, dims

_LARGEST_BAND = 32
_USUAL = 128
"""Rows of queries and keys where their number is open."""
_SWAP = [0, 2, 1, 3]


def lower_attention(match: Attention, low: Lowering, node: Node, _: list[Value | None]) -> Value:
    """The one kernel; for bfloat16, what it multiplies is rounded before."""
    query, key, value = (low.values[v] for v in (match.query, match.key, match.value))
    *lead, rows, depth = query.shape
    columns, wide = value.shape[-2:]
    compute, wider = low.arithmetic(node, query.dtype, "it is part of attention")
    reason = wider or "both operands are activations"
    batch = _known(*lead)
    for name, size in ((match.inner[0].name or "", depth), (node.name, wide)):
        low.record(replace(node, name=name), compute, batch * _known(rows, columns) * size, reason)
    straight = untransposed(low, key.plain())
    if straight is None:
        straight = permuted(low, key.plain(), [*range(len(lead)), len(lead) + 1, len(lead)])
    tensors = [query.plain(), straight, value.plain()]
    operator = Operator(
        ATTENTION, compute, (batch, *(n if isinstance(n, int) else 0 for n in (rows, columns)), depth, wide)
    )
    mask = None
    if match.mask is not None:
        mask = low.values[match.mask].plain()
        missing = len(query.shape) - len(match.mask.shape or ())
        if missing:
            mask = low.bind(relax.op.expand_dims(mask, list(range(missing))))
    if low.target.has("half_attention"):
        if mask is not None and str(mask.ty.dtype) != "float32":
            mask = low.bind(relax.op.astype(mask, "float32"))
        places, seats, first = zip(*(_seat(low, tensor) for tensor in tensors), strict=True)
        out = "i" if len(lead) == 2 and _swapped(match.product) else "o"
        operands, result = list(places), query.dtype
        if compute == "bfloat16":
            operands = [narrowed(low, tensor) for tensor in operands]
            result = "bfloat16" if _rounded(match.product.outputs[0]) else result
        options = mask, match.scale, str(operator), "".join((*seats, out)), first, result
        made = low.emit(half_attention, *operands, *options, name="attention", kind=OUT_FUSABLE)
        if result != query.dtype:
            made = low.bind(relax.op.astype(made, query.dtype))
        if out == "i":
            made = permuted(low, made, _SWAP)
        return low.blocked((*lead, rows, wide), query.dtype, PLAIN, made)
    if compute == "bfloat16":
        tensors = [bits(low, tensor) for tensor in tensors]
    usual = [n if isinstance(n, int) else _USUAL for n in (rows, columns)]
    tiles, band = _tiles(usual[0], usual[1], wide, low.target.lanes, low.target.registers)
    plan = low.target.lanes, tiles, band, str(operator), low.target.has("bf16_vector")
    made = low.emit(define, *tensors, mask, match.scale, *plan, name="attention", kind=OPAQUE)
    return low.blocked((*lead, rows, wide), query.dtype, PLAIN, made)


def _known(*extents: Any) -> int:
    """The product of those that are known."""
    return math.prod(n for n in extents if isinstance(n, int))


def _seat(low: Lowering, expr: Any) -> tuple[Any, str, int]:
    """A tensor (batch, heads, rows, depth), or what it was transposed from, heads inside rows; and which of the two.

    The last of the three is the first of its heads: rows may hold more.
    """
    source, axes = origin(low, expr)
    if axes != _SWAP:
        return expr, "o", 0
    whole, first = _beside(low, source)
    return whole, "i", first


def _beside(low: Lowering, heads: Any) -> tuple[Any, int]:
    """Heads inside rows, together with those that a Split parted them from; which of them is the first.

    As they come where rows are not whole heads of this depth: all heads have to begin at whole vectors.
    """
    reshape = _made(low, heads, "relax.reshape")
    part = None if reshape is None else low.bb.lookup_binding(reshape.args[0])
    split = _made(low, part.tuple_value, "relax.split") if isinstance(part, relax.TupleGetItem) else None
    if part is None or split is None:
        return heads, 0
    batch, rows, count, depth = dims(heads.ty.shape.values)
    *lead, length = dims(split.args[0].ty.shape.values)
    parts = [dims(ty.shape.values) for ty in part.tuple_value.ty.fields]
    begin = sum(shape[-1] for shape in parts[: part.index])
    same = Analyzer().can_prove_equal
    alike = all(same(a, b) for a, b in zip(parts[part.index], (*lead, count * depth), strict=True))
    if not alike or begin % depth or length % depth:
        return heads, 0
    return low.bind(relax.op.reshape(split.args[0], (batch, rows, length // depth, depth))), begin // depth


def _made(low: Lowering, expr: Any, name: str) -> Any:
    """The call of this operator that an expression is bound to, None where it is another."""
    made = low.bb.lookup_binding(expr) if isinstance(expr, relax.Var) else None
    return made if isinstance(made, relax.Call) and getattr(made.op, "name", "") == name else None


def _swapped(product: ir.Node) -> bool:
    """Whether whatever reads the result has heads and rows change places first."""
    (made,) = product.outputs
    users = [user for user, _ in made.uses()]
    return not made.is_graph_output() and all(
        user.op_type == "Transpose" and list(user.attributes.get_ints("perm", ())) == _SWAP for user in users
    )


def _rounded(value: ir.Value) -> bool:
    """Whether whatever reads a value, once it was moved, rounds it to bfloat16."""

    def rounds(user: ir.Node, place: int) -> bool:
        if user.op_type in ("MatMul", "Gemm"):
            return place < 2 and marked(user) == "bfloat16"
        return user.op_type in ("Transpose", "Reshape") and place == 0 and _rounded(user.outputs[0])

    return not value.is_graph_output() and all(rounds(user, place) for user, place in value.uses())


def _tiles(rows: int, columns: int, wide: int, lanes: int, registers: int) -> tuple[tuple[Tile, Tile], int]:
    """Register tiles of both products and the band of rows that holds whole ones of either, by modelled cycles."""
    limit = kept(registers)
    blocks = -(-columns // lanes)

    def shapes() -> Iterator[tuple[int, int]]:
        return ((r, c) for c in range(1, 5) for r in range(1, min(rows, limit // c) + 1))

    best: tuple[float, int, tuple[int, int], tuple[int, int]] | None = None
    second = [(r, c) for r, c in shapes() if (wide // lanes) % c == 0]
    for first, other in itertools.product(shapes(), second):
        band = math.lcm(first[0], other[0])
        if band > _LARGEST_BAND:
            continue
        padded = -(-rows // band) * band
        scores = padded // first[0] * -(-blocks // first[1]) * tile_step(*first)
        weighted = padded // other[0] * (wide // lanes // other[1]) * tile_step(*other)
        key = (scores * wide + weighted * columns, band, first, other)
        best = key if best is None or key < best else best
    assert best is not None
    _, band, first, other = best
    return (Tile(*first, 0), Tile(*other, 0)), band
