"""Movements whose parameters are tensors: the extents they lead to, and the elements they read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx

from optkit.compiler.operators.common import const, static
from optkit.compiler.operators.scalars import select

INT = "int64"


def wide(extent: Any) -> Any:
    """An extent as an int64 expression."""
    return const(extent, INT) if isinstance(extent, int) else extent.astype(INT)


def per_axis(i: Any, values: Sequence[Any]) -> Any:
    """`values[i]` for an index that is an expression."""
    found = values[-1]
    for d in reversed(range(len(values) - 1)):
        found = select(i.astype(INT) == const(d, INT), values[d], found)
    return found


def vector(values: Sequence[Any], name: str) -> te.Tensor:
    """A tensor of expressions."""
    if not values:
        return te.compute((0,), lambda i: const(0, INT), name=name)
    return te.compute((len(values),), lambda i: per_axis(i, values), name=name)


def elements(data: te.Tensor) -> list[Any]:
    """The elements of a vector of known length."""
    return [data(const(i, INT)).astype(INT) for i in range(int(static(data.shape)[0]))]


def product(values: Sequence[Any]) -> Any:
    """The product of expressions."""
    total = const(1, INT)
    for value in values:
        total = total * value
    return total


def named(axes: Sequence[Any], values: Sequence[Any], rank: int, default: Any) -> list[Any]:
    """For every axis the value whose axis number names it, else the default (or the axis' own)."""
    found = [default(d) if callable(default) else default for d in range(rank)]
    for axis, value in zip(axes, values, strict=True):
        for d in range(rank):
            found[d] = select(tirx.any(axis == const(d, INT), axis == const(d - rank, INT)), value, found[d])
    return found


def reshaped(target: te.Tensor, shape: Sequence[Any], allow_zero: bool) -> te.Tensor:
    """Reshape's target with 0 and -1 resolved."""
    given = elements(target)
    zero, one = const(0, INT), const(1, INT)
    known = []
    for at, size in enumerate(given):
        copied = wide(shape[at]) if at < len(shape) else zero
        known.append(size if allow_zero else select(size == zero, copied, size))
    rest = product([select(size == const(-1, INT), one, size) for size in known])
    total = product([wide(d) for d in shape])
    inferred = select(rest == zero, zero, tirx.truncdiv(total, select(rest == zero, one, rest)))
    return vector([select(size == const(-1, INT), inferred, size) for size in known], "sizes")


def expanded(target: te.Tensor, shape: Sequence[Any]) -> te.Tensor:
    """The common shape of a tensor and a target, as numpy broadcasts."""
    given = elements(target)
    rank = max(len(given), len(shape))
    left = [const(1, INT)] * (rank - len(shape)) + [wide(d) for d in shape]
    right = [const(1, INT)] * (rank - len(given)) + given
    return vector([select(a == const(1, INT), b, a) for a, b in zip(left, right, strict=True)], "sizes")


def expand(data: te.Tensor, shape: Sequence[Any]) -> te.Tensor:
    """`data` repeated along axes of one element, found out at run time where an extent is open."""
    source = static(data.shape)
    offset = len(shape) - len(source)

    def element(*index: Any) -> Any:
        at = []
        for extent, size, i in zip(source, shape[offset:], index[offset:], strict=True):
            if isinstance(extent, int):
                at.append(0 if extent == 1 else i)
            else:
                same = extent is size or (not isinstance(size, int) and tirx.analysis.expr_deep_equal(extent, size))
                at.append(i if same else select(wide(extent) == const(1, INT), const(0, INT), i.astype(INT)))
        return data(*at)

    return te.compute(tuple(shape), element, name="expand")


def tile(data: te.Tensor, shape: Sequence[Any]) -> te.Tensor:
    """`data` side by side with itself until `shape` is full."""
    source = static(data.shape)

    def element(*index: Any) -> Any:
        return data(*(tirx.truncmod(i.astype(INT), wide(extent)) for extent, i in zip(source, index, strict=True)))

    return te.compute(tuple(shape), element, name="tile")


def unsqueezed(axes: te.Tensor, shape: Sequence[Any]) -> te.Tensor:
    """The extents after Unsqueeze by axes that a tensor holds."""
    given = elements(axes)
    rank = len(shape) + len(given)
    new = named(given, [const(True, "bool")] * len(given), rank, const(False, "bool"))
    at, sizes = const(0, INT), []
    for d in range(rank):
        own = per_axis(at, [wide(e) for e in shape]) if shape else const(1, INT)
        sizes.append(select(new[d], const(1, INT), own))
        at = select(new[d], at, at + const(1, INT))
    return vector(sizes, "sizes")


Access = Callable[[Any, Any, Any], Any]
"""Index into the result, elements in front, extent of the data -> index into the data."""


def _reflect(i: Any, before: Any, extent: Any) -> Any:
    last = extent - const(1, INT)
    period = tirx.max(last + last, const(1, INT))
    at = tirx.floormod(i - before, period)
    return tirx.min(at, last + last - at)


PADDING: dict[str, Access] = {
    "constant": lambda i, before, extent: i - before,
    "edge": lambda i, before, extent: tirx.max(tirx.min(i - before, extent - const(1, INT)), const(0, INT)),
    "reflect": _reflect,
    "wrap": lambda i, before, extent: tirx.floormod(i - before, extent),
}


def padded(pads: te.Tensor, axes: te.Tensor, shape: Sequence[Any]) -> te.Tensor:
    """The elements in front of each axis, then the extents with padding."""
    given, names, rank = elements(pads), elements(axes), len(shape)
    before = named(names, given[: len(names)], rank, const(0, INT))
    after = named(names, given[len(names) :], rank, const(0, INT))
    sizes = [tirx.max(wide(e) + b + a, const(0, INT)) for e, b, a in zip(shape, before, after, strict=True)]
    return vector([*before, *sizes], "padding")


def pad(data: te.Tensor, plan: te.Tensor, value: te.Tensor, shape: Sequence[Any], mode: str) -> te.Tensor:
    """`data` inside `shape`, as `padded` planned."""
    source = static(data.shape)
    access = PADDING[mode]

    def element(*index: Any) -> Any:
        at = [
            access(i.astype(INT), plan(const(d, INT)), wide(extent))
            for d, (i, extent) in enumerate(zip(index, source, strict=True))
        ]
        if mode != "constant":
            return data(*at)
        inside = [c for i, e in zip(at, source, strict=True) for c in (i >= const(0, INT), i < wide(e))]
        return te.if_then_else(tirx.all(*inside), data(*at), value(*[0] * len(value.shape)))

    return te.compute(tuple(shape), element, name="pad")


def sliced(starts: te.Tensor, ends: te.Tensor, axes: te.Tensor, steps: te.Tensor, shape: Sequence[Any]) -> te.Tensor:
    """Slice's first index, step and size of each axis, as numpy clamps them."""
    names, rank, zero, one = elements(axes), len(shape), const(0, INT), const(1, INT)
    extents = [wide(e) for e in shape]
    step = named(names, elements(steps), rank, one)
    step = [select(s == zero, one, s) for s in step]
    first = named(names, elements(starts), rank, zero)
    last = named(names, elements(ends), rank, lambda d: extents[d])
    begin, size = [], []
    for n, s, a, b in zip(extents, step, first, last, strict=True):
        forward = s > zero
        lowest, highest = select(forward, zero, const(-1, INT)), select(forward, n, n - one)
        a = tirx.max(tirx.min(select(a < zero, a + n, a), highest), zero)
        b = tirx.max(tirx.min(select(b < zero, b + n, b), highest), lowest)
        length = select(forward, b - a + s - one, a - b - s - one)
        begin.append(a)
        size.append(tirx.max(tirx.truncdiv(length, select(forward, s, zero - s)), zero))
    return vector([*begin, *step, *size], "slices")


def slices(data: te.Tensor, plan: te.Tensor, shape: Sequence[Any]) -> te.Tensor:
    """The elements that `sliced` planned."""
    rank = len(shape)
    source = static(data.shape)

    def element(*index: Any) -> Any:
        at = []
        for d, (i, extent) in enumerate(zip(index, source, strict=True)):
            there = plan(const(d, INT)) + i.astype(INT) * plan(const(rank + d, INT))
            # A declared shape that the tensors do not lead to must not read outside.
            at.append(tirx.max(tirx.min(there, wide(extent) - const(1, INT)), const(0, INT)))
        return data(*at)

    return te.compute(tuple(shape), element, name="slice")


__all__ = ["expand", "expanded", "pad", "padded", "reshaped", "sliced", "slices", "tile", "unsqueezed", "vector"]
