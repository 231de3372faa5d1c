"""The sums of matrix products for tile registers: rows evenly apart, the terms of a step together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tvm
from tvm import te

from optkit.compiler.matrix_tiles import crowded, step_bytes
from optkit.compiler.operators.common import OP, accumulator, const, factor, static, unflatten
from optkit.compiler.tiling import Tile


def sums_in_tiles(
    data: te.Tensor, weight: te.Tensor, lead: Sequence[Any], inner: Sequence[Any], tile: Tile
) -> te.Tensor:
    """(*lead, *inner, K) x ([*lead,] N/b, K/g, b, g) -> (*lead, padded, N/b, b) in the accumulator type.

    Rows that share too few sets of the cache, or are too few for whole tiles, are copied step by step.

    Args:
        weight: of all of `lead`, where it has no such axes.
        lead, inner: axes that are loops of their own, and those that are walked as one. An operand may have 1 for one
            of `lead`, and then serves all.
    """
    own = static(data.shape)[: len(lead)]
    *others, blocks, kg, b, g = static(weight.shape)
    depth, rows, kind = kg * g, math.prod(inner), accumulator(str(data.dtype))
    group = step_bytes(4 * kg) // 4
    copied = tile.padded != rows or crowded(depth * tvm.DataType(str(data.dtype)).itemsize)
    source = _by_steps(data, own, inner, tile.padded, group * g) if copied else data
    ko, ki = te.reduce_axis((0, kg // group), "ko"), te.reduce_axis((0, group), "ki")
    kr = te.reduce_axis((0, g), "kr")

    def element(*i: Any) -> Any:
        *outer, m, o, v = i
        at, term = repeated(outer, own), ki * g + kr
        place = [*at, ko, m, term] if copied else [*at, *unflatten(m, inner), ko * group * g + term]
        column = weight(*(repeated(outer, others) if others else []), o, ko * group + ki, v, kr)
        return te.sum(factor(source(*place), source, kind) * factor(column, weight, kind), axis=[ko, ki, kr])

    attrs = {OP: "matmul", **tile.attrs()}
    return te.compute((*lead, tile.padded, blocks, b), element, name="matmul", attrs=attrs)


def repeated(outer: Sequence[Any], extents: Sequence[Any]) -> list[Any]:
    """The index into leading axes of which those of one element serve all."""
    return [0 if isinstance(e, int) and e == 1 else i for i, e in zip(outer, extents, strict=True)]


def _by_steps(data: te.Tensor, lead: Sequence[Any], inner: Sequence[Any], padded: int, step: int) -> te.Tensor:
    """(*lead, *inner, K) -> (*lead, K/step, padded, step), zeros past the last row."""
    rows, depth = math.prod(inner), static(data.shape)[-1]

    def element(*i: Any) -> Any:
        *outer, s, m, k = i
        read = data(*outer, *unflatten(te.min(m, rows - 1), inner), s * step + k)
        return read if padded == rows else te.if_then_else(m < rows, read, const(0, str(data.dtype)))

    return te.compute((*lead, depth // step, padded, step), element, name="pad", attrs={OP: "pad"})
