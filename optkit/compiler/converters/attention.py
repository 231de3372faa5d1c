"""Attention written out, MatMul, scale, mask, Softmax, MatMul, as one kernel that keeps no matrix of all scores."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir
from tvm import relax
from tvm.sym import Analyzer

from optkit.compiler.converters.accumulation import bits
from optkit.compiler.converters.matmul import untransposed
from optkit.compiler.converters.movement import narrowed, origin, permuted
from optkit.compiler.lowering import Lowering, Node
from optkit.compiler.operator import ATTENTION, TENSOR_FLOAT, Operator
from optkit.compiler.operators.attention import attention as define
from optkit.compiler.operators.half_attention import half_attention
from optkit.compiler.tiling import Tile, kept, tile_step
from optkit.compiler.values import OPAQUE, OUT_FUSABLE, PLAIN, Value, dims

LEAST_ROWS = 8
"""Rows of queries below which packing keys and values is most of the work."""
HALF_VECTOR, HALF_DEPTH = 8, 128
"""Of 16-bit queries and values: rows are copied in vectors of this many, and up to this depth kept in registers."""
_LARGEST_BAND = 32
_SWAP = [0, 2, 1, 3]


@dataclass(frozen=True)
class Attention:
    """One place where a graph computes attention.

    Attributes:
        inner: the nodes before the last product, which nothing else reads.
        mask: what is added to the scaled scores, or None.
    """

    product: ir.Node
    inner: tuple[ir.Node, ...]
    query: ir.Value
    key: ir.Value
    value: ir.Value
    mask: ir.Value | None
    scale: float


def find_attention(low: Lowering, graph: ir.Graph) -> dict[ir.Node, Attention]:
    """Every attention of known extents, by its last product; none where its kernel may not be used.

    Kernels of 16 bits take a batch, the first of several axes, and rows of any extent.

    Where something is quantized, softmax in float32 has to round as it is written; in 16 bits nobody promises how.
    """
    half = low.target.has("half_attention")
    if not half and (low.rounded or not low.target.has("attention")):
        return {}
    found = (_match(low, node) for node in graph if node.op_type == "MatMul" and node.domain == "")
    return {match.product: match for match in found if match is not None}


def _match(low: Lowering, product: ir.Node) -> Attention | None:
    inner: list[ir.Node] = []
    softmax = _uncast(_only(product.inputs[0], product), inner)
    if softmax is None or softmax.op_type != "Softmax":
        return None
    axis = softmax.attributes.get("axis")
    rank = _rank(softmax.inputs[0])
    last = axis.as_int() if axis is not None else (-1 if low.opset >= 13 else 1)
    if rank is None or last not in (-1, rank - 1):
        return None
    inner.append(softmax)
    mask, scale, node = None, 1.0, _uncast(_only(softmax.inputs[0], softmax), inner)
    while node is not None and node.op_type != "MatMul":
        inner.append(node)
        step = _step(node)
        if step is None or (step[1] is not None and (mask is not None or scale != 1.0)):
            return None
        source, added, factor = step
        mask, scale = (added, scale) if added is not None else (mask, scale * factor)
        node = _uncast(_only(source, node), inner)
    if node is None:
        return None
    query, key, value = node.inputs[0], node.inputs[1], product.inputs[1]
    if query is None or key is None or value is None or _marked(node) != _marked(product):
        return None
    if low.target.has("half_attention"):
        # Scores are float32: what their factors are multiplied by is multiplied once, there.
        (query, first), (key, second) = _unscaled(query), _unscaled(key)
        scale *= first * second
    match = Attention(product, (node, *reversed(inner)), query, key, value, mask, scale)
    return match if _fits(low, match) else None


def _unscaled(value: ir.Value) -> tuple[ir.Value, float]:
    """What a number multiplies to make a value, and the number."""
    maker = value.producer()
    if maker is None or maker.op_type not in ("Mul", "Div") or maker.domain:
        return value, 1.0
    for place in (0, 1) if maker.op_type == "Mul" else (0,):
        source, other = maker.inputs[place], maker.inputs[1 - place]
        number = None if other is None or other.const_value is None else other.const_value.numpy()
        if source is not None and number is not None and number.size == 1 and number.ndim <= (_rank(source) or 0):
            factor = float(number.reshape(()))
            if maker.op_type == "Mul":
                return source, factor
            return (source, 1 / factor) if factor else (value, 1.0)
    return value, 1.0


def _marked(node: ir.Node) -> str:
    """The type that a product is to be computed in, "" for its data's; no kernel here multiplies TF32."""
    mark = node.metadata_props.get("optkit.compute_type", "")
    return "" if mark == TENSOR_FLOAT else mark


