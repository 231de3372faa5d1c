"""Steps that sum over axes of any value: matrix products, attention, normalizations, reductions."""

from __future__ import annotations

import math

import numpy as np

from tests.random_models.grower import Extent, Grower, Tensor, size


def linear(g: Grower) -> bool:
    """MatMul by constant weights, a bias after it; Gemm where the value is a matrix."""
    x = g.pick()
    if x is None or x.rank < 2 or not isinstance(x.shape[-1], int):
        return False
    k, out = x.shape[-1], g.among(1, 5, 8, 16, 24, 32)
    shape = (*x.shape[:-1], out)
    scale = 1 / math.sqrt(k)
    if x.rank == 2 and g.chance(0.6):
        turned = g.chance(0.6)
        inputs = [x.name, g.weight(*((out, k) if turned else (k, out)), scale=scale)]
        if g.chance(0.7):
            inputs.append(g.weight(out, scale=0.3))
        return g.keep("Gemm", inputs, shape, transB=int(turned))
    (product,) = g.emit("MatMul", [x.name, g.weight(k, out, scale=scale)], shape)
    if g.chance(0.7):
        return g.keep("Add", [product.name, g.weight(out, scale=0.3)], shape)
    g.values.append(product)
    return True


def attention(g: Grower) -> bool:
    """Attention of a value to itself: one head or a few, with or without a mask."""
    x = g.pick(rank=3)
    if x is None or not isinstance(x.shape[2], int) or size(x.shape[1]) > 64:
        return False
    n, length, d = x.shape
    assert isinstance(d, int)
    heads, wide = g.among(1, 2, 4), g.among(4, 8, 16)
    parts: list[Tensor] = []
    for order in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]):
        (made,) = g.emit(
            "MatMul", [x.name, g.weight(d, heads * wide, scale=1 / math.sqrt(d))], (n, length, heads * wide)
        )
        if g.chance(0.5):
            (made,) = g.emit("Add", [made.name, g.weight(heads * wide, scale=0.3)], made.shape)
        (apart,) = g.emit("Reshape", [made.name, g.whole(0, 0, heads, wide)], (n, length, heads, wide))
        turned = tuple(apart.shape[i] for i in order)
        parts += g.emit("Transpose", [apart.name], turned, perm=order)
    q, k, v = parts
    (scores,) = g.emit("MatMul", [q.name, k.name], (n, heads, length, length))
    (scaled,) = g.emit("Mul", [scores.name, g.constant(np.float32(1 / math.sqrt(wide)))], scores.shape)
    if isinstance(length, int) and g.chance(0.5):
        mask = np.where(g.random.random((length, length)) < 0.3, np.float32(-1e4), np.float32(0))
        (scaled,) = g.emit("Add", [scaled.name, g.constant(mask)], scores.shape)
    (weights,) = g.emit("Softmax", [scaled.name], scores.shape, axis=-1)
    (mixed,) = g.emit("MatMul", [weights.name, v.name], (n, heads, length, wide))
    (back,) = g.emit("Transpose", [mixed.name], (n, length, heads, wide), perm=[0, 2, 1, 3])
    return g.keep("Reshape", [back.name, g.whole(0, 0, heads * wide)], (n, length, heads * wide))


def between_values(g: Grower) -> bool:
    """MatMul of a value with itself turned."""
    x = g.pick(rank=g.among(3, 4))
    if x is None or not isinstance(x.shape[-1], int):
        return False
    order = [*range(x.rank - 2), x.rank - 1, x.rank - 2]
    (turned,) = g.emit("Transpose", [x.name], tuple(x.shape[i] for i in order), perm=order)
    (safe,) = g.emit("Tanh", [turned.name], turned.shape)
    return g.keep("MatMul", [x.name, safe.name], (*x.shape[:-1], x.shape[-2]))


