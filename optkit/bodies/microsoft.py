"""Operators of com.microsoft that exporters and ONNX Runtime's optimizer emit, by operators of ONNX.

Meanings are those of ONNX Runtime's docs/ContribOperators.md. Attention is in `optkit.bodies.heads`.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from optkit.bodies.text import Writer
from optkit.errors import UnsupportedError

DOMAIN = "com.microsoft"


def refuse(node: ir.Node, why: str) -> UnsupportedError:
    """The error for a variant without a definition here."""
    return UnsupportedError(f"node {node.name!r} ({node.domain}.{node.op_type}): {why}")


def _gelu(w: Writer, x: ir.Value) -> ir.Value:
    """x / 2 * (1 + erf(x / sqrt 2)); the operator Gelu came with opset 20 only."""
    inner = w("Add", w("Erf", w("Mul", x, w.like(math.sqrt(0.5), x))), w.like(1.0, x))
    return w("Mul", w("Mul", x, w.like(0.5, x)), inner)


def gelu(node: ir.Node) -> ir.Function:
    """Gelu and BiasGelu."""
    w = Writer(node)
    x = w.need(0)
    return w.finish(_gelu(w, x if len(w.inputs) < 2 else w("Add", x, w.need(1))))


def fast_gelu(node: ir.Node) -> ir.Function:
    """FastGelu: the tanh form, behind an optional bias."""
    w = Writer(node)
    x, bias = w.need(0), w.input(1)
    x = x if bias is None else w("Add", x, bias)
    cube = w("Mul", w("Mul", x, x), w("Mul", x, w.like(0.044715, x)))
    inner = w("Tanh", w("Mul", w("Add", x, cube), w.like(math.sqrt(2 / math.pi), x)))
    return w.finish(w("Mul", w("Mul", x, w.like(0.5, x)), w("Add", inner, w.like(1.0, x))))


def quick_gelu(node: ir.Node) -> ir.Function:
    """QuickGelu: x * sigmoid(alpha * x)."""
    w = Writer(node)
    x = w.need(0)
    return w.finish(w("Mul", x, w("Sigmoid", w("Mul", x, w.like(w.attribute("alpha", 1.702), x)))))


def fused_matmul(node: ir.Node) -> ir.Function | None:
    """FusedMatMul: alpha * A' x B', each with its last two axes exchanged or not."""
    if any(node.attributes.get_int(name, 0) for name in ("transBatchA", "transBatchB")):
        raise refuse(node, "transBatchA and transBatchB are not supported; transpose before the node")
    w = Writer(node)
    sides = []
    for at, name in enumerate(("transA", "transB")):
        value = w.need(at)
        if w.attribute(name, 0):
            given = node.inputs[at]
            if given is None or given.shape is None:
                return None
            rank = len(given.shape)
            if rank > 1:
                value = w("Transpose", value, perm=[*range(rank - 2), rank - 1, rank - 2])
        sides.append(value)
    out = w("MatMul", *sides)
    alpha = float(w.attribute("alpha", 1.0))
    return w.finish(out if alpha == 1.0 else w("Mul", out, w.like(alpha, out)))


def fused_conv(node: ir.Node) -> ir.Function:
    """FusedConv: a convolution, an optional sum with Z, and an activation."""
    w = Writer(node)
    names = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
    given = {name: w.attribute(name) for name in names}
    y = w("Conv", w.need(0), w.need(1), w.input(2), **given)
    extra = w.input(3)
    y = y if extra is None else w("Add", y, extra)
    parameters = [float(v) for v in w.attribute("activation_params", [])]
    match w.attribute("activation", ""):
        case "":
            return w.finish(y)
        case "Relu" | "Sigmoid" | "Tanh" as name:
            return w.finish(w(name, y))
        case "LeakyRelu":
            return w.finish(w("LeakyRelu", y, alpha=parameters[0]))
        case "Clip":
            return w.finish(w("Clip", y, *(w.like(v, y) for v in parameters[:2])))
        case "HardSigmoid":
            return w.finish(w("HardSigmoid", y, alpha=parameters[0], beta=parameters[1]))
        case name:
            raise refuse(node, f"activation {name!r} is unknown; export without fused activations")


def _normalized(w: Writer, total: ir.Value, scale: ir.Value, shift: ir.Value | None, epsilon: float) -> ir.Value:
    return w("LayerNormalization", total, scale, shift, axis=-1, epsilon=epsilon)


def skip_layer_normalization(node: ir.Node) -> ir.Function:
    """SkipLayerNormalization: the sum of input, skip and bias, normalized; the sum is the fourth output."""
    w = Writer(node)
    total = w("Add", w.need(0), w.need(1))
    bias = w.input(4)
    total = total if bias is None else w("Add", total, bias)
    return w.finish(*_moments(w, total, w.need(2), w.input(3)), total)


def _moments(w: Writer, total: ir.Value, scale: ir.Value, shift: ir.Value | None) -> list[ir.Value]:
    epsilon = float(w.attribute("epsilon", 1e-12))
    if len(w.node.outputs) > 1 and any(v.uses() for v in w.node.outputs[1:3]):
        made = w.several("LayerNormalization", 3, total, scale, shift, axis=-1, epsilon=epsilon)
        return list(made)
    y = _normalized(w, total, scale, shift, epsilon)
    return [y, y, y]


def skip_rms_normalization(node: ir.Node) -> ir.Function:
    """SkipSimplifiedLayerNormalization: without mean and shift (Zhang and Sennrich, 2019)."""
    w = Writer(node)
    total = w("Add", w.need(0), w.need(1))
    bias = w.input(3)
    total = total if bias is None else w("Add", total, bias)
    square = w("ReduceMean", w("Mul", total, total), w.constant([-1]), keepdims=1)
    root = w("Sqrt", w("Add", square, w.like(w.attribute("epsilon", 1e-12), total)))
    y = w("Mul", w("Div", total, root), w.need(2))
    if len(node.outputs) > 1 and any(v.uses() for v in node.outputs[1:3]):
        raise refuse(node, "its mean and inverse deviation are not computed; do not use them")
    return w.finish(y, y, y, total)


def embed_layer_normalization(node: ir.Node) -> ir.Function:
    """EmbedLayerNormalization: word, position and segment embeddings, summed and normalized."""
    w = Writer(node)
    ids, segments, places, mask = w.need(0), w.input(1), w.input(8), w.input(7)
    total = w("Gather", w.need(2), ids, axis=0)
    if places is None:
        length = w("Shape", ids, start=1, end=2)
        where = w("Slice", w.need(3), w.constant([0]), length, w.constant([0]))
    else:
        where = w("Gather", w.need(3), places, axis=0)
    total = w("Add", total, where)
    if segments is not None:
        total = w("Add", total, w("Gather", w.need(4), segments, axis=0))
    y = _normalized(w, total, w.need(5), w.need(6), float(w.attribute("epsilon", 1e-12)))
    # The second output counts the valid words of each example.
    counted = mask if mask is not None else w("Mul", ids, w("CastLike", w.constant(0), ids))
    count = w("Cast", w("ReduceSum", counted, w.constant([1]), keepdims=0), to=int(ir.DataType.INT32))
    return w.finish(y, count, total)


BODIES = {
    (DOMAIN, "Gelu"): gelu,
    (DOMAIN, "BiasGelu"): gelu,
    (DOMAIN, "FastGelu"): fast_gelu,
    (DOMAIN, "QuickGelu"): quick_gelu,
    (DOMAIN, "FusedMatMul"): fused_matmul,
    (DOMAIN, "FusedConv"): fused_conv,
    (DOMAIN, "SkipLayerNormalization"): skip_layer_normalization,
    (DOMAIN, "SkipSimplifiedLayerNormalization"): skip_rms_normalization,
    (DOMAIN, "EmbedLayerNormalization"): embed_layer_normalization,
}

__all__ = ["BODIES", "DOMAIN", "refuse"]
