"""Operators over the last axis: softmax and layer normalization, reduced in vector-wide partial sums.

A reduction over N elements keeps `b` partial results, one a lane, and combines them at the end: the inner
loop is then a plain vector operation, and float32 sums are more accurate than running ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import te, tirx

from optkit.compiler.operators.common import OP, const, static
from optkit.compiler.operators.transcendental import exp


def partial(
    name: str,
    lead: list[Any],
    size: int,
    b: int,
    value: Callable[..., Any],
    combine: Any,
    empty: Any,
    wide: str | None = None,
) -> te.Tensor:
    """Reduce `value(*lead, i)` over i in 0..size: first to `b` lanes, then to one number, of type `wide` if given."""
    steps = -(-size // b)
    k = te.reduce_axis((0, steps), "k")

    def lane(*i: Any) -> Any:
        at = k * b + i[-1]
        read = value(*i[:-1], at)
        return combine(read if size % b == 0 else te.if_then_else(at < size, read, empty), axis=k)

    lanes = te.compute((*lead, b), lane, name=f"{name}_lanes", attrs={OP: "row_lanes"})
    v = te.reduce_axis((0, b), "v")

    def together(*i: Any) -> Any:
        lane = lanes(*i, v)
        return combine(lane if wide is None else lane.astype(wide), axis=v)

    return te.compute(tuple(lead), together, name=name, attrs={OP: "row_total"})


def softmax(data: te.Tensor, b: int) -> te.Tensor:
    """exp(x - max) / sum(exp(x - max)) over the last axis, in float32."""
    *lead, size = static(data.shape)
    dtype = str(data.dtype)
    lowest = tirx.min_value("float32")
    top = partial("row_max", lead, size, b, lambda *i: data(*i).astype("float32"), te.max, lowest)
    power = te.compute(
        data.shape,
        lambda *i: exp(data(*i).astype("float32") - top(*i[:-1])),
        name="row_exp",
        attrs={OP: "row_map"},
    )
    total = partial("row_sum", lead, size, b, lambda *i: power(*i), te.sum, const(0, "float32"))
    inverse = te.compute(
        tuple(lead), lambda *i: const(1, "float32") / total(*i), name="row_inverse", attrs={OP: "row_total"}
    )
    return te.compute(
        data.shape,
        lambda *i: (power(*i) * inverse(*i[:-1])).astype(dtype),
        name="row_out",
        attrs={OP: "row_map"},
    )


def layer_norm(data: te.Tensor, scale: te.Tensor, shift: te.Tensor | None, epsilon: float, b: int) -> te.Tensor:
    """(x - mean) / sqrt(var + epsilon) * scale + shift over the last axis, in float32, two passes.

    Ba, Kiros and Hinton, "Layer Normalization", 2016, section 3.
    """
    *lead, size = static(data.shape)
    dtype = str(data.dtype)
    count = const(1.0 / size, "float32")
    zero = const(0, "float32")
    total = partial("row_sum", lead, size, b, lambda *i: data(*i).astype("float32"), te.sum, zero)
    mean = te.compute(tuple(lead), lambda *i: total(*i) * count, name="row_mean", attrs={OP: "row_total"})

    def squared(*i: Any) -> Any:
        centred = data(*i).astype("float32") - mean(*i[:-1])
        return centred * centred

    variance = partial("row_square", lead, size, b, squared, te.sum, zero)
    inverse = te.compute(
        tuple(lead),
        lambda *i: const(1, "float32") / te.sqrt(variance(*i) * count + const(epsilon, "float32")),
        name="row_inverse",
        attrs={OP: "row_total"},
    )

    def out(*i: Any) -> Any:
        value = (data(*i).astype("float32") - mean(*i[:-1])) * inverse(*i[:-1])
        value = value * scale(i[-1]).astype("float32")
        return (value + shift(i[-1]).astype("float32") if shift is not None else value).astype(dtype)

    return te.compute(data.shape, out, name="row_out", attrs={OP: "row_map"})