def _uncast(node: ir.Node | None, passed: list[ir.Node]) -> ir.Node | None:
    """The node before conversions between float16 and float32, which `passed` gets: what lies between stays float32."""
    while node is not None and node.op_type == "Cast":
        source = node.inputs[0]
        if source is None or {source.dtype, node.outputs[0].dtype} - {ir.DataType.FLOAT, ir.DataType.FLOAT16}:
            return None
        passed.append(node)
        node = _only(source, node)
    return node


def _step(node: ir.Node) -> tuple[ir.Value | None, ir.Value | None, float] | None:
    """What a node between the product and the softmax does: (its operand, what it adds, what it multiplies by)."""
    if node.op_type not in ("Mul", "Div", "Add"):
        return None
    for place in (0, 1) if node.op_type != "Div" else (0,):
        source, other = node.inputs[place], node.inputs[1 - place]
        if other is None or not _from_product(source):
            continue
        if node.op_type == "Add":
            return source, other, 1.0
        number = None if other.const_value is None else other.const_value.numpy()
        if number is None or number.ndim > (_rank(source) or 0):
            continue
        if number.size == 1 and float(number.reshape(())) != 0:
            value = float(number.reshape(()))
            return source, None, 1 / value if node.op_type == "Div" else value
    return None


def _from_product(value: ir.Value | None) -> bool:
    """Whether a value is a product of matrices, maybe times numbers."""
    maker = None if value is None else value.producer()
    while maker is not None and maker.op_type in ("Mul", "Div", "Cast"):
        sources = [v for v in maker.inputs if v is not None and v.const_value is None]
        maker = sources[0].producer() if len(sources) == 1 else None
    return maker is not None and maker.op_type == "MatMul"


def _only(value: ir.Value | None, user: ir.Node) -> ir.Node | None:
    """The node that makes a value, where `user` alone reads it."""
    if value is None or value.is_graph_output() or len(list(value.uses())) != 1:
        return None
    maker = value.producer()
    return maker if maker is not None and maker.domain == "" and maker.graph is user.graph else None


def _rank(value: ir.Value | None) -> int | None:
    return None if value is None or value.shape is None else len(value.shape)


def _shape(value: ir.Value, dtype: ir.DataType, named: Sequence[int]) -> tuple[Any, ...] | None:
    """Extents of a tensor, None where they are not known or it is of another type.

    Args:
        named: axes that may have names instead.
    """
    if value.shape is None or value.dtype != dtype or value.const_value is not None:
        return None
    free = {axis % len(value.shape) for axis in named} if len(value.shape) else set()
    for axis, d in enumerate(value.shape):
        if not isinstance(d, int) and (axis not in free or d.value is None):
            return None
    return tuple(value.shape)


def _fits(low: Lowering, match: Attention) -> bool:
    """Whether the kernel computes exactly this: equal leading axes, whole vectors of values, a mask of one rank."""
    half, pairs = low.target.has("half_attention"), _marked(match.product) == "bfloat16"
    dtype = ir.DataType.FLOAT16 if half and not pairs else ir.DataType.FLOAT
    free = [(0, -2), (0, -1), (0, -2)] if half else [(), (), ()]  # of keys, which are transposed, rows come last
    operands = zip((match.query, match.key, match.value), free, strict=True)
    query, key, value = (_shape(v, dtype, named) for v, named in operands)
    if query is None or key is None or value is None or not 3 <= len(query) == len(key) == len(value):
        return False
    if pairs and not half and (not low.target.has("bf16_pairs") or query[-1] % 2):
        return False
    scores = (*query[:-1], key[-1])
    if match.mask is not None:
        shape = None if match.mask.shape is None else tuple(match.mask.shape)
        if shape is None or match.mask.dtype not in (dtype, ir.DataType.FLOAT) or len(shape) > len(scores):
            return False
        if any(d not in (1, e) for d, e in zip(reversed(shape), reversed(scores), strict=False)):
            return False
    alike = query[:-2] == key[:-2] == value[:-2] and query[-1] == key[-2] and key[-1] == value[-2]
    if half:
        return alike and all(d % HALF_VECTOR == 0 and d <= HALF_DEPTH for d in (query[-1], value[-1]))
    return alike and value[-1] % low.target.lanes == 0 and query[-2] >= LEAST_ROWS


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
    tiles, band = _tiles(rows, columns, wide, low.target.lanes, low.target.registers)
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
            return place < 2 and _marked(user) == "bfloat16"
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
