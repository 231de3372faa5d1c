"""Resize: tables of indices and weights along each axis, and the passes that read through them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import te, tirx

from optkit.compiler.operators.common import const, static
from optkit.compiler.operators.interpolation import Mode, Numpy, Tir, nearest, position, tap, within
from optkit.compiler.operators.loops import T, cell, loops

UNROLLED = 8
"""Taps that one pass writes out as a sum; more are a reduction."""


@dataclass(frozen=True)
class Axis:
    """What is known of one resized axis.

    Attributes:
        index: its place among the node's axes.
        size, out: extents, numbers or expressions.
        scale: None where it is read from a tensor.
        least: a number no scale is below, where one is known; antialiasing takes its taps from it.
        roi: start and end for tf_crop_and_resize; None where they are read from a tensor or not used.
    """

    index: int
    size: Any
    out: Any
    scale: Any
    least: float | None
    roi: tuple[float, float] | None = None


def constant_tables(mode: Mode, axis: Axis) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices and weights (out, taps), and which positions lie outside (out,)."""
    size, scale = np.float32(axis.size), np.float32(axis.scale)
    y = np.arange(axis.out, dtype="float32")
    roi = None if axis.roi is None else (np.float32(axis.roi[0]), np.float32(axis.roi[1]))
    x = position(mode.coordinate_transformation_mode, Numpy, y, scale, size, np.float32(axis.out), roi)
    x = np.broadcast_to(np.asarray(x, "float32"), y.shape)
    outside = (x < 0) | (x > size - 1)
    if mode.mode == "nearest":
        index = within(Numpy, nearest(mode.nearest_mode, Numpy, x), axis.size)
        return index[:, None].astype("int32"), np.ones((axis.out, 1), "float32"), outside
    first, count = mode.window(float(scale))
    index, weight = tap(mode, Numpy, x[:, None], np.arange(first, first + count)[None], scale, axis.size)
    if mode.antialias or mode.exclude_outside:
        total = weight.sum(1, keepdims=True)
        weight = weight / np.where(total == 0, 1, total)
    return within(Numpy, index, axis.size).astype("int32"), weight.astype("float32"), outside


def table_kernel(mode: Mode, axis: Axis, at: int, axes: int) -> Callable[..., list[te.Tensor]]:
    """`constant_tables` as a kernel over (data, scales, roi): one float32 an axis, and two, or None.

    The data is not read; its shape has the extent of the axis, number `at` of the data and one of `axes` resized.
    """
    first, count = (0, 1) if mode.mode == "nearest" else mode.window(1.0 if axis.least is None else axis.least)

    def define(data: te.Tensor, scales: te.Tensor | None, roi: te.Tensor | None) -> list[te.Tensor]:
        extent = static(data.shape)[at]

        def body(inputs: list[Any], outputs: list[Any]) -> None:
            given = iter(inputs[1:])
            scale = next(given)[axis.index] if scales is not None else Tir.real(axis.scale)
            bounds = None if axis.roi is None else (Tir.real(axis.roi[0]), Tir.real(axis.roi[1]))
            if roi is not None:
                buffer = next(given)
                bounds = buffer[axis.index], buffer[axis.index + axes]
            size, out, one = Tir.real(extent), Tir.real(axis.out), Tir.real(1)
            index, weight, outside = outputs
            with T.serial(0, axis.out) as o:
                how = mode.coordinate_transformation_mode
                x = cell("float32", position(how, Tir, Tir.real(o), scale, size, out, bounds))
                outside[o] = tirx.any(x[0] < Tir.real(0), x[0] > size - one)
                if mode.mode == "nearest":
                    index[o, 0] = within(Tir, nearest(mode.nearest_mode, Tir, x[0]), extent)
                    weight[o, 0] = one
                    return
                total = cell("float32", 0)
                with T.serial(0, count) as t:
                    place, share = tap(mode, Tir, x[0], t + first, scale, extent)
                    index[o, t] = within(Tir, place, extent)
                    weight[o, t] = share
                    total[0] = total[0] + weight[o, t]
                if mode.antialias or mode.exclude_outside:
                    total[0] = tirx.Select(total[0] == Tir.real(0), one, total[0])
                    with T.serial(0, count) as t:
                        weight[o, t] = weight[o, t] / total[0]

        shapes = [(axis.out, count), (axis.out, count), (axis.out,)]
        tensors = [t for t in (data, scales, roi) if t is not None]
        found: list[te.Tensor] = loops(shapes, ["int32", "float32", "bool"], tensors, body, "resize_tables")
        return found

    return define


