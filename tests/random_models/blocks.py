"""Steps of several operators, as networks have them: what the compiler knows together, next to anything else."""

from __future__ import annotations

import math

import numpy as np

from tests.random_models.grower import Dim, Extent, Grower, Tensor, size
from tests.random_models.windows import slid


def _image(g: Grower) -> tuple[Tensor, int] | None:
    """An image and its channels."""
    x = g.pick(rank=4)
    if x is None or not isinstance(x.shape[1], int) or x.elements > 12_000:
        return None
    return x, x.shape[1]


def _conv(g: Grower, x: Tensor, out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> Tensor | None:
    """A convolution padded to the size of its input, then an activation or none."""
    n, c, *sizes = x.shape
    assert isinstance(c, int)
    pads = kernel // 2
    ends = [slid(d, kernel, stride, 1, 2 * pads) for d in sizes]
    shape = (n, out, *[d for d in ends if d is not None])
    if len(shape) != x.rank or math.prod(map(size, shape)) > 20_000:
        return None
    weight = g.weight(out, c // groups, kernel, kernel, scale=1.2 / math.sqrt(c // groups * kernel * kernel))
    inputs = [x.name, weight, *([g.weight(out, scale=0.2)] if g.chance(0.7) else [])]
    (y,) = g.emit("Conv", inputs, shape, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pads] * 4, group=groups)
    return _activated(g, y)


def _together(parts: list[Tensor]) -> tuple[Dim, ...]:
    """The shape of images beside each other, channel behind channel."""
    n, _, *sizes = parts[0].shape
    return (n, sum(size(part.shape[1]) for part in parts), *sizes)


def _activated(g: Grower, x: Tensor) -> Tensor:
    kind = g.among("Relu", "Relu", "", "HardSwish", "SiLU", "Relu6", "LeakyRelu")
    if not kind:
        return x
    if kind == "SiLU":
        (gate,) = g.emit("Sigmoid", [x.name], x.shape)
        return g.emit("Mul", [x.name, gate.name], x.shape)[0]
    if kind == "Relu6":
        return g.emit("Clip", [x.name, g.constant(np.float32(0)), g.constant(np.float32(6))], x.shape)[0]
    return g.emit(kind, [x.name], x.shape)[0]


def residual(g: Grower) -> bool:
    """A bottleneck with its shortcut (He et al., 2016), or an inverted one (Sandler et al., 2018)."""
    found = _image(g)
    if found is None:
        return False
    x, c = found
    groups, wide = (0, 2 * c) if g.chance(0.4) else (1, max(1, c // 2))
    stride = g.among(1, 1, 2)
    y = _conv(g, x, wide)
    y = y and _conv(g, y, wide, 3, stride, groups or wide)
    y = y and _conv(g, y, c)
    short: Tensor | None = x if stride == 1 else _conv(g, x, c, 1, stride)
    if y is None or short is None or y.shape != short.shape:
        return False
    kept = g.keep("Add", [y.name, short.name] if g.chance(0.5) else [short.name, y.name], y.shape)
    return kept and (g.chance(0.4) or g.keep("Relu", [g.values[-1].name], y.shape))


def branches(g: Grower) -> bool:
    """Branches of convolutions and a pool that meet in a Concat (Szegedy et al., 2015)."""
    found = _image(g)
    if found is None:
        return False
    x, _ = found
    parts: list[Tensor] = [x] if g.chance(0.3) else []
    for _ in range(g.between(2, 3)):
        y = _conv(g, x, g.among(4, 8, 16, 20, 32), g.among(1, 1, 3))
        if y is not None and g.chance(0.4):
            y = _conv(g, y, g.among(8, 16), 3)
        parts += [y] if y is not None else []
    if g.chance(0.3) and all(size(d) > 2 for d in x.shape[2:]):
        (pooled,) = g.emit("MaxPool", [x.name], x.shape, kernel_shape=[3, 3], pads=[1] * 4, strides=[1, 1])
        parts.append(pooled)
    if len({p.shape[2:] for p in parts}) != 1:
        return False
    return g.keep("Concat", [p.name for p in parts], _together(parts), axis=1)


def dense(g: Grower) -> bool:
    """Layers that each read all before them (Huang et al., 2017)."""
    found = _image(g)
    if found is None:
        return False
    x, _ = found
    every = [x]
    for _ in range(g.between(2, 3)):
        joined, total = every[0], size(_together(every)[1])
        if len(every) > 1:
            (joined,) = g.emit("Concat", [v.name for v in every], _together(every), axis=1)
        if g.chance(0.6):
            given = [g.weight(total, scale=0.2, offset=1), *(g.weight(total, scale=0.2) for _ in range(2))]
            spread = g.constant(g.random.uniform(0.5, 2, total).astype("f4"))
            (joined,) = g.emit("BatchNormalization", [joined.name, *given, spread], joined.shape)
            (joined,) = g.emit("Relu", [joined.name], joined.shape)
        y = _conv(g, joined, g.among(8, 16, 12), 3)
        if y is None:
            return False
        every.append(y)
    return g.keep("Concat", [v.name for v in every], _together(every), axis=1)


def cross_stage(g: Grower) -> bool:
    """Half of the channels go through layers, every result is kept (C2f of YOLOv8)."""
    found = _image(g)
    if found is None:
        return False
    x, _ = found
    half = g.among(4, 8, 16)
    y = _conv(g, x, 2 * half)
    if y is None:
        return False
    shape = (x.shape[0], half, *x.shape[2:])
    a, b = g.emit("Split", [y.name, g.whole(half, half)], shape, shape, axis=1)
    parts = [a, b]
    for _ in range(g.between(1, 2)):
        z = _conv(g, parts[-1], half, 3)
        if z is None:
            return False
        if g.chance(0.6):
            (z,) = g.emit("Add", [parts[-1].name, z.name], shape)
        parts.append(z)
    return g.keep("Concat", [p.name for p in parts], _together(parts), axis=1)


def pyramid(g: Grower) -> bool:
    """What was shrunk is enlarged and meets what it came of (Ronneberger et al., 2015; Lin et al., 2017)."""
    found = _image(g)
    if found is None:
        return False
    x, c = found
    if not all(isinstance(d, int) and d % 2 == 0 for d in x.shape[2:]):
        return False
    low = _conv(g, x, c, 3, 2)
    if low is None:
        return False
    if g.chance(0.5):
        scales = g.constant(np.array([1, 1, 2, 2], "f4"))
        mode = g.among("nearest", "linear")
        more = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"} if mode == "nearest" else {}
        (up,) = g.emit("Resize", [low.name, "", scales], x.shape, mode=mode, **more)
    else:
        weight = g.weight(c, c, 2, 2, scale=1 / math.sqrt(c))
        (up,) = g.emit("ConvTranspose", [low.name, weight, g.weight(c, scale=0.2)], x.shape, strides=[2, 2])
    if g.chance(0.5):
        return g.keep("Add", [x.name, up.name], x.shape)
    return g.keep("Concat", [up.name, x.name], (x.shape[0], 2 * c, *x.shape[2:]), axis=1)


def convnext(g: Grower) -> bool:
    """Depthwise convolution, then a perceptron of every pixel, channels last (Liu et al., 2022)."""
    found = _image(g)
    if found is None or found[1] < 4:
        return False
    x, c = found
    n, _, h, w = x.shape
    y = _conv(g, x, c, g.among(3, 7), 1, c)
    if y is None or 3 * y.elements > 20_000:
        return False
    last: tuple[Dim, ...] = (n, h, w, c)
    (y,) = g.emit("Transpose", [y.name], last, perm=[0, 2, 3, 1])
    if g.chance(0.8):
        given = [y.name, g.weight(c, scale=0.2, offset=1), g.weight(c, scale=0.2)]
        (y,) = g.emit("LayerNormalization", given, last, epsilon=1e-3)
    for wide, active in ((3 * c, True), (c, False)):
        k = size(y.shape[3])
        shape = (n, h, w, wide)
        (y,) = g.emit("MatMul", [y.name, g.weight(k, wide, scale=1 / math.sqrt(k))], shape)
        (y,) = g.emit("Add", [y.name, g.weight(wide, scale=0.2)], shape)
        if active:
            (y,) = g.emit("Gelu", [y.name], shape)
    if g.chance(0.5):
        (y,) = g.emit("Mul", [y.name, g.weight(c, scale=0.3)], last)
    (y,) = g.emit("Transpose", [y.name], x.shape, perm=[0, 3, 1, 2])
    return g.keep("Add", [x.name, y.name], x.shape)


def patches(g: Grower) -> bool:
    """An image as tokens with their positions, a class token before them now and then (Dosovitskiy et al., 2021)."""
    found = _image(g)
    if found is None:
        return False
    x, c = found
    n, _, h, w = x.shape
    side, wide = g.among(1, 2, 4), g.among(8, 16, 24)
    if not (isinstance(h, int) and isinstance(w, int) and h % side == 0 and w % side == 0):
        return False
    shape = (n, wide, h // side, w // side)
    weight = g.weight(wide, c, side, side, scale=1 / math.sqrt(c * side * side))
    given = [x.name, weight, g.weight(wide, scale=0.2)]
    (y,) = g.emit("Conv", given, shape, kernel_shape=[side] * 2, strides=[side] * 2)
    count = (h // side) * (w // side)
    (y,) = g.emit("Reshape", [y.name, g.whole(0, wide, -1)], (n, wide, count))
    (y,) = g.emit("Transpose", [y.name], (n, count, wide), perm=[0, 2, 1])
    if isinstance(n, int) and g.chance(0.5):
        token = g.constant(g.random.standard_normal((n, 1, wide)).astype("f4"))
        count += 1
        (y,) = g.emit("Concat", [token, y.name], (n, count, wide), axis=1)
    return g.keep("Add", [y.name, g.weight(1, count, wide, scale=0.3)], (n, count, wide))


def encoder(g: Grower) -> bool:
    """The feed-forward half of a transformer's layer, its normalization before or after (Vaswani et al., 2017)."""
    x = g.pick(rank=3)
    if x is None or not isinstance(x.shape[2], int) or x.shape[2] < 4 or 2 * x.elements > 20_000:
        return False
    d = x.shape[2]
    first, y = g.chance(0.5), x
    given = [g.weight(d, scale=0.2, offset=1), g.weight(d, scale=0.2)]
    if first:
        (y,) = g.emit("LayerNormalization", [x.name, *given], x.shape, epsilon=1e-3)
    for wide in (2 * d, d):
        k = size(y.shape[2])
        shape = (*x.shape[:2], wide)
        (y,) = g.emit("MatMul", [y.name, g.weight(k, wide, scale=1 / math.sqrt(k))], shape)
        (y,) = g.emit("Add", [y.name, g.weight(wide, scale=0.2)], shape)
        if wide != d:
            (y,) = g.emit(g.among("Gelu", "Relu"), [y.name], shape)
    (y,) = g.emit("Add", [x.name, y.name], x.shape)
    if first:
        g.values.append(y)
        return True
    return g.keep("LayerNormalization", [y.name, *given], x.shape, epsilon=1e-3)


def recurrent(g: Grower) -> bool:
    """LSTM or GRU over the second axis, one way or both."""
    x = g.pick(rank=3)
    if x is None or not isinstance(x.shape[2], int) or not isinstance(x.shape[1], int) or x.shape[1] > 24:
        return False
    n, length, d = x.shape
    kind, hidden, ways = g.among("LSTM", "GRU"), g.among(4, 7, 16), g.among(1, 2)
    gates = {"LSTM": 4, "GRU": 3}[kind]
    (turned,) = g.emit("Transpose", [x.name], (length, n, d), perm=[1, 0, 2])
    given = [
        turned.name,
        g.weight(ways, gates * hidden, size(d), scale=1 / math.sqrt(size(d))),
        g.weight(ways, gates * hidden, hidden, scale=1 / math.sqrt(hidden)),
        g.weight(ways, 2 * gates * hidden, scale=0.2),
    ]
    more: dict[str, object] = {"direction": "bidirectional" if ways == 2 else g.among("forward", "reverse")}
    if kind == "GRU":
        more["linear_before_reset"] = g.between(0, 1)
    (y,) = g.emit(kind, given, (length, ways, n, hidden), hidden_size=hidden, **more)
    (y,) = g.emit("Transpose", [y.name], (length, n, ways, hidden), perm=[0, 2, 1, 3])
    (y,) = g.emit("Reshape", [y.name, g.whole(0, 0, -1)], (length, n, ways * hidden))
    return g.keep("Transpose", [y.name], (n, length, ways * hidden), perm=[1, 0, 2])


def shifted(g: Grower) -> bool:
    """An axis rolled around, as windows are (Liu et al., 2021, section 3.2)."""
    x = g.pick()
    if x is None:
        return False
    axes = x.axes(longer=2)
    if not axes:
        return False
    axis = g.among(*axes)
    d = size(x.shape[axis])
    cut = g.between(1, d - 1)
    parts: list[Tensor] = []
    for low, high in ((cut, d), (0, cut)):
        shape = (*x.shape[:axis], high - low, *x.shape[axis + 1 :])
        parts += g.emit("Slice", [x.name, g.whole(low), g.whole(high), g.whole(axis)], shape)
    return g.keep("Concat", [p.name for p in parts], x.shape, axis=axis)


def halves(g: Grower) -> bool:
    """Through float16 and back."""
    x = g.pick()
    if x is None:
        return False
    (half,) = g.emit("Cast", [x.name], x.shape, to=10)
    return g.keep("Cast", [half.name], x.shape, to=1)


def shaped(g: Grower) -> bool:
    """A Reshape to a shape computed of Shape, as PyTorch exports `x.view(x.size(0), -1)`."""
    x = g.pick()
    if x is None or x.rank < 3:
        return False
    (shape,) = g.emit("Shape", [x.name], (x.rank,))
    (first,) = g.emit("Gather", [shape.name, g.constant(np.int64(0))], ())
    (vector,) = g.emit("Unsqueeze", [first.name, g.whole(0)], (1,))
    (target,) = g.emit("Concat", [vector.name, g.whole(-1)], (2,), axis=0)
    rest = math.prod(size(d) for d in x.shape[1:])
    open_ones = [d for d in x.shape[1:] if isinstance(d, Extent)]
    if len(open_ones) > 1:
        return False
    merged: Dim = rest
    if open_ones:
        (d,) = open_ones
        merged = d if rest == d.size else Extent(f"({d.name})*{rest // d.size}", rest)
    return g.keep("Reshape", [x.name, target.name], (x.shape[0], merged))


STEPS = [
    *[residual] * 3,
    *[branches] * 2,
    dense,
    *[cross_stage] * 2,
    *[pyramid] * 2,
    convnext,
    *[patches] * 2,
    *[encoder] * 2,
    recurrent,
    shifted,
    halves,
    shaped,
]
