"""com.microsoft's Attention, MultiHeadAttention and RotaryEmbedding, by operators of ONNX."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from optkit.bodies.microsoft import DOMAIN, refuse
from optkit.bodies.text import Writer


def _rank(node: ir.Node, at: int) -> int | None:
    value = node.inputs[at] if at < len(node.inputs) else None
    return None if value is None or value.shape is None else len(value.shape)


def _heads(w: Writer, x: ir.Value, count: int) -> ir.Value:
    """(batch, length, heads * size) to (batch, heads, length, size)."""
    return w("Transpose", w("Reshape", x, w.constant([0, 0, count, -1])), perm=[0, 2, 1, 3])


def _scaled(w: Writer, q: ir.Value, k: ir.Value) -> ir.Value:
    """Scores: q x k', times the given scale or one over the root of the head's size."""
    scores = w("MatMul", q, w("Transpose", k, perm=[0, 1, 3, 2]))
    scale = float(w.attribute("scale", 0.0) or 0.0)
    if scale:
        return w("Mul", scores, w.like(scale, scores))
    return w("Div", scores, w("CastLike", w("Sqrt", w("Cast", w("Shape", q, start=3, end=4), to=1)), scores))


def _causal(w: Writer, scores: ir.Value) -> ir.Value:
    """Scores of words that come later are put out of reach; the last query sees every key."""
    shape = w("Shape", scores, start=-2)
    rows, columns = w.several("Split", 2, shape, num_outputs=2)
    ones = w("ConstantOfShape", shape, value=ir.tensor(np.array([1], "int64")))
    seen = w("Cast", w("Trilu", ones, w("Squeeze", w("Sub", columns, rows)), upper=0), to=int(ir.DataType.BOOL))
    return w("Where", seen, scores, w.like(float("-inf"), scores))


def _masked(w: Writer, scores: ir.Value, mask: ir.Value | None, rank: int | None, fill: float) -> ir.Value:
    """Keys of a (batch, keys) mask of 0 and 1 that are 0 get `fill` added."""
    if mask is None:
        return scores
    if rank != 2:
        raise refuse(w.node, "only masks of (batch, keys) are supported; export it with such a mask")
    keep = w("Unsqueeze", w("Cast", mask, to=int(ir.DataType.BOOL)), w.constant([1, 2]))
    return w("Add", scores, w("Where", keep, w.like(0.0, scores), w.like(fill, scores)))


def _attend(
    w: Writer, q: ir.Value, k: ir.Value, v: ir.Value, mask: ir.Value | None, rank: int | None, bias: ir.Value | None
) -> ir.Value:
    """softmax(scores + masks) x v, as (batch, length, heads * size)."""
    scores = _scaled(w, q, k)
    scores = scores if bias is None else w("Add", scores, bias)
    scores = _masked(w, scores, mask, rank, float(w.attribute("mask_filter_value", -10000.0)))
    if w.attribute("unidirectional", 0):
        scores = _causal(w, scores)
    out = w("Transpose", w("MatMul", w("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
    return w("Reshape", out, w.constant([0, 0, -1]))


def attention(node: ir.Node) -> ir.Function | None:
    """Attention: projections of one input, with an optional mask, past and bias of the scores."""
    w = Writer(node)
    if w.attribute("do_rotary", 0) or w.attribute("past_present_share_buffer", 0):
        raise refuse(node, "rotary embeddings and shared buffers inside it are not supported; export without them")
    if (w.input(5) is not None and _rank(node, 5) is None) or (w.input(3) is not None and _rank(node, 3) is None):
        return None
    count = int(w.attribute("num_heads"))
    packed = w("MatMul", w.need(0), w.need(1))
    bias = w.input(2)
    packed = packed if bias is None else w("Add", packed, bias)
    sizes = w.attribute("qkv_hidden_sizes")
    if sizes is None:
        parts = w.several("Split", 3, packed, axis=-1, num_outputs=3)
    else:
        parts = w.several("Split", 3, packed, w.constant(list(sizes)), axis=-1)
    q, k, v = (_heads(w, part, count) for part in parts)
    past = w.input(4)
    if past is not None:
        before = [w("Squeeze", part, w.constant([0])) for part in w.several("Split", 2, past, axis=0, num_outputs=2)]
        k, v = w("Concat", before[0], k, axis=2), w("Concat", before[1], v, axis=2)
    y = _attend(w, q, k, v, w.input(3), _rank(node, 3), w.input(5))
    if len(node.outputs) == 1:
        return w.finish(y)
    both = [w("Unsqueeze", part, w.constant([0])) for part in (k, v)]
    return w.finish(y, w("Concat", *both, axis=0))


def multi_head_attention(node: ir.Node) -> ir.Function | None:
    """MultiHeadAttention of separate queries, keys and values, with biases, masks and a cache."""
    w = Writer(node)
    q, k, v = w.need(0), w.input(1), w.input(2)
    if k is None or v is None:
        raise refuse(node, "packed queries, keys and values are not supported; export them apart")
    ranks = [_rank(node, at) for at in range(3)]
    mask, past = w.input(4), (w.input(6), w.input(7))
    if None in ranks or (mask is not None and _rank(node, 4) is None):
        return None
    bias, count = w.input(3), int(w.attribute("num_heads"))
    q, k, v = _biased(w, (q, k, v), ranks, bias)
    q, k, v = (x if rank == 4 else _heads(w, x, count) for x, rank in zip((q, k, v), ranks, strict=True))
    if past[0] is not None and past[1] is not None:
        k, v = w("Concat", past[0], k, axis=2), w("Concat", past[1], v, axis=2)
    return w.finish(_attend(w, q, k, v, mask, _rank(node, 4), w.input(5)), k, v)


def _biased(
    w: Writer, values: Sequence[ir.Value], ranks: Sequence[int | None], bias: ir.Value | None
) -> Sequence[ir.Value]:
    """Queries, keys and values with their parts of one bias vector."""
    if bias is None:
        return values
    if any(rank != 3 for rank in ranks):
        raise refuse(w.node, "a bias goes with queries, keys and values of three axes; add it before")
    sizes = w("Concat", *[w("Shape", x, start=2, end=3) for x in values], axis=0)
    parts = w.several("Split", 3, bias, sizes, axis=0)
    return [w("Add", x, part) for x, part in zip(values, parts, strict=True)]


def rotary_embedding(node: ir.Node) -> ir.Function | None:
    """RotaryEmbedding (Su et al., 2021) of whole heads or of their first elements."""
    w = Writer(node)
    cache = node.inputs[2]
    rank, places = _rank(node, 0), _rank(node, 1)
    if rank is None or places is None or cache is None or cache.shape is None or not isinstance(cache.shape[1], int):
        return None
    if places != 2 or w.attribute("is_packed_batching", 0):
        raise refuse(node, "positions must be (batch, length) and batches not packed; export it so")
    half, count = int(cache.shape[1]), int(w.attribute("num_heads", 0))
    partly = bool(w.attribute("rotary_embedding_dim", 0))
    if partly and not count and rank == 3:
        raise refuse(node, "it turns a part of each head, and num_heads is not given; set it")
    x = w.need(0)
    # (batch, length, heads, size)
    shape = [0, 0, count, -1] if count else [0, 0, -1, 2 * half]
    x = w("Reshape", x, w.constant(shape)) if rank == 3 else w("Transpose", x, perm=[0, 2, 1, 3])
    rest = None
    if partly:
        turned = w.constant([2 * half])
        x, rest = (
            w("Slice", x, w.constant([0]), turned, w.constant([3])),
            w("Slice", x, turned, w.constant([np.iinfo("int64").max]), w.constant([3])),
        )
    cosine, sine = (w("Unsqueeze", w("Gather", w.need(at), w.need(1)), w.constant([2])) for at in (2, 3))
    if w.attribute("interleaved", 0):
        pairs = w("Reshape", x, w.constant([0, 0, 0, half, 2]))
        a, b = (w("Squeeze", part, w.constant([4])) for part in w.several("Split", 2, pairs, axis=4, num_outputs=2))
    else:
        a, b = w.several("Split", 2, x, axis=3, num_outputs=2)
    first = w("Sub", w("Mul", a, cosine), w("Mul", b, sine))
    second = w("Add", w("Mul", a, sine), w("Mul", b, cosine))
    if w.attribute("interleaved", 0):
        both = w("Concat", *[w("Unsqueeze", part, w.constant([4])) for part in (first, second)], axis=4)
        y = w("Reshape", both, w.constant([0, 0, 0, 2 * half]))
    else:
        y = w("Concat", first, second, axis=3)
    y = y if rest is None else w("Concat", y, rest, axis=3)
    return w.finish(w("Reshape", y, w.constant([0, 0, -1])) if rank == 3 else w("Transpose", y, perm=[0, 2, 1, 3]))


BODIES = {
    (DOMAIN, "Attention"): attention,
    (DOMAIN, "MultiHeadAttention"): multi_head_attention,
    (DOMAIN, "RotaryEmbedding"): rotary_embedding,
}
