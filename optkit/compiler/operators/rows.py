"""Operators over the last axis: softmax and its kin, reduced in vector-wide partial sums.

A reduction over N elements keeps `b` partial results, one a lane, and combines them at the end: the inner
loop is then a plain vector operation, and float32 sums are more accurate than running ones. What is
left of rows of open length, less than a vector, is reduced one by one.

Where `b` is 1 a reduction stays whole ("row_whole"), for the schedule to divide it among threads.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from tvm import te, tirx

from optkit.compiler.operators.common import OP, const, number, static
from optkit.compiler.operators.reductions import STEPS, Reduction, identity, reducer
from optkit.compiler.operators.transcendental import exp

_LONG, _SUMS = 64, 4
"""Vectors of a row that is summed in several vectors at once: an addition waits for the one before it."""
WHOLE = 1
"""The number of lanes of reductions that threads share."""


def wide(dtype: str) -> str:
    """The type a row is computed in."""
    return "float64" if dtype == "float64" else "float32"


def total_of(value: Any, lead: list[Any], name: str) -> te.Tensor:
    """A number a row, computed from other numbers of the row."""
    return te.compute(tuple(lead), value, name=name, attrs={OP: "row_total"})


def map_of(shape: Any, value: Any, name: str) -> te.Tensor:
    """An element a place of the row."""
    return te.compute(shape, value, name=name, attrs={OP: "row_map"})


def partial(
    name: str,
    lead: list[Any],
    size: Any,
    b: int,
    value: Callable[..., Any],
    combine: Any,
    empty: Any,
    wide: str | None = None,
    steps: Any = None,
    two: Callable[[Any, Any], Any] | None = None,
) -> te.Tensor:
    """Reduce `value(*lead, i)` over i in 0..size: first to `b` lanes, then to one number, of type `wide` if given.

    Args:
        steps: of an open size, how many whole vectors of `b` it is.
        two: what `combine` does with two numbers, where it is none of TVM's own.
    """
    if b == WHOLE:
        k = te.reduce_axis((0, size), "k")
        sums = te.compute(
            tuple(lead), lambda *i: combine(value(*i, k), axis=k), name=f"{name}_whole", attrs={OP: "row_whole"}
        )
        return sums if wide is None else total_of(lambda *i: sums(*i).astype(wide), lead, name)
    two = two or {te.max: tirx.max, te.min: tirx.min, te.sum: operator.add}[combine]
    tail = None
    if not isinstance(size, int) and steps is None:
        steps = tirx.floordiv(size, b)
        r = te.reduce_axis((0, tirx.floormod(size, b)), "r")
        last = tirx.floordiv(size, b) * b

        def rest(*i: Any) -> Any:
            read = value(*i, last + r)
            return combine(read if wide is None else read.astype(wide), axis=r)

        tail = te.compute(tuple(lead), rest, name=f"{name}_rest", attrs={OP: "row_rest"})
    if isinstance(size, int) and size >= _LONG * b:
        b *= _SUMS
    part = isinstance(size, int) and size % b > 0
    k = te.reduce_axis((0, -(-size // b) if steps is None else steps), "k")

    def lane(*i: Any) -> Any:
        at = k * b + i[-1]
        read = value(*i[:-1], at)
        return combine(te.if_then_else(at < size, read, empty) if part else read, axis=k)

    lanes = te.compute((*lead, b), lane, name=f"{name}_lanes", attrs={OP: "row_lanes"})
    while (not isinstance(size, int) or size > 2 * b) and b > 2 and b % 2 == 0:
        b //= 2
        lanes = te.compute((*lead, b), _folded(lanes, b, two, wide), name=f"{name}_half", attrs={OP: "row_half"})
    v = te.reduce_axis((0, b), "v")

    def together(*i: Any) -> Any:
        lane = lanes(*i, v)
        return combine(lane if wide is None else lane.astype(wide), axis=v)

    if tail is None:
        return te.compute(tuple(lead), together, name=name, attrs={OP: "row_total"})
    most = te.compute(tuple(lead), together, name=f"{name}_vectors", attrs={OP: "row_total"})
    return total_of(lambda *i: two(most(*i), tail(*i)), lead, name)


def _folded(lanes: te.Tensor, b: int, two: Any, wide: str | None) -> Callable[..., Any]:
    """The upper half of the lanes combined with the lower: sixteen numbers one by one would be a chain of additions."""

    def pair(*i: Any) -> Any:
        halves = (lanes(*i), lanes(*i[:-1], i[-1] + b))
        return two(*(half if wide is None else half.astype(wide) for half in halves))

    return pair


def reduced(data: te.Tensor, b: int, reduction: Reduction, count: Any = None) -> te.Tensor:
    """One number a row, in the data's type: its mean where the `count` of its elements is given."""
    *lead, size = static(data.shape)
    kind, combine = wide(str(data.dtype)), reduction.combine

    def value(*i: Any) -> Any:
        return reduction.before(data(*i).astype(kind))

    how = reducer(combine, kind), identity(combine, kind)
    total = partial("row_part", lead, size, b, value, *how, two=STEPS[combine])

    def result(*i: Any) -> Any:
        whole = reduction.after(total(*i))
        return (whole if count is None else whole / number(count, kind)).astype(str(data.dtype))

    return total_of(result, lead, "row_reduced")


