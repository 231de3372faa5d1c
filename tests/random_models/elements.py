"""Steps element by element: activations, arithmetic with constants and between values."""

from __future__ import annotations

import numpy as np

from tests.random_models.grower import Dim, Extent, Grower, Tensor, size

PLAIN = [
    "Relu", "Relu", "Relu", "Sigmoid", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "LeakyRelu", "Elu", "Selu",
    "Celu", "Softplus", "Softsign", "Mish", "Gelu", "Erf", "Neg", "Abs", "Sin", "Cos", "Identity", "Atan",
]  # fmt: skip


def activate(g: Grower) -> bool:
    """One of ONNX's functions of one number."""
    x = g.pick()
    return x is not None and g.keep(g.among(*PLAIN), [x.name], x.shape)


def clip(g: Grower) -> bool:
    """Clip, or a PRelu with a slope a channel."""
    x = g.pick()
    if x is None:
        return False
    if g.chance(0.3) and x.rank > 2 and isinstance(x.shape[1], int):
        return g.keep("PRelu", [x.name, g.weight(x.shape[1], *[1] * (x.rank - 2), scale=0.3)], x.shape)
    low, high = g.among((0.0, 6.0), (-1.0, 1.0), (0.0, 1.0))
    return g.keep("Clip", [x.name, g.constant(np.float32(low)), g.constant(np.float32(high))], x.shape)


def guarded(g: Grower) -> bool:
    """Functions that not every number has: of what the step before makes safe."""
    x = g.pick()
    if x is None:
        return False
    op = g.among("Sqrt", "Log", "Reciprocal", "Exp")
    if op == "Exp":
        (safe,) = g.emit("Tanh", [x.name], x.shape)
    else:
        (positive,) = g.emit("Abs", [x.name], x.shape)
        (safe,) = g.emit("Add", [positive.name, g.constant(np.float32(0.5))], x.shape)
    return g.keep(op, [safe.name], x.shape)


def gated(g: Grower) -> bool:
    """SiLU as PyTorch exports it, or GELU by its formula."""
    x = g.pick()
    if x is None:
        return False
    if g.chance(0.5):
        (gate,) = g.emit("Sigmoid", [x.name], x.shape)
        return g.keep("Mul", [x.name, gate.name], x.shape)
    (scaled,) = g.emit("Div", [x.name, g.constant(np.float32(np.sqrt(2)))], x.shape)
    (error,) = g.emit("Erf", [scaled.name], x.shape)
    (one,) = g.emit("Add", [error.name, g.constant(np.float32(1))], x.shape)
    (product,) = g.emit("Mul", [x.name, one.name], x.shape)
    return g.keep("Mul", [product.name, g.constant(np.float32(0.5))], x.shape)


def with_constant(g: Grower) -> bool:
    """Arithmetic with a constant that is spread over some axes, on either side."""
    x = g.pick()
    if x is None:
        return False
    op = g.among("Add", "Add", "Mul", "Mul", "Sub", "Div", "Max", "Min", "Pow")
    if op == "Pow":
        return g.keep(op, [x.name, g.constant(np.float32(g.among(2, 3)))], x.shape)
    shape = [size(d) if isinstance(d, int) and g.chance(0.5) else 1 for d in x.shape]
    if g.chance(0.5):
        while shape and shape[0] == 1:
            shape.pop(0)
    if op == "Div":
        divisor = g.constant(g.random.uniform(0.7, 2, shape).astype("f4"))
        return g.keep(op, [x.name, divisor], x.shape)
    name = g.weight(*shape, scale=0.5, offset=1 if op == "Mul" else 0)
    return g.keep(op, [x.name, name] if g.chance(0.7) else [name, x.name], x.shape)


def _spread(a: Tensor, b: Tensor) -> tuple[Dim, ...] | None:
    """The shape of both together by NumPy's rules; None where they have none."""
    rank = max(a.rank, b.rank)
    shape: list[Dim] = []
    for p, q in zip((1,) * (rank - a.rank) + a.shape, (1,) * (rank - b.rank) + b.shape, strict=True):
        names = [d.name if isinstance(d, Extent) else d for d in (p, q)]
        if names[0] != names[1] and 1 not in names:
            return None
        shape.append(q if p == 1 else p)
    return tuple(shape)


def together(g: Grower) -> bool:
    """Arithmetic between two values, spread over each other where they have to be."""
    a = g.pick()
    if a is None:
        return False
    shapes = {v.name: _spread(a, v) for v in g.values}
    others = [v for v in g.values if shapes[v.name] is not None]
    same = [v for v in others if v.shape == a.shape and v is not a]
    b = g.among(*(same if same and g.chance(0.7) else others))
    shape = shapes[b.name]
    assert shape is not None
    op = g.among("Add", "Add", "Add", "Mul", "Sub", "Max", "Min", "Sum", "Mean")
    if op == "Mul":
        (safe,) = g.emit("Tanh", [b.name], b.shape)
        return g.keep(op, [a.name, safe.name], shape)
    return g.keep(op, [a.name, b.name] if g.chance(0.7) else [b.name, a.name], shape)


def select(g: Grower) -> bool:
    """Where by a constant mask."""
    a = g.pick()
    if a is None:
        return False
    mask = g.constant(g.random.random([size(d) if isinstance(d, int) else 1 for d in a.shape]) < 0.5)
    other = g.constant(np.float32(g.among(0.0, -1.0)))
    return g.keep("Where", [mask, a.name, other] if g.chance(0.5) else [mask, other, a.name], a.shape)


STEPS = [*[activate] * 5, *[clip] * 2, guarded, *[gated] * 2, *[with_constant] * 3, *[together] * 6, select]
