"""Elements chosen by their values: the result is as long as the data says.

Each kernel fills the largest result possible and says how much of it counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx

from optkit.compiler.operators.common import const, static
from optkit.compiler.operators.loops import T, cell, loops, when

INT = "int64"


def total(shape: Sequence[Any]) -> Any:
    """The number of elements."""
    return math.prod(static(shape))


def coordinates(position: Any, shape: Sequence[Any]) -> list[Any]:
    """The index of an element by its position in row-major order."""
    found: list[Any] = []
    for extent in reversed(static(shape)):
        size = const(extent, INT) if isinstance(extent, int) else extent
        found.insert(0, tirx.truncmod(position, size))
        position = tirx.truncdiv(position, size)
    return found


def chosen(flags: te.Tensor, is_set: Callable[[Any], Any]) -> list[te.Tensor]:
    """The positions of the elements of a flat tensor that are set, and their number."""
    size = static(flags.shape)[0]

    def body(inputs: list[Any], outputs: list[Any]) -> None:
        count = cell(INT, 0)
        with T.serial(0, size) as i:

            def keep() -> None:
                outputs[0][count[0]] = i.astype(INT)
                count[0] = count[0] + const(1, INT)

            when(is_set(inputs[0][i]), keep)
        outputs[1][0] = count[0]

    found: list[te.Tensor] = loops([(size,), (1,)], [INT, INT], [flags], body, "chosen")
    return found


def range_count(start: te.Tensor, limit: te.Tensor, delta: te.Tensor) -> te.Tensor:
    """max(0, ceil((limit - start) / delta))."""
    dtype = str(start.dtype)

    def element(_: Any) -> Any:
        a, b, d = start(0), limit(0), delta(0)
        if dtype.startswith("float"):
            a, b, d = (v.astype("float64") for v in (a, b, d))
            count = tirx.ceil((b - a) / d).astype(INT)
        else:
            a, b, d = (v.astype(INT) for v in (a, b, d))
            zero, one = const(0, INT), const(1, INT)
            step = tirx.Select(d == zero, one, d)
            count = tirx.truncdiv(b - a + step + tirx.Select(step > zero, zero - one, one), step)
            count = tirx.Select(d == zero, zero, count)
        return tirx.max(count, const(0, INT))

    return te.compute((1,), element, name="count")


def arange(start: te.Tensor, delta: te.Tensor, length: Any) -> te.Tensor:
    """start + i * delta; 16-bit types are computed in float32 (Range's stash_type)."""
    dtype = str(start.dtype)
    wide = "float32" if dtype == "float16" else dtype
    return te.compute(
        (length,),
        lambda i: (start(0).astype(wide) + i.astype(wide) * delta(0).astype(wide)).astype(dtype),
        name="range",
    )


def equal_rows(data: Any, a: Any, b: Any, width: Any) -> Any:
    """A cell that is 1 where two rows of a matrix are the same, NaNs included, else 0."""
    same = cell("int32", 1)
    with T.serial(0, width) as j:
        x, y = data[a, j], data[b, j]
        differs = x != y
        if str(x.ty.dtype).startswith("float"):
            differs = tirx.all(differs, tirx.Not(tirx.all(tirx.isnan(x), tirx.isnan(y))))
        when(differs, lambda: same.__setitem__(0, const(0, "int32")))
    return same


def smaller_row(data: Any, a: Any, b: Any, width: Any) -> Any:
    """A cell that is 1 where row a comes before row b: the first difference decides, NaNs come last."""
    order = cell("int32", 0)  # 1 before, -1 behind, 0 undecided
    with T.serial(0, width) as j:
        x, y = data[a, j], data[b, j]
        less, more = x < y, y < x
        if str(x.ty.dtype).startswith("float"):
            less = tirx.any(less, tirx.all(tirx.isnan(y), tirx.Not(tirx.isnan(x))))
            more = tirx.any(more, tirx.all(tirx.isnan(x), tirx.Not(tirx.isnan(y))))

        def decide(before: Any = less, behind: Any = more) -> None:
            when(before, lambda: order.__setitem__(0, const(1, "int32")))
            when(behind, lambda: order.__setitem__(0, const(-1, "int32")))

        when(order[0] == const(0, "int32"), decide)
    return order


def unique(data: te.Tensor, ordered: bool) -> list[te.Tensor]:
    """The distinct rows of a matrix.

    Rows are inserted one by one, by binary search, into the sorted list of those found so far.

    Returns:
        first: the row where each distinct row appears first; inverse: which distinct row each row is; counts;
        count: how many there are. In ascending order, or in that of appearance.
    """
    rows, width = static(data.shape)
    one = const(1, INT)

    def body(inputs: list[Any], outputs: list[Any]) -> None:
        (matrix,), (first, inverse, counts, number, ranks) = inputs, outputs
        found = cell(INT, 0)
        with T.serial(0, rows) as i:
            lower = _place(matrix, i, width, first, found)
            known = cell("int32", 0)

            def compare() -> None:
                same = equal_rows(matrix, first[lower[0]], i, width)
                known[0] = same[0]

            when(lower[0] < found[0], compare)

            def insert() -> None:
                moved = cell(INT, found[0])
                with T.While(moved[0] > lower[0]):
                    first[moved[0]] = first[moved[0] - one]
                    counts[moved[0]] = counts[moved[0] - one]
                    moved[0] = moved[0] - one
                first[lower[0]] = i.astype(INT)
                counts[lower[0]] = one
                found[0] = found[0] + one

            when(
                known[0] == const(1, "int32"),
                lambda: counts.__setitem__(lower[0], counts[lower[0]] + one),
                insert,
            )
        number[0] = found[0]
        _places(matrix, rows, width, first, inverse, found)
        if not ordered:
            _by_appearance(rows, first, inverse, counts, ranks, found)

    shapes = [(rows,), (rows,), (rows,), (1,), (3, rows)]
    made: list[te.Tensor] = loops(shapes, [INT] * 5, [data], body, "unique")
    return made


def _places(matrix: Any, rows: Any, width: Any, first: Any, inverse: Any, found: Any) -> None:
    """Where each row stands in the finished list."""
    with T.serial(0, rows) as i:
        lower = _place(matrix, i, width, first, found)
        inverse[i] = lower[0]


def _place(matrix: Any, row: Any, width: Any, first: Any, found: Any) -> Any:
    """A cell with the place of a row in the sorted list: how many rows of it come before."""
    lower, upper = cell(INT, 0), cell(INT, found[0])
    with T.While(lower[0] < upper[0]):
        middle = cell(INT, tirx.truncdiv(lower[0] + upper[0], const(2, INT)))
        before = smaller_row(matrix, first[middle[0]], row, width)
        when(
            before[0] == const(1, "int32"),
            lambda: lower.__setitem__(0, middle[0] + const(1, INT)),
            lambda: upper.__setitem__(0, middle[0]),
        )
    return lower


def _by_appearance(rows: Any, first: Any, inverse: Any, counts: Any, ranks: Any, found: Any) -> None:
    """Reorder what `unique` found: a row that is its own first appearance opens the next place."""
    one = const(1, INT)
    place = cell(INT, 0)
    with T.serial(0, rows) as i:

        def take() -> None:
            ranks[0, inverse[i]] = place[0]
            ranks[1, place[0]] = i.astype(INT)
            ranks[2, place[0]] = counts[inverse[i]]
            place[0] = place[0] + one

        when(first[inverse[i]] == i.astype(INT), take)
    with T.serial(0, rows) as i:
        inverse[i] = ranks[0, inverse[i]]

        def reorder(at: Any = i) -> None:
            first[at] = ranks[1, at]
            counts[at] = ranks[2, at]

        when(i.astype(INT) < found[0], reorder)


__all__ = ["arange", "chosen", "coordinates", "range_count", "total", "unique"]
