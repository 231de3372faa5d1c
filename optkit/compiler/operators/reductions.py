"""Reductions over axes that are known, or that a tensor names when the model runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import te, tirx

from optkit.compiler.operators.common import const, number, static
from optkit.compiler.operators.scalars import largest, select, smallest

Scalar = Callable[[Any], Any]
Read = Callable[[Sequence[Any], Sequence[Any]], Any]
"""The element at an index of the result and an index into what is reduced."""


@dataclass(frozen=True)
class Domain:
    """What is reduced: extents of the result, of the reduced axes, and how an element is found."""

    outer: list[Any]
    inner: list[Any]
    read: Read


@dataclass(frozen=True)
class Reduction:
    """`after(combine(before(x)))`; `combine` is sum, prod, max or min.

    Attributes:
        real: computed in floating point whatever the type is.
    """

    combine: str
    before: Scalar = lambda x: x
    after: Scalar = lambda x: x
    real: bool = False


REDUCTIONS = {
    "ReduceSum": Reduction("sum"),
    "ReduceProd": Reduction("prod"),
    "ReduceMax": Reduction("max"),
    "ReduceMin": Reduction("min"),
    "ReduceL1": Reduction("sum", lambda x: tirx.abs(x) if str(x.ty.dtype)[0] != "u" else x),
    "ReduceL2": Reduction("sum", lambda x: x * x, tirx.sqrt, real=True),
    "ReduceSumSquare": Reduction("sum", lambda x: x * x),
    "ReduceLogSum": Reduction("sum", after=tirx.log, real=True),
}


def identity(combine: str, dtype: str) -> Any:
    """What a reduction over nothing gives."""
    if combine in ("sum", "prod"):
        return const(0 if combine == "sum" else 1, dtype)
    if dtype.startswith("float"):
        return const(float("-inf") if combine == "max" else float("inf"), dtype)
    return tirx.min_value(dtype) if combine == "max" else tirx.max_value(dtype)


STEPS: dict[str, Callable[[Any, Any], Any]] = {
    "sum": lambda a, b: a + b,
    "prod": lambda a, b: a * b,
    "max": largest,
    "min": smallest,
}
"""What is done with two numbers; NaNs go through."""


def reducer(combine: str, dtype: str) -> Any:
    """TVM's commutative reducer, through which NaNs go."""
    return te.comm_reducer(STEPS[combine], lambda _type: identity(combine, dtype), name=combine)


def empty(extents: Sequence[Any]) -> bool:
    """Whether there is certainly nothing to reduce."""
    return any(isinstance(d, int) and d == 0 for d in static(extents))


def total(domain: Domain, combine: str, dtype: str, value: Callable[[Sequence[Any], Any], Any], name: str) -> te.Tensor:
    """`combine` over value(result index, element as `dtype`)."""
    if empty(domain.inner):
        return te.compute(tuple(domain.outer), lambda *o: identity(combine, dtype), name=name)
    if not domain.inner:
        return te.compute(tuple(domain.outer), lambda *o: value(o, domain.read(o, ()).astype(dtype)), name=name)
    axes = [te.reduce_axis((0, extent), f"r{i}") for i, extent in enumerate(domain.inner)]
    combined = reducer(combine, dtype)
    return te.compute(
        tuple(domain.outer), lambda *o: combined(value(o, domain.read(o, axes).astype(dtype)), axis=axes), name=name
    )


def reduce(domain: Domain, reduction: Reduction, wide: str, dtype: str) -> te.Tensor:
    """A reduction in the type `wide`, its result in `dtype`."""
    found = total(domain, reduction.combine, wide, lambda o, x: reduction.before(x), "total")

    def element(*o: Any) -> Any:
        result = reduction.after(found(*o))
        return result > const(0, wide) if dtype == "bool" else result.astype(dtype)

    return te.compute(found.shape, element, name="reduced")


def mean(domain: Domain, count: Any, wide: str, dtype: str) -> te.Tensor:
    """The sum over `count`; integers are divided towards zero."""
    found = total(domain, "sum", wide, lambda o, x: x, "total")
    elements = number(count, wide)
    if wide.startswith("float"):
        return te.compute(found.shape, lambda *o: (found(*o) / elements).astype(dtype), name="mean")
    return te.compute(found.shape, lambda *o: tirx.truncdiv(found(*o), elements).astype(dtype), name="mean")


def log_sum_exp(domain: Domain, wide: str, dtype: str) -> te.Tensor:
    """max + log(sum(exp(x - max))); where the largest is infinite, log(sum(exp(x)))."""
    top = total(domain, "max", wide, lambda o, x: x, "top")
    finite = te.compute(
        top.shape,
        lambda *o: select(tirx.abs(top(*o)) < tirx.infinity(wide), top(*o), const(0, wide)),
        name="finite_top",
    )
    power = total(domain, "sum", wide, lambda o, x: tirx.exp(x - finite(*o)), "power_sum")
    return te.compute(power.shape, lambda *o: (tirx.log(power(*o)) + finite(*o)).astype(dtype), name="log_sum")


def along(data: te.Tensor, axes: Sequence[int], keep: bool) -> Domain:
    """Known axes, kept with extent 1 or dropped."""
    shape = static(data.shape)
    kept = [d for d in range(len(shape)) if d not in axes]
    outer = [1 if d in axes else e for d, e in enumerate(shape) if keep or d not in axes]

    def read(o: Sequence[Any], r: Sequence[Any]) -> Any:
        index: list[Any] = [None] * len(shape)
        for at, d in enumerate(kept):
            index[d] = o[d if keep else at]
        for d, i in zip(sorted(axes), r, strict=True):
            index[d] = i
        return data(*index)

    return Domain(outer, [shape[d] for d in sorted(axes)], read)


def along_named(data: te.Tensor, flags: te.Tensor, size: Any, fold: Any) -> Domain:
    """Axes that are flagged when the model runs: `size` results, in the order of the kept axes, of `fold` elements."""
    shape = [const(e, "int64") if isinstance(e, int) else e for e in static(data.shape)]
    one = const(1, "int64")

    def read(o: Sequence[Any], r: Sequence[Any]) -> Any:
        outside, inside = o[0].astype("int64"), r[0].astype("int64")
        index: list[Any] = [None] * len(shape)
        for d in reversed(range(len(shape))):
            gone = flags(const(d, "int64")) == one
            kept, folded = select(gone, one, shape[d]), select(gone, shape[d], one)
            index[d] = tirx.truncmod(outside, kept) + tirx.truncmod(inside, folded)
            outside, inside = tirx.truncdiv(outside, kept), tirx.truncdiv(inside, folded)
        return data(*index)

    return Domain([size], [fold], read)


__all__ = ["REDUCTIONS", "Domain", "Reduction", "along", "along_named", "empty", "identity", "log_sum_exp", "mean"]
__all__ += ["reduce", "reducer"]
