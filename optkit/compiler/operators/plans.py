"""What tensors of parameters lead to, computed once when the model runs: extents, offsets and steps of every axis.

Each is a small vector of int64. They are loops with variables: as nested conditions in one expression, the
clamping of a Slice would be thousands of terms. Symbolic extents are read from the tensor they belong to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx

from optkit.compiler.operators.common import const, static
from optkit.compiler.operators.loops import T, cell, loops, when

INT = "int64"
ZERO, ONE, MINUS = const(0, INT), const(1, INT), const(-1, INT)


def wide(extent: Any) -> Any:
    """An extent as an int64 expression."""
    return const(extent, INT) if isinstance(extent, int) else extent.astype(INT)


def length(vector: te.Tensor) -> int:
    """The known length of a vector."""
    return int(static(vector.shape)[0])


def _plan(size: int, tensors: Sequence[te.Tensor], body: Callable[[list[Any], Any], None], name: str) -> te.Tensor:
    """A vector that `body(inputs, output)` writes."""
    made: te.Tensor = loops([(size,)], [INT], tensors, lambda i, o: body(i, o[0]), name)
    return made


def _each(count: int, axes: Any, rank: int, use: Callable[[Any, Any], None]) -> None:
    """`use(k, axis)` for every axis that a vector names, counted from the front; others are passed over."""
    for k in range(count):
        axis = cell(INT, axes[k])
        when(axis[0] < ZERO, lambda a=axis: a.__setitem__(0, a[0] + const(rank, INT)))  # type: ignore[misc]
        inside = tirx.all(axis[0] >= ZERO, axis[0] < const(rank, INT))
        when(inside, lambda k=k, a=axis: use(k, a[0]))  # type: ignore[misc]


def reshaped(target: te.Tensor, data: te.Tensor, allow_zero: bool) -> te.Tensor:
    """Reshape's target with 0 and -1 resolved."""
    rank, shape = length(target), static(data.shape)

    def body(inputs: list[Any], out: Any) -> None:
        rest = cell(INT, 1)
        for d in range(rank):
            out[d] = inputs[0][d]
            if d < len(shape) and not allow_zero:
                when(out[d] == ZERO, lambda d=d: out.__setitem__(d, wide(shape[d])))  # type: ignore[misc]
            when(out[d] != MINUS, lambda d=d: rest.__setitem__(0, rest[0] * out[d]))  # type: ignore[misc]
        total = math.prod([wide(e) for e in shape], start=ONE)
        for d in range(rank):
            inferred = tirx.truncdiv(total, tirx.max(rest[0], ONE))
            when(out[d] == MINUS, lambda d=d, n=inferred: out.__setitem__(d, n))  # type: ignore[misc]

    return _plan(rank, [target, data], body, "reshaped")


def expanded(target: te.Tensor, data: te.Tensor) -> te.Tensor:
    """The common shape of a tensor and a target, as numpy broadcasts."""
    count, shape = length(target), static(data.shape)
    rank = max(count, len(shape))

    def body(inputs: list[Any], out: Any) -> None:
        for d in range(rank):
            own, other = d - (rank - len(shape)), d - (rank - count)
            out[d] = wide(shape[own]) if own >= 0 else ONE
            if other >= 0:
                when(out[d] == ONE, lambda d=d, k=other: out.__setitem__(d, inputs[0][k]))  # type: ignore[misc]

    return _plan(rank, [target, data], body, "expanded")


def tiled(repeats: te.Tensor, data: te.Tensor) -> te.Tensor:
    """Extents times counts."""
    shape = static(data.shape)

    def body(inputs: list[Any], out: Any) -> None:
        for d, extent in enumerate(shape):
            out[d] = wide(extent) * inputs[0][d]

    return _plan(len(shape), [repeats, data], body, "tiled")


def unsqueezed(axes: te.Tensor, data: te.Tensor) -> te.Tensor:
    """The extents after Unsqueeze."""
    count, shape = length(axes), static(data.shape)
    rank = len(shape) + count

    def body(inputs: list[Any], out: Any) -> None:
        for d in range(rank):
            out[d] = ZERO
        _each(count, inputs[0], rank, lambda k, axis: out.__setitem__(axis, MINUS))
        at = cell(INT, 0)
        for extent in shape:
            with T.While(out[at[0]] == MINUS):
                out[at[0]] = ONE
                at[0] = at[0] + ONE
            out[at[0]] = wide(extent)
            at[0] = at[0] + ONE
        for d in range(rank):
            when(out[d] == MINUS, lambda d=d: out.__setitem__(d, ONE))  # type: ignore[misc]

    return _plan(rank, [axes, data], body, "unsqueezed")