def powers(data: te.Tensor, b: int) -> tuple[te.Tensor, te.Tensor, te.Tensor]:
    """A row's maximum, exp(x - maximum), and the sum of the latter."""
    *lead, size = static(data.shape)
    kind = wide(str(data.dtype))
    top = partial("row_max", lead, size, b, lambda *i: data(*i).astype(kind), te.max, tirx.min_value(kind))
    power = map_of(data.shape, lambda *i: raised(data(*i).astype(kind) - top(*i[:-1])), "row_exp")
    return top, power, partial("row_sum", lead, size, b, lambda *i: power(*i), te.sum, const(0, kind))


def raised(x: Any) -> Any:
    """e to the x, at most 0; float64 has no polynomial of ours.

    What is masked is 0, as it would be rounded; the least float32, divided by a sum, would be a denormal, and a row of
    those takes two and a half times as long.
    """
    if str(x.ty.dtype) == "float64":
        return te.exp(x)
    # What is 0 in the end is not computed as a denormal before: processors stumble over these.
    least = const(-87.0, "float32")
    return tirx.Select(x < least, const(0, "float32"), exp(te.max(least, x)))


def or_nan(total: Any, value: Any) -> Any:
    """NaN for a row of nothing but -inf: TVM's maximum of it is finite, so nothing in it gave exp(0) = 1."""
    kind = str(total.ty.dtype)
    return tirx.Select(total < const(0.5, kind), const(float("nan"), kind), value)


def softmax(data: te.Tensor, b: int, dtype: str | None = None) -> te.Tensor:
    """exp(x - max) / sum(exp(x - max)) over the last axis, in float32 (float64 in float64).

    `dtype` is the type of the result, the data's where it is None; so it is below.
    """
    *lead, _ = static(data.shape)
    dtype = dtype or str(data.dtype)
    _, power, total = powers(data, b)
    kind = wide(str(data.dtype))
    inverse = total_of(lambda *i: or_nan(total(*i), const(1, kind) / total(*i)), lead, "row_inverse")
    return map_of(data.shape, lambda *i: (power(*i) * inverse(*i[:-1])).astype(dtype), "row_out")


def log_softmax(data: te.Tensor, b: int, dtype: str | None = None) -> te.Tensor:
    """x - max - log(sum(exp(x - max))) over the last axis."""
    *lead, _ = static(data.shape)
    dtype = dtype or str(data.dtype)
    top, _, total = powers(data, b)
    shift = total_of(lambda *i: or_nan(total(*i), te.log(total(*i))), lead, "row_log")

    def out(*i: Any) -> Any:
        return (data(*i).astype(wide(str(data.dtype))) - top(*i[:-1]) - shift(*i[:-1])).astype(dtype)

    return map_of(data.shape, out, "row_out")


def hardmax(data: te.Tensor, b: int, dtype: str | None = None) -> te.Tensor:
    """1 at the first of a row's largest elements, 0 elsewhere."""
    *lead, size = static(data.shape)
    dtype = dtype or str(data.dtype)
    kind = wide(str(data.dtype))
    top = partial("row_max", lead, size, b, lambda *i: data(*i).astype(kind), te.max, tirx.min_value(kind))
    # TVM moves a conversion of indices out of the minimum, which then is none that threads can share.
    index = "int64" if b == WHOLE else "int32"
    none = tirx.max_value(index)

    def place(*i: Any) -> Any:
        return tirx.Select(data(*i).astype(kind) == top(*i[:-1]), i[-1].astype(index), none)

    first = partial("row_first", lead, size, b, place, te.min, none)

    def out(*i: Any) -> Any:
        return tirx.Select(i[-1].astype(index) == first(*i[:-1]), const(1, dtype), const(0, dtype))

    return map_of(data.shape, out, "row_out")
