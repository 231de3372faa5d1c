"""Pooling over blocked activations; maxima of quantized values stay integers (see integer.py)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax

from optkit.compiler.converters.geometry import open_size, static_shape, window, windows
from optkit.compiler.lowering import Converter, Lowering, Node
from optkit.compiler.operators import pool as define
from optkit.compiler.operators import quant
from optkit.compiler.operators import windows as general
from optkit.compiler.values import INJECTIVE, OPAQUE, OUT_FUSABLE, PLAIN, Dequantized, Value

_REAL = ("float32", "float16")


def _block(low: Lowering, x: Value) -> int:
    """Pools keep the layout they find, and block plain inputs: windows vectorize over channels."""
    return x.block or low.target.lanes


def _images(x: Value | None) -> bool:
    return x is not None and len(x.shape) == 4 and static_shape(x, 1, 2, 3) and x.dtype != "float64"


def _open_images(x: Value) -> bool:
    """Whether templates pool images that may be of open size."""
    return len(x.shape) == 4 and static_shape(x, 1) and x.dtype != "float64"


def _size(node: Node, x: Value) -> Sequence[int] | None:
    """The size that decides on the padding of images that a template pools; None where none does."""
    if _images(x):
        return x.shape[2:]
    return open_size(node, node.get("kernel_shape")) if _open_images(x) and not node.get("ceil_mode", 0) else None


def max_pool(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | Sequence[Value]:
    """MaxPool; with indices, or over other than two dimensions, on plain tensors."""
    x = inputs[0]
    assert x is not None
    size = _size(node, x)
    if size is None or node.outputs != 1:
        return general_pool(low, node, x)
    n, c, h, w = x.shape
    geometry, ceil = window(node, node.get("kernel_shape"), size), bool(node.get("ceil_mode", 0))
    block = _block(low, x)
    out = low.emit(define.max_pool2d, x.form(block), geometry, ceil, name="max_pool2d", kind=OUT_FUSABLE)
    return low.blocked((n, c, *geometry.output(h, w, ceil)), x.dtype, block, out)


def average_pool(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | Sequence[Value]:
    """AveragePool: a window sum over the number of elements, which differs at the border."""
    x = inputs[0]
    assert x is not None
    size = _size(node, x)
    if size is None:
        return general_pool(low, node, x)
    n, c, h, w = x.shape
    geometry, ceil = window(node, node.get("kernel_shape"), size), bool(node.get("ceil_mode", 0))
    include = bool(node.get("count_include_pad", 0))
    oh, ow = geometry.output(h, w, ceil)
    block = _block(low, x)
    if not _images(x):
        if any(geometry.pads) and not include:
            return general_pool(low, node, x)
        total = low.emit(define.sum_pool2d, x.form(block), geometry, ceil, name="sum_pool2d", kind=OUT_FUSABLE)
        return _mean(low, x, (n, c, oh, ow), block, total, np.float32(math.prod(geometry.kernel)))
    rows = np.array(define.window_sizes(h, oh, geometry, 0, include), "float32")
    columns = np.array(define.window_sizes(w, ow, geometry, 1, include), "float32")
    counts = np.maximum(np.outer(rows, columns), 1.0).astype("float32")
    counts = counts[0, 0] if (counts == counts[0, 0]).all() else counts.reshape(1, 1, oh, ow, 1)
    total = low.emit(define.sum_pool2d, x.form(block), geometry, ceil, name="sum_pool2d", kind=OUT_FUSABLE)
    return _mean(low, x, (n, c, oh, ow), block, total, counts)


def global_average_pool(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """The mean over all spatial axes; quantized images are summed exactly in int32."""
    x = inputs[0]
    if x is None or x.const is not None:
        return None
    if not _images(x) and not (x.dtype in _REAL and _open_images(x)):
        return global_pool(low, node, [x])
    n, c, h, w = x.shape
    block = _block(low, x)
    if not _images(x):
        given: tuple[Any, ...] = x.form(block), _flat(low)
        if isinstance(x, Dequantized):
            given = x.affine.q.form(block), _flat(low), x.affine.scale, x.affine.zero
        mean = low.emit(define.global_mean, *given, name="global_mean", kind=OUT_FUSABLE)
        mean = low.bind(relax.op.astype(mean, x.dtype)) if x.dtype != "float32" else mean
        return low.blocked((n, c, 1, 1), x.dtype, block, mean)
    if isinstance(x, Dequantized):
        a = x.affine
        total = low.emit(define.global_sum, a.q.form(block), name="global_sum", kind=OUT_FUSABLE)
        total = low.emit(quant.dequantize, total, a.scale, a.zero * h * w, name="dequantize")
    else:
        total = low.emit(define.global_sum, x.form(block), name="global_sum", kind=OUT_FUSABLE)
    return _mean(low, x, (n, c, 1, 1), block, total, np.float32(h * w))


def _flat(low: Lowering) -> bool:
    """Whether positions of open images are one axis, as threads divide it; on a CPU each would be two quotients."""
    return low.target.device == "cuda"


def _mean(low: Lowering, x: Value, shape: Any, block: int, total: Any, counts: Any) -> Value:
    """Sums over counts. Of quantized values sums are exact, and means often lie half-way between two integers: divided,
    as ONNX Runtime does it, they are rounded once."""
    if low.rounded:
        mean = low.bind(relax.op.divide(total, relax.const(counts)))
    else:
        mean = low.bind(relax.op.multiply(total, relax.const((1.0 / counts).astype("float32"))))
    if x.dtype == "float16":
        mean = low.bind(relax.op.astype(mean, "float16"))
    return low.blocked(shape, x.dtype, block, mean)


def global_max_pool(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """The maximum over all spatial axes; the empty lanes of a block hold what they hold."""
    x = inputs[0]
    if x is None or x.const is not None:
        return None
    if x.dtype not in (*_REAL, "uint8", "int8") or not (_images(x) or _open_images(x)):
        return global_pool(low, node, [x])
    block = _block(low, x)
    top = low.emit(define.global_max, x.form(block), _flat(low), name="global_max", kind=OUT_FUSABLE)
    return low.blocked((*x.shape[:2], 1, 1), x.dtype, block, top)


_GLOBAL = {"ReduceMean": global_average_pool, "ReduceMax": global_max_pool}


def reduce_images(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | None:
    """ReduceMean or ReduceMax over height and width is a global pool."""
    x, axes = inputs[0], node.get("axes")
    if len(inputs) > 1 and inputs[1] is not None:
        axes = None if inputs[1].const is None else inputs[1].const.tolist()
    if x is None or not (_images(x) or _open_images(x)) or not x.block or axes is None:
        return None
    if sorted(a % 4 for a in axes) != [2, 3]:
        return None
    pooled = _GLOBAL[node.op_type](low, node, [x])
    if pooled is None or node.get("keepdims", 1):
        return pooled
    return low.wrap(relax.op.squeeze(pooled.plain(), [2, 3]))


def general_pool(low: Lowering, node: Node, x: Value) -> Value | Sequence[Value]:
    """Any pool over plain tensors."""
    space = x.shape[2:]
    window = windows(node, list(node.get("kernel_shape")))
    out = window.output(space)
    shape = (*x.shape[:2], *out)
    data = x.plain()
    if "Max" in node.op_type:
        top = low.emit(general.max_pool, data, window, name="max_pool", kind=OUT_FUSABLE)
        found = low.blocked(shape, x.dtype, PLAIN, top)
        if node.outputs == 1:
            return found
        by_column = bool(node.get("storage_order", 0))
        index = low.emit(general.max_indices, data, top, window, by_column, name="max_indices", kind=OPAQUE)
        return [found, low.blocked(shape, "int64", PLAIN, index)]
    power = float(node.get("p", 2)) if "Lp" in node.op_type else 0.0
    total = low.emit(general.sum_pool, data, window, power, name="sum_pool", kind=OUT_FUSABLE)
    if power:
        expr = low.emit(general.root, total, power, x.dtype, name="root", kind=INJECTIVE)
    else:
        include = bool(node.get("count_include_pad", 0))
        expr = low.emit(general.average, total, data, window, include, name="average", kind=OPAQUE)
    return low.blocked(shape, x.dtype, PLAIN, expr)


def lp_pool(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | Sequence[Value]:
    """LpPool: the p-norm of every window; padding counts as zero."""
    x = inputs[0]
    assert x is not None
    return general_pool(low, node, x)


def global_pool(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """Global pools as reductions over all spatial axes, symbolic ones included."""
    x = inputs[0]
    assert x is not None
    axes = list(range(2, len(x.shape)))
    data = x.plain()
    if node.op_type == "GlobalMaxPool":
        return low.wrap(relax.op.max(data, axes, keepdims=True))
    kind = "float64" if x.dtype == "float64" else "float32"
    data = low.bind(relax.op.astype(data, kind)) if x.dtype != kind else data
    if node.op_type == "GlobalLpPool":
        power = float(node.get("p", 2))
        powers = low.bind(relax.op.power(low.bind(relax.op.abs(data)), relax.const(power, kind)))
        total = low.bind(relax.op.sum(powers, axes, keepdims=True))
        result = low.bind(relax.op.power(total, relax.const(1 / power, kind)))
    else:
        result = low.bind(relax.op.mean(data, axes, keepdims=True))
    return low.wrap(relax.op.astype(result, x.dtype) if x.dtype != kind else result)


CONVERTERS: dict[str, Converter] = {
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "LpPool": lp_pool,
    "GlobalMaxPool": global_max_pool,
    "GlobalLpPool": global_pool,
    "GlobalAveragePool": global_average_pool,
}
