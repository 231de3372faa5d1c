"""Matrix products of plain activations with packed weights, and of two activations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import te, tirx
from tvm.sym import Analyzer

from optkit.compiler.operators.common import BITS, OP, accumulator, const, factor, flatten, static, unflatten
from optkit.compiler.operators.tile_matmul import repeated, sums_in_tiles
from optkit.compiler.tiling import Tile


def row_split(shape: Sequence[Any]) -> tuple[list[Any], int]:
    """How the rows of (..., M, K) data are walked: the batch axes, and the rows a tile is cut from.

    Static data is one long list of rows; symbolic leading axes stay loops of their own.
    """
    lead = list(shape[:-1])
    if all(isinstance(d, int) for d in lead):
        rows = 1
        for d in lead:
            rows *= d
        return [], rows
    return (lead[:-1], lead[-1]) if isinstance(lead[-1], int) else (lead, 1)


def matmul(data: te.Tensor, weight: te.Tensor, columns: int, tile: Tile) -> te.Tensor:
    """(..., M, K) x packed (N/b, K/g, b, g) -> (..., M, N) in the accumulator type.

    Args:
        tile: register tile; rows are rounded up to whole tiles, the surplus repeats the last row and is dropped.
    """
    shape = static(data.shape)
    blocks, kg, b, g = static(weight.shape)
    batch, rows = row_split(shape)
    padded = tile.padded
    kind = accumulator(str(data.dtype))
    static_rows = len(batch) == 0
    inner = shape[:-1] if static_rows else shape[len(batch) : -1]
    if tile.matrix:
        acc = sums_in_tiles(data, weight, batch, inner, tile)
        return unpacked(acc, shape, columns, len(batch))
    ki, kr = te.reduce_axis((0, kg), "ki"), te.reduce_axis((0, g), "kr")

    def element(*i: Any) -> Any:
        *outer, m, o, v = i
        row = m if padded == rows else te.min(m, rows - 1)
        at = [*outer, *unflatten(row, inner)]
        left, right = data(*at, ki * g + kr), weight[o, ki, v, kr]
        return te.sum(factor(left, data, kind) * factor(right, weight, kind), axis=[ki, kr])

    acc = te.compute((*batch, padded, blocks, b), element, name="matmul", attrs={OP: "matmul", **tile.attrs()})

    return unpacked(acc, shape, columns, len(batch))


def matmul_tiles(data: te.Tensor, weight: te.Tensor, columns: int, tile: Tile) -> te.Tensor:
    """`matmul` of an open number of rows, in register tiles for CPUs: the surplus of the last one is dropped."""
    shape = static(data.shape)
    *batch, rows, _ = shape
    blocks, kg, b, g = static(weight.shape)
    kind = accumulator(str(data.dtype))
    ki, kr = te.reduce_axis((0, kg), "ki"), te.reduce_axis((0, g), "kr")

    def element(*i: Any) -> Any:
        *outer, m, o, v = i
        left, right = data(*outer, te.min(m, rows - 1), ki * g + kr), weight[o, ki, v, kr]
        return te.sum(factor(left, data, kind) * factor(right, weight, kind), axis=[ki, kr])

    # Whole tiles; where rows are a sum or a quotient TVM would not know those again, and has room for a whole last one.
    surplus = rows + tile.rows - 1
    whole = surplus // tile.rows * tile.rows if isinstance(rows, tirx.Var) else surplus
    room = (*batch, Analyzer().simplify(whole), blocks, b)
    acc = te.compute(room, element, name="matmul", attrs={OP: "matmul", **tile.attrs()})

    def crop(*i: Any) -> Any:
        *outer, column = i
        return acc(*outer, column // b, column % b)

    return te.compute((*shape[:-1], columns), crop, name="crop", attrs={OP: "crop"})


def unpacked(acc: te.Tensor, shape: Sequence[Any], columns: int, batch: int) -> te.Tensor:
    """(*batch, rows, N/b, b) -> (..., M, N), for data of `shape` whose first `batch` axes are loops of their own."""
    b = static(acc.shape)[-1]
    inner = shape[batch:-1]

    def element(*i: Any) -> Any:
        outer, at, column = i[:batch], i[batch:-1], i[-1]
        return acc(*outer, flatten(at, inner), column // b, column % b)

    return te.compute((*shape[:-1], columns), element, name="crop", attrs={OP: "crop"})


def batch_matmul(left: te.Tensor, right: te.Tensor, b: int, tile: Tile, transposed: bool = False) -> te.Tensor:
    """(..., M, K) x (..., K, N) -> (..., M, N), float32 accumulation; `right` is packed on the way.

    Leading axes are equal, or 1 in one of the two. Bits of bfloat16 are packed in pairs along K, which is even then.

    Args:
        transposed: `right` is (..., N, K).
    """
    a_shape, b_shape = static(left.shape), static(right.shape)
    *a_lead, rows, depth = a_shape
    *b_lead, _, columns = b_shape
    if transposed:
        columns = b_shape[-2]
    lead = [y if isinstance(x, int) and x == 1 else x for x, y in zip(a_lead, b_lead, strict=True)]
    blocks, padded = -(-columns // b), tile.padded
    pairs = str(left.dtype) == BITS
    kind, g = (BITS, 2) if pairs else ("float32", 1)

    def pack(*i: Any) -> Any:
        outer, (o, k, v, *r) = i[: len(b_lead)], i[len(b_lead) :]
        column = o * b + v
        at = (k * g + r[0] if r else k, column)
        read = right(*outer, *(reversed(at) if transposed else at)).astype(kind)
        return read if columns % b == 0 else te.if_then_else(column < columns, read, const(0, kind))

    group = (g,) if pairs else ()
    packed = te.compute((*b_lead, blocks, depth // g, b, *group), pack, name="pack", attrs={OP: "pack"})
    if tile.matrix:
        acc = sums_in_tiles(left, packed, lead, [rows], tile)
        crop = (*lead, rows, columns)
        return te.compute(crop, lambda *i: acc(*i[:-1], i[-1] // b, i[-1] % b), name="crop", attrs={OP: "crop"})
    k = te.reduce_axis((0, depth // g), "k")
    r = [te.reduce_axis((0, g), "r")] if pairs else []

    def element(*i: Any) -> Any:
        *outer, m, o, v = i
        row = m if padded == rows else te.min(m, rows - 1)
        a_at, b_at = repeated(outer, a_lead), repeated(outer, b_lead)
        read = factor(left(*a_at, row, k * g + r[0] if r else k), left, "float32")
        return te.sum(read * factor(packed(*b_at, o, k, v, *r), packed, "float32"), axis=[k, *r])

    acc = te.compute((*lead, padded, blocks, b), element, name="matmul", attrs={OP: "matmul", **tile.attrs()})
    return te.compute(
        (*lead, rows, columns),
        lambda *i: acc(*i[:-1], i[-1] // b, i[-1] % b),
        name="crop",
        attrs={OP: "crop"},
    )
