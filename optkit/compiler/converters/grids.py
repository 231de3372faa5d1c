"""CenterCropPad, whose size is a constant or declared, and Dropout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax, te

from optkit.compiler.converters.extents import declared, known_extents, refuse
from optkit.compiler.lowering import Converter, Lowering, Node
from optkit.compiler.operators.common import const
from optkit.compiler.values import Value

op = relax.op


def center_crop_pad(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    """CenterCropPad: axes are cut or padded with zeros, as much in front as behind (one more behind)."""
    x, target = inputs
    assert x is not None
    rank = len(x.shape)
    axes = [int(a) % rank for a in node.get("axes", range(rank))]
    shape: list[Any] = list(x.shape)
    wanted, known = known_extents(target), declared(low, node)
    for place, axis in enumerate(axes):
        shape[axis] = wanted[place] if wanted is not None else None if known is None else known[axis]
        if shape[axis] is None:
            raise refuse(node, "its target is known at run time only; make `shape` a constant")

    def kernel(data: te.Tensor) -> te.Tensor:
        def element(*index: Any) -> Any:
            at, inside = list(index), []
            for axis in axes:
                old, new = x.shape[axis], shape[axis]
                if isinstance(old, int) and isinstance(new, int):
                    shift = (old - new) // 2 if old >= new else -((new - old) // 2)
                    partial = new > old
                else:
                    shift = te.if_then_else(old >= new, (old - new) // 2, -((new - old) // 2))
                    partial = True
                at[axis] = index[axis] + shift
                if partial:
                    inside += [at[axis] >= 0, at[axis] < old]
            value = data(*at)
            return te.if_then_else(te.all(*inside), value, const(0, x.dtype)) if inside else value

        return te.compute(tuple(shape), element, name="center")

    return low.wrap(low.emit(kernel, x.plain(), name="center_crop_pad"))


def dropout(low: Lowering, node: Node, inputs: list[Value | None]) -> Value | Sequence[Value]:
    """Dropout: the identity, and in training a mask drawn when compiling, by the generator of ONNX's reference.

    Refused in training without a seed, for every run would need numbers of its own.
    """
    x, ratio, training = [*inputs, *[None] * (3 - len(inputs))][:3]
    assert x is not None
    off = training is None or (training.const is not None and not bool(training.const.reshape(-1)[0]))
    if off or (ratio is not None and ratio.const is not None and not ratio.const.any()):
        if node.outputs == 1:
            return x
        mask = op.full(relax.ShapeExpr(list(x.shape)), relax.const(True, "bool"), "bool")
        return [x, low.wrap(low.bind(mask))]
    seed = node.get("seed")
    if seed is None or not all(isinstance(d, int) for d in x.shape):
        raise refuse(node, "dropout in training needs a seed and a static shape; export the model for inference")
    drawn = np.random.RandomState(int(seed)).uniform(0, 1.0, x.shape)
    if ratio is None:
        ratio = Value(low, (), "float32", const=np.asarray(0.5, "float32"))
    return _drop(low, node, x, drawn, ratio, training)


def _drop(
    low: Lowering, node: Node, x: Value, drawn: np.ndarray, ratio: Value, training: Value | None
) -> Value | Sequence[Value]:
    """x * mask / (1 - ratio) where training is on, decided when the model runs."""
    assert training is not None
    # Compared in float64, as they were drawn; a float32 could round up to the ratio.
    wide = low.bind(op.astype(ratio.plain(), "float64"))
    kept = low.bind(op.greater_equal(relax.const(drawn), wide))
    mask = low.bind(op.logical_or(kept, low.bind(op.logical_not(training.plain()))))
    kind = "float64" if x.dtype == "float64" else "float32"
    one = relax.const(1, kind)
    rate = low.bind(op.where(training.plain(), low.bind(op.astype(ratio.plain(), kind)), relax.const(0, kind)))
    scale = low.bind(op.divide(one, low.bind(op.subtract(one, rate))))
    data = x.plain() if x.dtype == kind else low.bind(op.astype(x.plain(), kind))
    scaled = low.bind(op.multiply(data, scale))
    y = low.bind(op.where(mask, scaled, relax.const(0, kind)))
    y = y if kind == x.dtype else low.bind(op.astype(y, x.dtype))
    return [low.wrap(y), low.wrap(mask)][: node.outputs]


CONVERTERS: dict[str, Converter] = {
    "CenterCropPad": center_crop_pad,
    "Dropout": dropout,
}
