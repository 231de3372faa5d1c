"""Negative log likelihoods: what the class of every place costs, and its weight."""

from __future__ import annotations

from typing import Any

from tvm import te, tirx

from optkit.compiler.operators.common import const, static
from optkit.compiler.operators.rows import partial, wide


def picked(
    logs: te.Tensor, target: te.Tensor, weight: te.Tensor | None, ignored: int | None
) -> tuple[te.Tensor, te.Tensor]:
    """-logs[n, target[n, ...], ...] * weight[target] and the weights; 0 where the class is `ignored` or is none.

    A class below 0 or past the last one is looked up nowhere: ONNX leaves it undefined unless it is the ignored one.
    """
    kind = wide(str(logs.dtype))
    classes = logs.shape[1]

    def place(index: tuple[Any, ...]) -> tuple[Any, Any]:
        label = target(*index).astype("int64")
        valid = tirx.all(label >= 0, label < classes)
        if ignored is not None:
            valid = tirx.all(valid, label != const(ignored, "int64"))
        return valid, te.min(te.max(label, const(0, "int64")), classes - 1)

    def factor(*i: Any) -> Any:
        valid, label = place(i)
        one = const(1, kind) if weight is None else weight(label).astype(kind)
        return te.if_then_else(valid, one, const(0, kind))

    def cost(*i: Any) -> Any:
        valid, label = place(i)
        value = -logs(i[0], label, *i[1:]).astype(kind)
        value = value if weight is None else value * weight(label).astype(kind)
        return te.if_then_else(valid, value, const(0, kind))

    return te.compute(target.shape, cost, name="cost"), te.compute(target.shape, factor, name="weight")


def loss(logs: te.Tensor, target: te.Tensor, weight: te.Tensor | None, ignored: int | None, dtype: str) -> te.Tensor:
    """The cost of each place."""
    costs, _ = picked(logs, target, weight, ignored)
    return te.compute(costs.shape, lambda *i: costs(*i).astype(dtype), name="loss")


def reduced_loss(
    logs: te.Tensor, target: te.Tensor, weight: te.Tensor | None, ignored: int | None, mean: bool, b: int, dtype: str
) -> te.Tensor:
    """The sum of all costs, divided by the sum of all weights for the mean."""
    costs, factors = picked(logs, target, weight, ignored)
    total = _sum(costs, b, "cost_sum")
    if not mean:
        return te.compute((), lambda: total(0).astype(dtype), name="loss")
    weights = _sum(factors, b, "weight_sum")
    return te.compute((), lambda: (total(0) / weights(0)).astype(dtype), name="loss")


def _sum(data: te.Tensor, b: int, name: str) -> te.Tensor:
    """All elements in one number, through one partial sum a lane."""
    shape = static(data.shape)
    size = 1
    for extent in shape:
        size = size * extent

    def flat(_: Any, i: Any) -> Any:
        index = []
        for extent in reversed(shape):
            index.append(i % extent)
            i = i // extent
        return data(*reversed(index))

    return partial(name, [1], size, b, flat, te.sum, const(0, str(data.dtype)))
