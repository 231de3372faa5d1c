"""Where a graph writes out attention: MatMul, scale, mask, Softmax, MatMul."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from tvm import tirx
from tvm.sym import Analyzer

from optkit.compiler.lowering import Lowering
from optkit.compiler.operator import TENSOR_FLOAT
from optkit.compiler.values import Shape

LEAST_ROWS = 8
"""Rows of queries below which packing keys and values is most of the work."""
HALF_VECTOR, HALF_DEPTH = 8, 128
"""Of 16-bit queries and values: rows are copied in vectors of this many, and up to this depth kept in registers."""


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
    """Every attention that the graph's extents do not rule out, by its last product; none where there is no kernel.

    Kernels of 16 bits take a batch, the first of several axes, and rows of any extent: of these `attends` can tell.

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
    if query is None or key is None or value is None or marked(node) != marked(product):
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


def marked(node: ir.Node) -> str:
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
        named: axes that may be open.
    """
    if value.shape is None or value.dtype != dtype or value.const_value is not None:
        return None
    free = {axis % len(value.shape) for axis in named} if len(value.shape) else set()
    if any(not isinstance(d, int) and axis not in free for axis, d in enumerate(value.shape)):
        return None
    return tuple(value.shape)


def _maybe(a: Any, b: Any) -> bool:
    """Whether two extents of the graph may be one: of open ones it has no names, or several."""
    return a == b or not isinstance(a, int) or not isinstance(b, int)


def _alike(a: Sequence[Any], b: Sequence[Any], same: Callable[[Any, Any], bool]) -> bool:
    return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))


def _agree(query: Shape, key: Shape, value: Shape, mask: Shape | None, same: Callable[[Any, Any], bool]) -> bool:
    """Whether shapes are those of one attention: equal leading axes, a mask of the scores' or repeated along axes.

    Args:
        key: of the transposed keys, rows last.
    """
    if mask is not None:
        scores = (*query[:-1], key[-1])
        if len(mask) > len(scores):
            return False
        pairs = zip(reversed(mask), reversed(scores), strict=False)
        if not all((isinstance(d, int) and d == 1) or same(d, e) for d, e in pairs):
            return False
    leading = _alike(query[:-2], key[:-2], same) and _alike(query[:-2], value[:-2], same)
    return leading and same(query[-1], key[-2]) and same(key[-1], value[-2])


def attends(low: Lowering, match: Attention) -> bool:
    """Whether the one kernel computes a place that `find_attention` found, its operands lowered."""
    query, key, value = (low.values[v].shape for v in (match.query, match.key, match.value))
    mask = None if match.mask is None else low.values[match.mask].shape
    prove = Analyzer().can_prove_equal
    # Tiles of a CPU's kernel are counted by its extents, of which TVM knows only numbers and names again.
    plain = all(isinstance(d, (int, tirx.Var)) for d in (*query, *key, *value))
    if not plain and not low.target.has("half_attention"):
        return False
    return _agree(query, key, value, mask, lambda a, b: bool(prove(a, b)))


def _fits(low: Lowering, match: Attention) -> bool:
    """Whether the kernel computes exactly this: equal leading axes, whole vectors of values, a mask of one rank."""
    half, pairs = low.target.has("half_attention"), marked(match.product) == "bfloat16"
    dtype = ir.DataType.FLOAT16 if half and not pairs else ir.DataType.FLOAT
    free = [(0, -2), (0, -1), (0, -2)] if half or not pairs else [(), (), ()]  # of keys, transposed, rows come last
    operands = zip((match.query, match.key, match.value), free, strict=True)
    query, key, value = (_shape(v, dtype, named) for v, named in operands)
    if query is None or key is None or value is None or not 3 <= len(query) == len(key) == len(value):
        return False
    if pairs and not half and (not low.target.has("bf16_pairs") or query[-1] % 2 or low.target.has("bf16_tiles")):
        return False  # two products in tile registers and a softmax are faster than the one kernel
    if match.mask is not None and (match.mask.shape is None or match.mask.dtype not in (dtype, ir.DataType.FLOAT)):
        return False
    mask = None if match.mask is None else tuple(match.mask.shape or ())
    alike = _agree(query, key, value, mask, _maybe)
    if half:
        return alike and all(d % HALF_VECTOR == 0 and d <= HALF_DEPTH for d in (query[-1], value[-1]))
    few = isinstance(query[-2], int) and query[-2] < LEAST_ROWS
    return alike and value[-1] % low.target.lanes == 0 and not few


__all__ = ["Attention", "attends", "find_attention", "marked"]
