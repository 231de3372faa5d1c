"""Matrix products of float activations with integer weights, which become real where they are multiplied."""

from __future__ import annotations

from typing import Any

from tvm import te

from optkit.compiler.operators.common import OP, const, static, unflatten
from optkit.compiler.operators.matmul import row_split, unpacked
from optkit.compiler.tiling import Tile


def real_weight(
    codes: te.Tensor, scale: te.Tensor, zero: te.Tensor | None, depth: int, group: int, offset: int
) -> te.Tensor:
    """(N/b, K, b) float32 = (code - zero) * scale.

    Args:
        codes: int8 or uint8 (N/b, K, b); or of 4 bits, uint8 (N/b, ceil(K/2), b), see `packing.nibbles`.
        scale, zero: float32 (N/b, ceil(K/group), b).
        offset: what codes of 4 bits are stored greater by.
    """
    blocks, rows, b = static(codes.shape)
    narrow = rows < depth

    def element(o: Any, k: Any, v: Any) -> Any:
        if narrow:
            word = codes(o, k // 2, v).astype("int32")
            code = ((word >> ((k % 2) * 4)) & const(15, "int32")) - const(offset, "int32")
        else:
            code = codes(o, k, v).astype("int32")
        value = code.astype("float32")
        if zero is not None:
            value = value - zero(o, k // group, v)
        return value * scale(o, k // group, v)

    return te.compute((blocks, depth, b), element, name="dequantize", attrs={OP: "dequantize"})


def grouped_matmul(
    data: te.Tensor,
    codes: te.Tensor,
    scale: te.Tensor,
    zero: te.Tensor | None,
    columns: int,
    group: int,
    offset: int,
    tile: Tile,
) -> te.Tensor:
    """float32 (..., M, K) x integers of (K, N) -> (..., M, N); see `real_weight`."""
    shape = static(data.shape)
    depth = shape[-1]
    weight = real_weight(codes, scale, zero, depth, group, offset)
    blocks, _, b = static(weight.shape)
    batch, rows = row_split(shape)
    inner = shape[:-1] if not batch else shape[len(batch) : -1]
    # Loops over groups and over the two codes of a byte of their own: what a group shares is loaded once for it.
    extents = [depth // group, group] if depth % group == 0 else [depth]
    if extents[-1] % 2 == 0 and static(codes.shape)[1] < depth:
        extents[-1:] = [extents[-1] // 2, 2]
    axes = [te.reduce_axis((0, extent), f"k{i}") for i, extent in enumerate(extents)]

    def element(*i: Any) -> Any:
        *outer, m, o, v = i
        row = m if tile.padded == rows else te.min(m, rows - 1)
        k: Any = 0
        for axis, extent in zip(axes, extents, strict=True):
            k = k * extent + axis
        return te.sum(data(*outer, *unflatten(row, inner), k) * weight(o, k, v), axis=axes)

    acc = te.compute((*batch, tile.padded, blocks, b), element, name="matmul", attrs={OP: "matmul", **tile.attrs()})
    return unpacked(acc, shape, columns, len(batch))
