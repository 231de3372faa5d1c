"""Greedy non-maximum suppression as ONNX defines it (NonMaxSuppression)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tvm import te, tirx

from optkit.compiler.operators.common import const, static
from optkit.compiler.operators.loops import T, cell, loops, when
from optkit.compiler.operators.sorting import merge_sort


def _corners(boxes: Any, batch: Any, index: Any, centered: bool) -> list[Any]:
    """Cells with y1, x1, y2, x2 in ascending order; corners may be given in any, or as center and size."""
    a, b, c, d = (boxes[batch, index, i] for i in range(4))
    if centered:
        x, y, w, h = a, b, c, d
        half = const(0.5, "float32")
        bounds = [y - h * half, x - w * half, y + h * half, x + w * half]
    else:
        bounds = [tirx.min(a, c), tirx.min(b, d), tirx.max(a, c), tirx.max(b, d)]
    return [cell("float32", e) for e in bounds]


def _overlaps(first: list[Any], second: list[Any], threshold: Any) -> Any:
    """Whether intersection over union is above the threshold; never for a box without area."""
    y1, x1, y2, x2 = (c[0] for c in first)
    v1, u1, v2, u2 = (c[0] for c in second)
    zero = const(0, "float32")
    height = tirx.max(tirx.min(y2, v2) - tirx.max(y1, v1), zero)
    width = tirx.max(tirx.min(x2, u2) - tirx.max(x1, u1), zero)
    common = cell("float32", height * width)
    areas = cell("float32", (y2 - y1) * (x2 - x1)), cell("float32", (v2 - v1) * (u2 - u1))
    union = cell("float32", areas[0][0] + areas[1][0] - common[0])
    solid = tirx.all(common[0] > zero, areas[0][0] > zero, areas[1][0] > zero, union[0] > zero)
    safe = tirx.max(union[0], const(1e-38, "float32"))
    return tirx.all(solid, common[0] / safe > threshold)


@dataclass(frozen=True)
class Limits:
    """What bounds the boxes kept, each a number or a tensor of one element.

    Attributes:
        most: boxes kept a class at most, int64.
        iou: intersection over union above which the lower score goes, float32.
        score: scores must be above this, float32; None admits all.
    """

    most: te.Tensor | int
    iou: te.Tensor | float
    score: te.Tensor | float | None

    @property
    def tensors(self) -> list[te.Tensor]:
        """Those that are found at run time."""
        return [t for t in (self.most, self.iou, self.score) if isinstance(t, te.Tensor)]

    def room(self, size: Any) -> Any:
        """How many of `size` boxes a class may keep, at least one."""
        if not isinstance(self.most, int) or not isinstance(size, int):
            return size
        return max(min(size, self.most), 1)

    def values(self, given: Iterator[Any]) -> list[Any]:
        """The three as scalars, from the buffers of `tensors`; None where all scores are admitted."""
        limits = (self.most, "int64"), (self.iou, "float32"), (self.score, "float32")
        return [
            next(given)[0] if isinstance(limit, te.Tensor) else None if limit is None else tirx.const(limit, dtype)
            for limit, dtype in limits
        ]


def select_boxes(
    boxes: te.Tensor,
    scores: te.Tensor,
    most: te.Tensor | int,
    iou: te.Tensor | float,
    score: te.Tensor | float | None,
    centered: bool,
) -> list[te.Tensor]:
    """Boxes kept for every batch and class, by descending score.

    Args:
        boxes: (B, N, 4) corners, or centers and sizes.
        scores: (B, C, N).
        most, iou, score: as in `Limits`.

    Returns:
        Indices (B * C, M) int32 with M = min(N, most), counts (B * C,) int32, and scratch.
    """
    batches, classes, size = static(scores.shape)
    limits = Limits(most, iou, score)

    def body(inputs: list[Any], outputs: list[Any]) -> None:
        b, s, *given = inputs
        cap, overlap, least = limits.values(iter(given))
        kept, counts, order = outputs
        with T.parallel(0, batches * classes) as row:
            batch, kind = row // classes, row % classes
            candidates, chosen = cell("int32", 0), cell("int32", 0)
            with T.serial(0, tirx.Cast("int32", size)) as j:

                def admit(j: Any = j) -> None:
                    order[row, 0, candidates[0]] = j
                    candidates[0] = candidates[0] + 1

                if least is None:
                    admit()
                else:
                    when(s[batch, kind, j] > least, admit)
            half = merge_sort(order, (row,), candidates[0], lambda p, q: s[batch, kind, p] > s[batch, kind, q])
            position = cell("int32", 0)
            with T.While(tirx.all(position[0] < candidates[0], tirx.Cast("int64", chosen[0]) < cap)):
                index = cell("int32", order[row, half[0], position[0]])
                box = _corners(b, batch, index[0], centered)
                free, other = cell("int32", 1), cell("int32", 0)
                with T.While(tirx.all(free[0] == 1, other[0] < chosen[0])):
                    rival = _corners(b, batch, kept[row, other[0]], centered)
                    free[0] = tirx.Select(_overlaps(box, rival, overlap), tirx.const(0, "int32"), free[0])
                    other[0] = other[0] + 1

                def keep(index: Any = index) -> None:
                    kept[row, chosen[0]] = index[0]
                    chosen[0] = chosen[0] + 1

                when(free[0] == 1, keep)
                position[0] = position[0] + 1
            counts[row] = chosen[0]

    rows = batches * classes
    shapes = [(rows, limits.room(size)), (rows,), (rows, 2, size)]
    found: list[te.Tensor] = loops(shapes, ["int32"] * 3, [boxes, scores, *limits.tensors], body, "select_boxes")
    return found


def total(counts: te.Tensor) -> te.Tensor:
    """The sum of int32 counts, int64 of shape (1,)."""

    def body(inputs: list[Any], outputs: list[Any]) -> None:
        outputs[0][0] = tirx.const(0, "int64")
        with T.serial(0, counts.shape[0]) as i:
            outputs[0][0] = outputs[0][0] + tirx.Cast("int64", inputs[0][i])

    return loops([(1,)], ["int64"], [counts], body, "total")


def gather_boxes(kept: te.Tensor, counts: te.Tensor, classes: Any, found: Any) -> te.Tensor:
    """Rows (batch, class, box) of int64, as many as the counts add up to: `found`."""

    def body(inputs: list[Any], outputs: list[Any]) -> None:
        (boxes, count), (out,) = inputs, outputs
        at = cell("int32", 0)
        with T.serial(0, counts.shape[0]) as row, T.serial(0, count[row]) as j:
            out[at[0], 0] = tirx.Cast("int64", row // classes)
            out[at[0], 1] = tirx.Cast("int64", row % classes)
            out[at[0], 2] = tirx.Cast("int64", boxes[row, j])
            at[0] = at[0] + 1

    return loops([(found, 3)], ["int64"], [kept, counts], body, "gather_boxes")


__all__ = ["Limits", "gather_boxes", "select_boxes", "total"]