def stride(index: np.ndarray, size: int) -> tuple[int, int] | None:
    """(a, b) where index[o] is o * a // b for all o: whole scales, whose reads are then plain arithmetic."""
    out = len(index)
    for a, b in ((1, max(out // max(size, 1), 1)), (max(size // max(out, 1), 1), 1), (size, out)):
        if np.array_equal(index, np.arange(out) * a // b):
            return a, b
    return None


def gather(data: te.Tensor, axes: Sequence[int], sources: Sequence[te.Tensor | tuple[int, int]], out: Any) -> te.Tensor:
    """out[..., o, ...] = data[..., source[o], ...] along several axes; a source is a table (out, 1) or a stride."""

    def element(*i: Any) -> Any:
        at = list(i)
        for axis, source in zip(axes, sources, strict=True):
            o = i[axis]
            at[axis] = o * source[0] // source[1] if isinstance(source, tuple) else source[o, 0].astype("int64")
        return data(*at)

    return te.compute(tuple(out), element, name="nearest")


def interpolate(data: te.Tensor, axes: Sequence[int], tables: Sequence[te.Tensor], out: Any, dtype: str) -> te.Tensor:
    """Weighted sums along `axes`; `tables` are the axes' indices and weights in turn.

    Sums of few taps over all axes are written out; more over a single axis are a reduction.
    """
    kind = "float64" if "float64" in (str(data.dtype), dtype) else "float32"
    pairs = list(zip(tables[::2], tables[1::2], strict=True))

    def written(at: list[Any], left: list[tuple[int, tuple[te.Tensor, te.Tensor]]]) -> Any:
        if not left:
            return data(*at).astype(kind)
        (axis, (index, weight)), *rest = left
        o, total = at[axis], None
        for t in range(static(index.shape)[1]):
            inner = list(at)
            inner[axis] = index[o, t].astype("int64")
            part = written(inner, rest) * weight[o, t].astype(kind)
            total = part if total is None else total + part
        return total

    taps = [static(index.shape)[1] for index, _ in pairs]
    if int(np.prod(taps)) <= UNROLLED:
        every = list(zip(axes, pairs, strict=True))
        return te.compute(tuple(out), lambda *i: rounded(written(list(i), every), dtype), name="interpolate")
    (axis,), ((index, weight),) = axes, pairs
    k = te.reduce_axis((0, taps[0]), "k")

    def summed(*i: Any) -> Any:
        at = list(i)
        at[axis] = index[i[axis], k].astype("int64")
        return te.sum(data(*at).astype(kind) * weight[i[axis], k].astype(kind), axis=k)

    total = te.compute(tuple(out), summed, name="interpolate")
    if dtype == kind:
        return total
    return te.compute(tuple(out), lambda *i: rounded(total(*i), dtype), name="round")


def rounded(value: Any, dtype: str) -> Any:
    """A real number as `dtype`; integers saturate, and lose their fraction as ONNX Runtime's do."""
    if "int" in dtype:
        least, most = (float(f(dtype).value) for f in (tirx.min_value, tirx.max_value))
        kind = str(value.ty.dtype)
        value = te.max(te.min(value, const(most, kind)), const(least, kind))
    return value.astype(dtype)


def extrapolate(data: te.Tensor, axes: Sequence[int], value: float, *outside: te.Tensor) -> te.Tensor:
    """`value` where the position along any axis is outside."""

    def element(*i: Any) -> Any:
        gone = tirx.any(*[mask[i[axis]] for axis, mask in zip(axes, outside, strict=True)])
        return tirx.Select(gone, const(value, str(data.dtype)), data(*i))

    return te.compute(data.shape, element, name="extrapolate")


__all__ = ["UNROLLED", "Axis", "constant_tables", "extrapolate", "gather", "interpolate", "stride", "table_kernel"]
