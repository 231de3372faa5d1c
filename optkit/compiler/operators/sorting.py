"""Sorting and TopK: a stable merge sort of indices, so that ties keep the lower index first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import te, tirx

from optkit.compiler.operators.common import static
from optkit.compiler.operators.loops import T, cell, loops, when


def merge_sort(order: Any, row: tuple[Any, ...], count: Any, before: Callable[[Any, Any], Any]) -> Any:
    """Sort the indices in order[*row, 0, :count]; bottom up (Knuth, The Art of Computer Programming 3, 5.2.4).

    Args:
        order: scratch (..., 2, N) of int32; both halves are written.
        before: whether the item of the first index must stand before the second's; false for equal ones.

    Returns:
        A cell with the half, 0 or 1, that holds the result.
    """
    half, width = cell("int32", 0), cell("int32", 1)
    with T.While(width[0] < count):
        start = cell("int32", 0)
        with T.While(start[0] < count):
            middle = cell("int32", tirx.min(start[0] + width[0], count))
            end = cell("int32", tirx.min(middle[0] + width[0], count))
            left, right = cell("int32", start[0]), cell("int32", middle[0])
            with T.serial(0, end[0] - start[0]) as i:
                a = cell("int32", order[(*row, half[0], tirx.min(left[0], count - 1))])
                b = cell("int32", order[(*row, half[0], tirx.min(right[0], count - 1))])
                to = (*row, 1 - half[0], start[0] + i)
                take_right = tirx.all(
                    right[0] < end[0],
                    tirx.any(left[0] >= middle[0], before(b[0], a[0])),
                )

                def from_right(to: Any = to, b: Any = b, right: Any = right) -> None:
                    order[to] = b[0]
                    right[0] = right[0] + 1

                def from_left(to: Any = to, a: Any = a, left: Any = left) -> None:
                    order[to] = a[0]
                    left[0] = left[0] + 1

                when(take_right, from_right, from_left)
            start[0] = end[0]
        half[0] = 1 - half[0]
        width[0] = width[0] * 2
    return half


def top_k(data: te.Tensor, k: Any, largest: bool) -> list[te.Tensor]:
    """The k first of a descending (ascending) order along the middle axis of (outer, N, inner).

    Returns values and int64 indices of shape (outer, k, inner), and the scratch of the sort.
    """
    outer, size, inner = static(data.shape)
    dtype = str(data.dtype)

    def body(inputs: list[Any], outputs: list[Any]) -> None:
        (x,), (values, indices, order) = inputs, outputs
        n = tirx.Cast("int32", size) if not isinstance(size, int) else tirx.const(size, "int32")
        with T.parallel(0, outer) as o, T.serial(0, inner) as i:
            with T.serial(0, n) as j:
                order[o, i, 0, j] = j

            def before(a: Any, b: Any) -> Any:
                return x[o, a, i] > x[o, b, i] if largest else x[o, a, i] < x[o, b, i]

            half = merge_sort(order, (o, i), n, before)
            with T.serial(0, k) as j:
                at = cell("int32", order[o, i, half[0], j])
                values[o, j, i] = x[o, at[0], i]
                indices[o, j, i] = tirx.Cast("int64", at[0])

    shapes = [(outer, k, inner), (outer, k, inner), (outer, inner, 2, size)]
    found: list[te.Tensor] = loops(shapes, [dtype, "int64", "int32"], [data], body, "top_k")
    return found


__all__ = ["merge_sort", "top_k"]
