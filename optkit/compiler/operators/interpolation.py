"""Where Resize reads: source positions, taps and weights along one axis, as numpy tables or as tensor expressions.

The formulas are written once, over a small arithmetic that numpy arrays and TIR expressions share. Everything is
float32 in ONNX Runtime's order of operations, so that ties of nearest neighbours fall on the same side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import te, tirx


class Numpy:
    """Arrays."""

    @staticmethod
    def real(x: Any) -> Any:
        return np.asarray(x, "float32")

    @staticmethod
    def whole(x: Any) -> Any:
        return np.asarray(x, "int32")

    floor, ceil, absolute = np.floor, np.ceil, np.abs
    where, least, most = np.where, np.minimum, np.maximum


class Tir:
    """Expressions."""

    @staticmethod
    def real(x: Any) -> Any:
        return tirx.const(x, "float32") if isinstance(x, (int, float, np.generic)) else x.astype("float32")

    @staticmethod
    def whole(x: Any) -> Any:
        return tirx.const(x, "int32") if isinstance(x, (int, np.generic)) else x.astype("int32")

    floor, ceil, absolute = tirx.floor, tirx.ceil, tirx.abs
    where, least, most = tirx.Select, te.min, te.max


@dataclass(frozen=True)
class Mode:
    """How Resize interpolates: its attributes under their ONNX names."""

    mode: str
    coordinate_transformation_mode: str
    nearest_mode: str
    cubic_coeff_a: float
    exclude_outside: bool
    antialias: bool

    def window(self, scale: float) -> tuple[int, int]:
        """Offset of the first tap from the position's floor, and the number of taps, at this or a larger scale."""
        radius = 2 if self.mode == "cubic" else 1
        if self.antialias:
            first = math.floor(-radius / min(scale, 1.0)) + 1
            return first, 2 - 2 * first
        return 1 - radius, 2 * radius


def position(mode: str, m: Any, y: Any, scale: Any, size: Any, out: Any, roi: tuple[Any, Any] | None) -> Any:
    """The position in an axis of `size` elements that output `y` of `out` is taken from (Resize, coordinate modes).

    `align_corners` divides by the resized length before rounding, scale * size, as ONNX's reference does.
    """
    half, one, zero = m.real(0.5), m.real(1), m.real(0)
    length = scale * size
    if mode == "half_pixel":
        return (y + half) / scale - half
    if mode == "pytorch_half_pixel":
        return m.where(out > one, (y + half) / scale - half, zero)
    if mode == "asymmetric":
        return y / scale
    if mode == "align_corners":
        many = length != one
        return m.where(many, y * (size - one) / m.where(many, length - one, one), zero)
    if mode == "half_pixel_symmetric":
        return size * half * (one - out / length) + (y + half) / scale - half
    assert mode == "tf_crop_and_resize" and roi is not None, mode
    start, end = roi
    many = out > one
    spread = y * (end - start) * (size - one) / m.where(many, out - one, one)
    return start * (size - one) + m.where(many, spread, half * (end - start) * (size - one))


def nearest(how: str, m: Any, x: Any) -> Any:
    """The whole position nearest to x, not yet within the axis."""
    half = m.real(0.5)
    found = {
        "round_prefer_floor": lambda: m.ceil(x - half),
        "round_prefer_ceil": lambda: m.floor(x + half),
        "floor": lambda: m.floor(x),
        "ceil": lambda: m.ceil(x),
    }[how]()
    return m.whole(found)


def within(m: Any, index: Any, size: Any) -> Any:
    """The index moved onto the axis."""
    return m.most(m.least(index, m.whole(size) - m.whole(1)), m.whole(0))


def tap(mode: Mode, m: Any, x: Any, offset: Any, scale: Any, size: Any) -> tuple[Any, Any]:
    """Index (not yet within the axis) and weight (not yet normalized) of the tap `offset` from floor(x)."""
    base = m.floor(x)
    one, two, zero = m.real(1), m.real(2), m.real(0)
    d = m.absolute(m.real(offset) - (x - base))
    if mode.antialias:
        d = d * m.least(scale, one)
    if mode.mode == "linear":
        weight = m.most(one - d, zero)
    else:
        # Keys, "Cubic convolution interpolation for digital image processing", 1981, equation 4.
        a = m.real(mode.cubic_coeff_a)
        near = ((a + two) * d - (a + m.real(3))) * d * d + one
        far = ((a * d - m.real(5) * a) * d + m.real(8) * a) * d - m.real(4) * a
        weight = m.where(d <= one, near, m.where(d < two, far, zero))
    index = m.whole(base) + m.whole(offset)
    if mode.exclude_outside:
        weight = m.where(index >= m.whole(0), weight, zero)
        weight = m.where(index < m.whole(size), weight, zero)
    return index, weight


__all__ = ["Mode", "Numpy", "Tir", "nearest", "position", "tap", "within"]
