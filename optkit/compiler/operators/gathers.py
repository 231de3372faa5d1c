"""Elements by their indices. Whatever the indices are, no element outside the data is read.

An index counts from behind where it is negative; one outside the axis becomes the nearest inside.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm_ffi
from tvm import te, tirx

from optkit.compiler.operators.common import const, static
from optkit.compiler.operators.plans import INT, ONE, ZERO, wide


def inside(index: Any, extent: Any) -> Any:
    """An index as one into an axis of `extent` elements."""
    size = wide(extent)
    at = index.astype(INT)
    at = tirx.Select(at < ZERO, at + size, at)
    return tirx.max(tirx.min(at, size - ONE), ZERO)


def known(indices: np.ndarray, extent: int) -> np.ndarray:
    """`inside` for indices and an extent that are constants."""
    at = indices.astype(np.int64)
    found: np.ndarray = np.clip(np.where(at < 0, at + extent, at), 0, max(extent - 1, 0))
    return found


def _read(data: te.Tensor, at: list[Any], axes: list[int]) -> Any:
    """An element of `data`, zero where one of `axes` is empty when the model runs."""
    extents = [static(data.shape)[axis] for axis in axes]
    if any(extent == 0 for extent in extents if isinstance(extent, int)):
        return const(0, data.dtype)
    filled = [wide(extent) > ZERO for extent in extents if not isinstance(extent, int)]
    return te.if_then_else(tirx.all(*filled), data(*at), const(0, data.dtype)) if filled else data(*at)


def gather(data: te.Tensor, indices: te.Tensor, axis: int, checked: bool) -> te.Tensor:
    """Slices along an axis (ONNX Gather); `checked` says that the indices are known to lie inside."""
    rank = len(indices.shape)
    shape = [*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]]

    def element(*index: Any) -> Any:
        before, here, behind = index[:axis], index[axis : axis + rank], index[axis + rank :]
        place = indices(*here)
        if checked:
            return data(*before, place, *behind)
        return _read(data, [*before, inside(place, static(data.shape)[axis]), *behind], [axis])

    return te.compute(shape, element, name="gather")


def pick(data: te.Tensor, axis: int, place: int) -> te.Tensor:
    """The one slice at a place that is known."""
    extent = static(data.shape)[axis]

    def element(*index: Any) -> Any:
        at = [*index[:axis], inside(const(place, INT), extent), *index[axis:]]
        return _read(data, at, [axis])

    return te.compute([*data.shape[:axis], *data.shape[axis + 1 :]], element, name="pick")


def gather_elements(data: te.Tensor, indices: te.Tensor, axis: int) -> te.Tensor:
    """For every index the element at its own place, but for the axis (ONNX GatherElements)."""
    extents = static(data.shape)
    given = static(indices.shape)

    def element(*index: Any) -> Any:
        at = []
        for d, (i, extent, size) in enumerate(zip(index, extents, given, strict=True)):
            if d == axis:
                at.append(inside(indices(*index), extent))
            else:
                at.append(i if _fits(size, extent) else inside(i, extent))
        return _read(data, at, list(range(len(extents))))

    return te.compute(indices.shape, element, name="gather_elements")


def _fits(size: Any, extent: Any) -> bool:
    """Whether every index below `size` is known to be below `extent`."""
    if isinstance(size, int) and isinstance(extent, int):
        return size <= extent
    return bool(tvm_ffi.structural_equal(size, extent))


def gather_nd(data: te.Tensor, indices: te.Tensor, batches: int) -> te.Tensor:
    """The slices that vectors of indices lead to, behind `batches` axes in common (ONNX GatherND)."""
    extents, given = static(data.shape), static(indices.shape)
    depth, lead = given[-1], len(given) - 1
    named = list(range(batches, batches + depth))

    def element(*index: Any) -> Any:
        places = [indices(*index[:lead], const(k, "int32")) for k in range(depth)]
        common = [
            i if _fits(size, extent) else inside(i, extent)
            for i, size, extent in zip(index[:batches], given, extents, strict=False)
        ]
        found = [inside(place, extents[axis]) for place, axis in zip(places, named, strict=True)]
        return _read(data, [*common, *found, *index[lead:]], [*range(batches), *named])

    return te.compute([*indices.shape[:lead], *data.shape[batches + depth :]], element, name="gather_nd")


__all__ = ["gather", "gather_elements", "gather_nd", "inside", "known", "pick"]
