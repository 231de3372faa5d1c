"""Normalizations over the last axis: subtract the mean, divide by a norm, scale and shift."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import te

from optkit.compiler.operators.common import const, number, static
from optkit.compiler.operators.rows import map_of, partial, total_of, wide

Place = Callable[..., Any]
"""From an element's index to its place in the vectors of scales and shifts."""


def mean(data: te.Tensor, b: int) -> te.Tensor:
    """The mean of each row, in the type rows are computed in."""
    *lead, size = static(data.shape)
    kind = wide(str(data.dtype))
    total = partial("row_sum", lead, size, b, lambda *i: data(*i).astype(kind), te.sum, const(0, kind))
    return total_of(lambda *i: total(*i) / number(size, kind), lead, "row_mean")


def variance(data: te.Tensor, b: int, centre: te.Tensor | None = None) -> te.Tensor:
    """The mean of the squared distances from `centre` (the mean of squares where it is None)."""
    *lead, size = static(data.shape)
    kind = wide(str(data.dtype))

    def squared(*i: Any) -> Any:
        value = data(*i).astype(kind)
        value = value if centre is None else value - centre(*i[:-1])
        return value * value

    total = partial("row_square", lead, size, b, squared, te.sum, const(0, kind))
    return total_of(lambda *i: total(*i) / number(size, kind), lead, "row_variance")


def inverse_deviation(data: te.Tensor, epsilon: float, b: int) -> te.Tensor:
    """1 / sqrt(variance + epsilon) of each row."""
    spread = variance(data, b, mean(data, b))
    return _inverse(spread, epsilon, False)


def normalize(
    data: te.Tensor,
    scale: te.Tensor | None,
    shift: te.Tensor | None,
    epsilon: float,
    b: int,
    centred: bool = True,
    outside: bool = False,
    place: Place | None = None,
    dtype: str | None = None,
) -> te.Tensor:
    """(x - mean) / sqrt(variance + epsilon) * scale + shift over the last axis, in float32, two passes.

    Ba, Kiros and Hinton, "Layer Normalization", 2016, section 3. Not `centred`, it is Zhang and Sennrich, "Root Mean
    Square Layer Normalization", 2019. `outside`: epsilon is added to the root and not under it.
    `dtype` is the type of the result, the data's where it is None.
    """
    dtype, kind = dtype or str(data.dtype), wide(str(data.dtype))
    middle = mean(data, b) if centred else None
    inverse = _inverse(variance(data, b, middle), epsilon, outside)

    def out(*i: Any) -> Any:
        value = data(*i).astype(kind)
        value = (value if middle is None else value - middle(*i[:-1])) * inverse(*i[:-1])
        at = i[-1] if place is None else place(*i)
        if scale is not None:
            value = value * scale(at).astype(kind)
        return (value if shift is None else value + shift(at).astype(kind)).astype(dtype)

    return map_of(data.shape, out, "row_out")


def lp_normalize(data: te.Tensor, p: int, b: int) -> te.Tensor:
    """x / (the sum of |x|, or the root of the sum of squares); rows of zeros stay zeros."""
    *lead, size = static(data.shape)
    dtype = str(data.dtype)
    kind = wide(dtype)

    def measured(*i: Any) -> Any:
        value = data(*i).astype(kind)
        return te.abs(value) if p == 1 else value * value

    total = partial("row_norm", lead, size, b, measured, te.sum, const(0, kind))

    def inverse(*i: Any) -> Any:
        norm = total(*i) if p == 1 else te.sqrt(total(*i))
        return te.if_then_else(norm == const(0, kind), const(0, kind), const(1, kind) / norm)

    scale = total_of(inverse, lead, "row_inverse")
    return map_of(data.shape, lambda *i: (data(*i).astype(kind) * scale(*i[:-1])).astype(dtype), "row_out")


def _inverse(spread: te.Tensor, epsilon: float, outside: bool) -> te.Tensor:
    kind = str(spread.dtype)
    small = const(epsilon, kind)

    def value(*i: Any) -> Any:
        root = te.sqrt(spread(*i)) + small if outside else te.sqrt(spread(*i) + small)
        return const(1, kind) / root

    return total_of(value, static(spread.shape), "row_inverse")
