"""Helpers the operator definitions share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import te, tirx

OP = "optkit.op"
"""Block annotation that names an operator to the kernel rules."""


def const(value: float, dtype: str) -> Any:
    """A literal of the given type."""
    return tirx.const(value, dtype)


def static(shape: Sequence[Any]) -> list[Any]:
    """Shape with known extents as plain ints and symbolic ones left alone."""
    return [int(d) if isinstance(d, (int, tirx.IntImm)) else d for d in shape]


def accumulator(dtype: str) -> str:
    """Type that sums of products of `dtype` are kept in."""
    return "int32" if "int" in dtype else "float32"


def pad_axes(
    data: te.Tensor,
    before: Sequence[int],
    extents: Sequence[int],
    axis: int,
    value: float,
    dtype: str | None = None,
) -> te.Tensor:
    """`data` with the axes from `axis` on widened to `extents`, `before` elements of `value` in front.

    Returns `data` itself where nothing changes.
    """
    shape = static(data.shape)
    inner = shape[axis : axis + len(extents)]
    if not any(before) and inner == list(extents) and dtype in (None, str(data.dtype)):
        return data
    kind = dtype or str(data.dtype)
    if kind == "bfloat16":
        # TVM cannot vectorize a choice between bfloat16 values. float32 holds them exactly, and the loop
        # that multiplies them then need not widen them again at every use.
        kind = "float32"
    full = [*shape[:axis], *extents, *shape[axis + len(extents) :]]

    def element(*index: Any) -> Any:
        source = list(index)
        inside = []
        for i, (lead, size, extent) in enumerate(zip(before, inner, extents, strict=True)):
            source[axis + i] = index[axis + i] - lead
            if lead:
                inside.append(index[axis + i] >= lead)
            if lead + size < extent:
                inside.append(index[axis + i] < lead + size)
        read = data(*source).astype(kind)
        return te.if_then_else(tirx.all(*inside), read, const(value, kind)) if inside else read

    return te.compute(full, element, name="pad", attrs={OP: "pad"})
