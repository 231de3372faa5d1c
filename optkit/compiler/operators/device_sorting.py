"""TopK, NonMaxSuppression and NonZero on GPUs: a thread block goes through a row, by device code.

The same results as `sorting`, `suppression` and `selection` have, which one thread would compute there. Device
functions are the target's (`device/sort.cuh`, `device/suppression.cuh`, `device/choose.cuh`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import te, tirx
from tvm.tirx import op

from optkit.compiler.operators.common import const, static
from optkit.compiler.operators.loops import T, cell, loops, when
from optkit.compiler.operators.suppression import Limits

THREADS = 1024
"""Of the device code."""
_GATHERING = 128
_WARPS = THREADS // 32


def _call(name: str, *arguments: Any) -> None:
    """A call by every thread of a block."""
    with T.thread_binding(0, THREADS, thread="threadIdx.x"):
        T.evaluate(op.call_extern("int32", name, *arguments))


def _int(extent: Any) -> Any:
    return tirx.Cast("int32", extent) if not isinstance(extent, int) else tirx.const(extent, "int32")


def top_k(data: te.Tensor, k: Any, largest: bool) -> list[te.Tensor]:
    """As `sorting.top_k`; the scratch is values and indices (outer, inner, N)."""
    outer, size, inner = static(data.shape)
    dtype = str(data.dtype)
    name = f"optkit_top_k<{int(largest)}>"

    def body(inputs: list[Any], outputs: list[Any]) -> None:
        (x,), (values, indices, ordered, places) = inputs, outputs
        with T.thread_binding(0, outer * inner, thread="blockIdx.x") as row:  # the axis that has room for any number
            o, i = row // inner, row % inner
            places_of = (x[o, 0, i], values[o, 0, i], indices[o, 0, i], ordered[o, i, 0], places[o, i, 0])
            _call(name, *map(op.address_of, places_of), _int(size), _int(k), _int(inner))

    scratch = (outer, inner, size)
    shapes = [(outer, k, inner), (outer, k, inner), scratch, scratch]
    found: list[te.Tensor] = loops(shapes, [dtype, "int64", dtype, "int32"], [data], body, "top_k")
    return found


def select_boxes(
    boxes: te.Tensor,
    scores: te.Tensor,
    most: te.Tensor | int,
    iou: te.Tensor | float,
    score: te.Tensor | float | None,
    centered: bool,
) -> list[te.Tensor]:
    """As `suppression.select_boxes`; the scratch is scores, indices and corners of candidates."""
    batches, classes, size = static(scores.shape)
    limits = Limits(most, iou, score)
    name = f"optkit_suppress<{int(centered)}, {int(score is not None)}>"

    def body(inputs: list[Any], outputs: list[Any]) -> None:
        b, s, *given = inputs
        cap, overlap, least = limits.values(iter(given))
        above = const(0, "float32") if least is None else least
        kept, counts, ordered, places, corners = outputs
        with T.thread_binding(0, batches * classes, thread="blockIdx.x") as row:
            places_of = (
                *(b[row // classes, 0, 0], s[row // classes, row % classes, 0]),
                *(kept[row, 0], counts[row], ordered[row, 0], places[row, 0], corners[row, 0, 0]),
            )
            _call(name, *map(op.address_of, places_of), _int(size), cap, overlap, above)

    rows = batches * classes
    shapes = [(rows, limits.room(size)), (rows,), (rows, size), (rows, size), (rows, size, 4)]
    dtypes = ["int32", "int32", "float32", "int32", "float32"]
    found: list[te.Tensor] = loops(shapes, dtypes, [boxes, scores, *limits.tensors], body, "select_boxes")
    return found


def gather_boxes(kept: te.Tensor, counts: te.Tensor, classes: Any, found: Any) -> te.Tensor:
    """As `suppression.gather_boxes`, a thread block a class."""

    def body(inputs: list[Any], outputs: list[Any]) -> None:
        (boxes, count), (out,) = inputs, outputs
        with (
            T.thread_binding(0, counts.shape[0], thread="blockIdx.x") as row,
            T.thread_binding(0, _GATHERING, thread="threadIdx.x") as thread,
        ):
            first = cell("int32", 0)
            with T.serial(0, row) as before:
                first[0] = first[0] + count[before]
            with T.serial(0, (count[row] + (_GATHERING - 1)) // _GATHERING) as turn:
                j = turn * _GATHERING + tirx.Cast("int32", thread)

                def gather(j: Any = j) -> None:
                    at = first[0] + j
                    out[at, 0] = tirx.Cast("int64", row // classes)
                    out[at, 1] = tirx.Cast("int64", row % classes)
                    out[at, 2] = tirx.Cast("int64", boxes[row, j])

                when(j < count[row], gather)

    return loops([(found, 3)], ["int64"], [kept, counts], body, "gather_boxes")


def chosen(flags: te.Tensor, is_set: Callable[[Any], Any]) -> list[te.Tensor]:
    """As `selection.chosen`, a thread block for all."""
    size = static(flags.shape)[0]

    def body(inputs: list[Any], outputs: list[Any]) -> None:
        (data,), (places, number) = inputs, outputs
        with T.thread_binding(0, 1, thread="blockIdx.x"), T.thread_binding(0, THREADS, thread="threadIdx.x") as thread:
            totals = T.buffer_proxy(T.decl_buffer([_WARPS], "int32", scope="shared"))
            totals[_WARPS - 1] = tirx.const(0, "int32")  # TVM gives no more than it sees used
            T.evaluate(op.call_extern("int32", "optkit_sync"))
            count, flag = cell("int32", 0), cell("int32", 0)
            with T.serial(0, (size + (THREADS - 1)) // THREADS) as turn:
                at = turn * THREADS + thread
                flag[0] = tirx.const(0, "int32")

                def look(at: Any = at) -> None:
                    when(is_set(data[at]), lambda: flag.__setitem__(0, tirx.const(1, "int32")))

                when(at < size, look)
                pointers = op.address_of(totals[0]), op.address_of(count[0])
                place = cell("int32", op.call_extern("int32", "optkit_rank", flag[0], *pointers))

                def keep(at: Any = at, place: Any = place) -> None:
                    places[place[0]] = tirx.Cast("int64", at)

                when(flag[0] == 1, keep)

            def finish() -> None:
                number[0] = tirx.Cast("int64", count[0])

            when(thread == 0, finish)

    found: list[te.Tensor] = loops([(size,), (1,)], ["int64", "int64"], [flags], body, "chosen")
    return found


__all__ = ["chosen", "gather_boxes", "select_boxes", "top_k"]
