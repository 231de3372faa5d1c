"""Pooling over blocked activations; maxima of quantized values stay integers (see integer.py)."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from optkit.compiler.converters.geometry import static_shape, window
from optkit.compiler.lower import Lowering, Node
from optkit.compiler.operators import pool as define
from optkit.compiler.operators import quant
from optkit.compiler.values import OUT_FUSABLE, Dequantized, Value


def _block(low: Lowering, x: Value) -> int:
    """Pools keep the layout they find, and block plain inputs: windows vectorize over channels."""
    return x.block or low.target.lanes


def _images(x: Value | None) -> bool:
    return x is not None and len(x.shape) == 4 and static_shape(x, 1, 2, 3) and x.dtype != "float64"


def max_pool(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """MaxPool without indices."""
    x = inputs[0]
    if x is None or not _images(x) or node.outputs != 1 or node.get("storage_order", 0):
        return None
    n, c, h, w = x.shape
    geometry, ceil = window(node, node.get("kernel_shape"), (h, w)), bool(node.get("ceil_mode", 0))
    block = _block(low, x)
    out = low.emit(define.max_pool2d, x.form(block), geometry, ceil, name="max_pool2d", kind=OUT_FUSABLE)
    return low.blocked((n, c, *geometry.output(h, w, ceil)), x.dtype, block, out)


def average_pool(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """AveragePool: a window sum times one over the number of elements, which differs at the border."""
    x = inputs[0]
    if x is None or not _images(x):
        return None
    n, c, h, w = x.shape
    geometry, ceil = window(node, node.get("kernel_shape"), (h, w)), bool(node.get("ceil_mode", 0))
    include = bool(node.get("count_include_pad", 0))
    oh, ow = geometry.output(h, w, ceil)
    rows = np.array(define.window_sizes(h, oh, geometry, 0, include), "float32")
    columns = np.array(define.window_sizes(w, ow, geometry, 1, include), "float32")
    inverse = (1.0 / np.maximum(np.outer(rows, columns), 1.0)).astype("float32")
    if (inverse == inverse[0, 0]).all():
        factor: Any = relax.const(inverse[0, 0], "float32")
    else:
        factor = relax.const(inverse.reshape(1, 1, oh, ow, 1))
    block = _block(low, x)
    total = low.emit(define.sum_pool2d, x.form(block), geometry, ceil, name="sum_pool2d", kind=OUT_FUSABLE)
    return _scaled(low, x, (n, c, oh, ow), block, total, factor)


def global_average_pool(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """The mean over height and width; quantized inputs are summed exactly in int32."""
    x = inputs[0]
    if x is None or not _images(x):
        return None
    n, c, h, w = x.shape
    block = _block(low, x)
    if isinstance(x, Dequantized):
        a = x.affine
        total = low.emit(define.global_sum, a.q.form(block), name="global_sum", kind=OUT_FUSABLE)
        mean = low.emit(quant.dequantize, total, a.scale / (h * w), a.zero * h * w, name="dequantize")
        return low.blocked((n, c, 1, 1), "float32", block, mean)
    total = low.emit(define.global_sum, x.form(block), name="global_sum", kind=OUT_FUSABLE)
    return _scaled(low, x, (n, c, 1, 1), block, total, relax.const(1.0 / (h * w), "float32"))


def _scaled(low: Lowering, x: Value, shape: Any, block: int, total: Any, factor: Any) -> Value:
    mean = low.bind(relax.op.multiply(total, factor))
    if x.dtype == "float16":
        mean = low.bind(relax.op.astype(mean, "float16"))
    return low.blocked(shape, x.dtype, block, mean)


def reduce_mean(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """ReduceMean over height and width is a global average pool."""
    x, axes = inputs[0], node.get("axes")
    if len(inputs) > 1 and inputs[1] is not None:
        axes = None if inputs[1].const is None else inputs[1].const.tolist()
    if x is None or not _images(x) or not x.block or axes is None:
        return None
    if sorted(a % 4 for a in axes) != [2, 3]:
        return None
    pooled = global_average_pool(low, node, [x])
    if pooled is None or node.get("keepdims", 1):
        return pooled
    return low.wrap(relax.op.squeeze(pooled.plain(), [2, 3]))


CONVERTERS = {
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average_pool,
}