def named(axes: te.Tensor, data: te.Tensor, none: bool) -> te.Tensor:
    """1 for every axis of `data` that the vector names, else 0; an empty one names all, or with `none` none."""
    rank, count = len(data.shape), length(axes)

    def body(inputs: list[Any], out: Any) -> None:
        for d in range(rank):
            out[d] = ONE if count == 0 and not none else ZERO
        _each(count, inputs[0], rank, lambda k, axis: out.__setitem__(axis, ONE))

    return _plan(rank, [axes, data], body, "named")


def reduced(flags: te.Tensor, data: te.Tensor, size: int, keep: bool) -> te.Tensor:
    """The extents of `data` with those flagged 1 or, without `keep`, left out."""
    shape = static(data.shape)

    def body(inputs: list[Any], out: Any) -> None:
        at = cell(INT, 0)
        for d, extent in enumerate(shape):

            def store(value: Any) -> None:
                when(at[0] < const(size, INT), lambda: out.__setitem__(at[0], value))
                at[0] = at[0] + ONE

            gone = inputs[0][d] == ONE
            when(gone, lambda: store(ONE) if keep else None, lambda e=extent: store(wide(e)))  # type: ignore[misc]

    return _plan(size, [flags, data], body, "reduced")


def padded(pads: te.Tensor, axes: te.Tensor, data: te.Tensor) -> te.Tensor:
    """The elements in front of each axis, then the extents with padding."""
    count, shape = length(axes), static(data.shape)
    rank = len(shape)

    def body(inputs: list[Any], out: Any) -> None:
        for d, extent in enumerate(shape):
            out[d], out[rank + d] = ZERO, wide(extent)

        def use(k: int, axis: Any) -> None:
            at = axis + const(rank, INT)
            out[axis] = inputs[0][k]
            out[at] = tirx.max(out[at] + inputs[0][k] + inputs[0][k + count], ZERO)

        _each(count, inputs[1], rank, use)

    return _plan(2 * rank, [pads, axes, data], body, "padded")


def sliced(starts: te.Tensor, ends: te.Tensor, axes: te.Tensor, steps: te.Tensor, data: te.Tensor) -> te.Tensor:
    """Slice's first index, then step, then size of each axis, clamped as numpy does."""
    shape, count = static(data.shape), length(axes)
    rank = len(shape)

    def body(inputs: list[Any], out: Any) -> None:
        for d, extent in enumerate(shape):
            out[d], out[rank + d], out[2 * rank + d] = ZERO, ONE, wide(extent)

        def use(k: int, axis: Any) -> None:
            at = axis + const(2 * rank, INT)
            extent = cell(INT, out[at])
            step = cell(INT, inputs[3][k])
            when(step[0] == ZERO, lambda: step.__setitem__(0, ONE))
            first, last = cell(INT, inputs[0][k]), cell(INT, inputs[1][k])
            for bound in (first, last):
                when(bound[0] < ZERO, lambda b=bound: b.__setitem__(0, b[0] + extent[0]))  # type: ignore[misc]
            size = cell(INT, 0)

            def forward() -> None:
                first[0] = tirx.max(tirx.min(first[0], extent[0]), ZERO)
                last[0] = tirx.max(tirx.min(last[0], extent[0]), ZERO)
                size[0] = tirx.truncdiv(tirx.max(last[0] - first[0], ZERO) + step[0] - ONE, step[0])

            def backward() -> None:
                first[0] = tirx.max(tirx.min(first[0], extent[0] - ONE), MINUS)
                last[0] = tirx.max(tirx.min(last[0], extent[0] - ONE), MINUS)
                size[0] = tirx.truncdiv(tirx.max(first[0] - last[0], ZERO) - step[0] - ONE, ZERO - step[0])

            when(step[0] > ZERO, forward, backward)
            out[axis], out[axis + const(rank, INT)], out[at] = first[0], step[0], size[0]

        _each(count, inputs[2], rank, use)

    return _plan(3 * rank, [starts, ends, axes, steps, data], body, "sliced")


__all__ = ["expanded", "length", "named", "padded", "reduced", "reshaped", "sliced", "tiled", "unsqueezed", "wide"]