def softmax(g: Grower) -> bool:
    """Softmax or LogSoftmax along any axis."""
    x = g.pick()
    if x is None:
        return False
    axis = -1 if g.chance(0.6) else g.between(0, x.rank - 1)
    return g.keep(g.among("Softmax", "Softmax", "LogSoftmax"), [x.name], x.shape, axis=axis)


def layer_norm(g: Grower) -> bool:
    """LayerNormalization, InstanceNormalization or GroupNormalization."""
    x = g.pick()
    if x is None:
        return False
    kinds = ["Layer"] if isinstance(x.shape[-1], int) and x.shape[-1] > 3 else []
    channels = x.shape[1] if x.rank > 2 else 1
    many = isinstance(channels, int) and x.rank > 2 and math.prod(map(size, x.shape[2:])) > 3
    kinds += ["Instance"] if many else []
    kinds += ["Group"] if many and isinstance(channels, int) and channels % 2 == 0 else []
    if not kinds:
        return False
    kind = g.among(*kinds)
    c = size(x.shape[-1] if kind == "Layer" else channels)
    inputs = [x.name, g.weight(c, scale=0.2, offset=1), g.weight(c, scale=0.2)]
    attributes = {"Layer": {"axis": -1}, "Instance": {}, "Group": {"num_groups": 2}}[kind]
    return g.keep(f"{kind}Normalization", inputs, x.shape, epsilon=1e-3, **attributes)


def reduce(g: Grower) -> bool:
    """A reduction over some axes, which stay as ones or go."""
    x = g.pick()
    if x is None or x.rank < 2:
        return False
    op = g.among("ReduceMean", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceL2", "ReduceLogSumExp")
    axes = sorted({g.between(0, x.rank - 1) for _ in range(g.between(1, 2))})
    keep = g.chance(0.6)
    if not keep and len(axes) == x.rank:
        return False
    shape = tuple(1 if i in axes else d for i, d in enumerate(x.shape) if keep or i not in axes)
    if op == "ReduceSum":
        (x,) = g.emit("Mul", [x.name, g.constant(np.float32(1 / 8))], x.shape)
    return g.keep(op, [x.name, g.whole(*axes)], shape, keepdims=int(keep))


def squeeze_excite(g: Grower) -> bool:
    """Channels weighed by a small network of their means."""
    x = g.pick(rank=4)
    if x is None or not isinstance(x.shape[1], int):
        return False
    n, c = x.shape[:2]
    assert isinstance(c, int)
    hidden = max(1, c // 4)
    (mean,) = g.emit("GlobalAveragePool", [x.name], (n, c, 1, 1))
    (low,) = g.emit("Conv", [mean.name, g.weight(hidden, c, 1, 1, scale=1 / math.sqrt(c))], (n, hidden, 1, 1))
    (low,) = g.emit("Relu", [low.name], low.shape)
    up = [low.name, g.weight(c, hidden, 1, 1, scale=1 / math.sqrt(hidden)), g.weight(c)]
    (gate,) = g.emit("Conv", up, (n, c, 1, 1))
    (gate,) = g.emit(g.among("Sigmoid", "HardSigmoid"), [gate.name], gate.shape)
    return g.keep("Mul", [x.name, gate.name] if g.chance(0.5) else [gate.name, x.name], x.shape)


def running(g: Grower) -> bool:
    """CumSum."""
    x = g.pick()
    if x is None:
        return False
    axis = g.between(0, x.rank - 1)
    if isinstance(x.shape[axis], Extent):
        return False
    (small,) = g.emit("Mul", [x.name, g.constant(np.float32(1 / 8))], x.shape)
    return g.keep("CumSum", [small.name, g.constant(np.int64(axis))], x.shape, reverse=g.between(0, 1))


STEPS = [
    *[linear] * 4,
    *[attention] * 2,
    between_values,
    *[softmax] * 2,
    *[layer_norm] * 2,
    *[reduce] * 3,
    squeeze_excite,
    running,
]
