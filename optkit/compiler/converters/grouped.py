"""Weights that stay integers in memory where activations are float: what an artifact holds and a kernel reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax

from optkit.compiler import packing
from optkit.compiler.lowering import Lowering
from optkit.compiler.operator import GROUPED, Operator
from optkit.compiler.operators.grouped import grouped_matmul
from optkit.compiler.tiling import Tile, choose_tile
from optkit.compiler.values import OUT_FUSABLE, GroupedWeight, QuantizedWeight, Value

_HALF_BYTE = ("int4", "uint4", "int2", "uint2")


@dataclass(frozen=True)
class Codes:
    """A weight of (K, N): w = (q - zero) * scale.

    Attributes:
        q: int8 or uint8 (K, N).
        scale, zero: float32 (groups, N); zero is None where it is 0 everywhere.
        group: rows of K that share a scale.
        narrow: q has 4 bits at most.
    """

    q: np.ndarray
    scale: np.ndarray
    zero: np.ndarray | None
    group: int
    narrow: bool


def grouped_codes(low: Lowering, b: Value, axis: int) -> Codes | None:
    """The integers of a weight whose output columns lie along `axis`, if a kernel of the target can read them."""
    if low.target.device != "cpu":
        return None
    if isinstance(b, QuantizedWeight) and b.narrow is not None:
        return grouped_codes(low, b.narrow, axis)
    if isinstance(b, QuantizedWeight):
        per_column = b.scale.size == 1 or b.axis == axis
        if b.q.dtype != np.int8 or b.q.ndim != 2 or not per_column or b.dtype != "float32":
            return None
        q = b.q if axis == 1 else b.q.T
        scale, zero = (
            None if part is None else np.broadcast_to(part.reshape(1, -1), (1, q.shape[1])).astype(np.float32)
            for part in (b.scale, b.zero)
        )
        assert scale is not None
        narrow = bool(q.size and q.min() >= -8 and q.max() <= 7)
        return Codes(q, scale, zero, len(q), narrow)
    if not isinstance(b, GroupedWeight) or b.axis == axis:
        return None
    name = b.q.dtype.name
    wide = np.uint8 if name.startswith("u") else np.int8
    q = b.q.astype(wide) if axis == 1 else b.q.astype(wide).T
    columns = q.shape[1]
    zero = None if b.zero is None else _rows(b.zero, axis, columns)
    return Codes(q, _rows(b.scale, axis, columns), zero, b.group, name in _HALF_BYTE)


def _rows(part: np.ndarray, axis: int, columns: int) -> np.ndarray:
    """Scales or zero points as float32 (groups, N)."""
    rows = part.astype(np.float32) if axis == 1 else part.astype(np.float32).T
    return np.broadcast_to(rows, (len(rows), columns))


def grouped_product(low: Lowering, data: Any, codes: Codes, rows: int) -> Any:
    """float32 (..., M, K) x codes -> (..., M, N); `rows` as of `row_split`."""
    lanes = low.target.lanes
    depth, columns = codes.q.shape
    bits = 4 if codes.narrow else 8
    operator = Operator(GROUPED, "float32", (rows, depth, columns, codes.group, bits))
    blocks = -(-columns // lanes)
    tile = choose_tile(rows, blocks, low.target.registers)
    tile = Tile(tile.rows, tile.blocks, tile.padded, str(operator))
    offset = 8 if codes.narrow and codes.q.dtype == np.int8 else 0
    packed = packing.matmul_weight(codes.q, lanes, 1)[..., 0]
    if codes.narrow:
        packed = packing.nibbles((packed + np.int8(offset)).astype(np.uint8))
    scale, zero = (
        None if part is None else relax.const(packing.matmul_weight(part, lanes, 1)[..., 0])
        for part in (codes.scale, codes.zero)
    )
    args = data, relax.const(packed), scale, zero, columns, codes.group, offset, tile
    return low.emit(grouped_matmul, *args, name="grouped_matmul", kind=OUT_FUSABLE)
