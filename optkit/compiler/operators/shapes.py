"""Movements whose parameters are tensors: the elements they read, by the plans of `plans`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tvm_ffi
from tvm import te, tirx

from optkit.compiler.operators.common import const, simplified, static
from optkit.compiler.operators.plans import INT, ONE, ZERO, wide


def expand(data: te.Tensor, *shape: Any) -> te.Tensor:
    """`data` repeated along axes of one element, found out at run time where an extent is open."""
    source = static(data.shape)
    offset = len(shape) - len(source)

    def element(*index: Any) -> Any:
        at = []
        for extent, size, i in zip(source, shape[offset:], index[offset:], strict=True):
            if isinstance(extent, int):
                at.append(0 if extent == 1 else i)
            else:
                same = tvm_ffi.structural_equal(extent, size)
                # the only element where there is one; an extent that is neither must not lead outside
                at.append(i if same else tirx.min(i.astype(INT), wide(extent) - ONE))
        return data(*at)

    return te.compute(shape, element, name="expand")


def tile(data: te.Tensor, *shape: Any) -> te.Tensor:
    """`data` side by side with itself until `shape` is full."""
    source = static(data.shape)

    def element(*index: Any) -> Any:
        return data(*(tirx.truncmod(i.astype(INT), wide(extent)) for extent, i in zip(source, index, strict=True)))

    return te.compute(shape, element, name="tile")


Access = Callable[[Any, Any, Any], Any]
"""Index into the result, elements in front, extent of the data -> index into the data."""


def _reflect(i: Any, before: Any, extent: Any) -> Any:
    last = extent - ONE
    at = tirx.floormod(i - before, tirx.max(last + last, ONE))
    return tirx.min(at, last + last - at)


PADDING: dict[str, Access] = {
    "constant": lambda i, before, extent: i - before,
    "edge": lambda i, before, extent: tirx.max(tirx.min(i - before, extent - ONE), ZERO),
    "reflect": _reflect,
    "wrap": lambda i, before, extent: tirx.floormod(i - before, extent),
}


def pad(data: te.Tensor, plan: te.Tensor, value: te.Tensor, mode: str, *shape: Any) -> te.Tensor:
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
        inside = [c for i, e in zip(at, source, strict=True) for c in (i >= ZERO, i < wide(e))]
        return te.if_then_else(tirx.all(*inside), data(*at), value(*[0] * len(value.shape)))

    return te.compute(shape, element, name="pad")


def surround(data: te.Tensor, mode: str, before: Sequence[int], after: Sequence[int], value: Any = None) -> te.Tensor:
    """`data` with known numbers of elements around it, by axis; those of "constant" are of `value`."""
    source = static(data.shape)
    shape = [front + extent + behind for front, extent, behind in zip(before, source, after, strict=True)]

    def element(*index: Any) -> Any:
        at, inside = [], []
        for i, front, behind, extent in zip(index, before, after, source, strict=True):
            if not front and not behind:
                at.append(i)
                continue
            last = wide(extent) - ONE
            place = i.astype(INT) - const(front, INT)
            if mode == "reflect" and isinstance(extent, int) and max(front, behind) < extent:
                place = tirx.abs(place)
                at.append(tirx.min(place, last + last - place))
            else:
                at.append(PADDING[mode](i.astype(INT), const(front, INT), wide(extent)))
                inside += [at[-1] >= ZERO, at[-1] <= last] if mode == "constant" else []
        return te.if_then_else(tirx.all(*inside), data(*at), value) if inside else data(*at)

    return te.compute(tuple(map(simplified, shape)), element, name="pad")


def slices(data: te.Tensor, plan: te.Tensor, *shape: Any) -> te.Tensor:
    """The elements that `sliced` planned."""
    rank = len(shape)
    source = static(data.shape)

    def element(*index: Any) -> Any:
        at = []
        for d, (i, extent) in enumerate(zip(index, source, strict=True)):
            there = plan(const(d, INT)) + i.astype(INT) * plan(const(rank + d, INT))
            # A declared shape that the tensors do not lead to must not read outside.
            at.append(tirx.max(tirx.min(there, wide(extent) - ONE), ZERO))
        return data(*at)

    return te.compute(shape, element, name="slice")


def part(data: te.Tensor, sizes: te.Tensor, number: int, axis: int, *shape: Any) -> te.Tensor:
    """The elements of `data` behind the first `number` sizes."""
    last = wide(static(data.shape)[axis]) - ONE

    def element(*index: Any) -> Any:
        at = list(index)
        for before in range(number):
            at[axis] = at[axis] + sizes(const(before, INT))
        at[axis] = tirx.max(tirx.min(at[axis].astype(INT), last), ZERO)
        return data(*at)

    return te.compute(shape, element, name="split")


__all__ = ["PADDING", "expand", "pad", "part", "slices", "surround", "tile"]
