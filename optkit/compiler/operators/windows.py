"""Sliding windows over plain (N, C, *spatial) tensors of any rank and element type, symbolic extents included.

These are the general forms; images of known size take the blocked kernels of `conv` and `pool`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tvm import te, tirx

from optkit.compiler.operators.common import const, simplified, static


@dataclass(frozen=True)
class Windows:
    """Geometry of a sliding window along every spatial axis.

    Attributes:
        begins, ends: padding; expressions once `fit` to symbolic extents.
        auto: auto_pad, "SAME_UPPER" or "SAME_LOWER" where the padding depends on the extents.
        ceil: whether windows may start inside the trailing padding's reach, though not behind it.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[Any, ...]
    ends: tuple[Any, ...]
    auto: str = ""
    ceil: bool = False

    def fit(self, size: Sequence[Any]) -> Windows:
        """This window with its padding for the given extents, which in a kernel are the kernel's own symbols."""
        if not self.auto:
            return self
        begins, ends = [], []
        for i, extent in enumerate(size):
            steps = (extent + self.strides[i] - 1) // self.strides[i]
            reach = (self.kernel[i] - 1) * self.dilations[i] + 1
            wanted = (steps - 1) * self.strides[i] + reach - extent
            total = max(wanted, 0) if isinstance(wanted, int) else tirx.max(wanted, 0)
            small = total // 2
            upper = self.auto == "SAME_UPPER"
            begins.append(small if upper else total - small)
            ends.append(total - small if upper else small)
        return replace(self, begins=tuple(begins), ends=tuple(ends), auto="")

    def output(self, size: Sequence[Any]) -> tuple[Any, ...]:
        """Output extents."""
        if self.auto:
            return self.fit(size).output(size)
        found = []
        for i, extent in enumerate(size):
            span = extent + self.begins[i] + self.ends[i] - (self.kernel[i] - 1) * self.dilations[i] - 1
            if not self.ceil:
                found.append(span // self.strides[i] + 1)
                continue
            steps = (span + self.strides[i] - 1) // self.strides[i]
            behind = steps * self.strides[i] >= extent + self.begins[i]
            less = int(behind) if isinstance(behind, bool) else tirx.Select(behind, 1, 0)
            found.append(steps + 1 - less)
        return tuple(map(simplified, found))

    def taps(self) -> list[Any]:
        """Reduction axes over the window."""
        return [te.reduce_axis((0, k), f"k{i}") for i, k in enumerate(self.kernel)]

    def places(self, out: Sequence[Any], taps: Sequence[Any], size: Sequence[Any]) -> tuple[list[Any], Any]:
        """Where an output's tap reads, and whether that is inside the tensor (None: always)."""
        at, inside = [], []
        for i, (o, k) in enumerate(zip(out, taps, strict=True)):
            place = o * self.strides[i] + k * self.dilations[i] - self.begins[i]
            at.append(place)
            inside += [place >= 0, place < size[i]]
        return at, tirx.all(*inside)


def _reduced(data: te.Tensor, window: Windows, value: Callable[[Any], Any], empty: Any, combine: Any) -> te.Tensor:
    n, c, *size = static(data.shape)
    window, taps = window.fit(size), window.taps()

    def element(i: Any, channel: Any, *o: Any) -> Any:
        at, inside = window.places(o, taps, size)
        return combine(te.if_then_else(inside, value(data(i, channel, *at)), empty), axis=taps)

    return te.compute((n, c, *window.output(size)), element, name="window")


def max_pool(data: te.Tensor, window: Windows) -> te.Tensor:
    """The maximum of every window; padding never wins."""
    return _reduced(data, window, lambda e: e, tirx.min_value(str(data.dtype)), te.max)


def max_indices(data: te.Tensor, top: te.Tensor, window: Windows, column_major: bool) -> te.Tensor:
    """Flat position in `data` of the first element of every window that equals its maximum, int64.

    With `column_major` (storage_order 1) the first spatial axis runs fastest; which element is first stays the same.
    """
    _, c, *size = static(data.shape)
    window, taps = window.fit(size), window.taps()
    none = tirx.max_value("int64")

    def first(i: Any, channel: Any, *o: Any) -> Any:
        at, inside = window.places(o, taps, size)
        flat: Any = tirx.const(0, "int64")
        for place, extent in zip(at, size, strict=True):
            flat = flat * extent + place
        equal = tirx.all(
            inside, te.if_then_else(inside, data(i, channel, *at), top(i, channel, *o)) == top(i, channel, *o)
        )
        return te.min(tirx.Select(equal, flat.astype("int64"), none), axis=taps)

    place = te.compute(top.shape, first, name="first")
    total: Any = 1
    for extent in size:
        total = total * extent

    def element(i: Any, channel: Any, *o: Any) -> Any:
        flat = place(i, channel, *o)
        if column_major:
            rest, flat, step = flat, tirx.const(0, "int64"), total
            for extent in reversed(size):
                step = tirx.floordiv(step, extent)
                flat = flat + tirx.floormod(rest, extent) * step
                rest = tirx.floordiv(rest, extent)
        return flat + ((i * c + channel) * total).astype("int64")

    return te.compute(top.shape, element, name="indices")


def sum_pool(data: te.Tensor, window: Windows, power: float) -> te.Tensor:
    """The sum of |x| ** power over every window, of x itself with power 0; in float32 or float64."""
    kind = "float64" if str(data.dtype) == "float64" else "float32"

    def value(e: Any) -> Any:
        e = e.astype(kind)
        if power == 0:
            return e
        if power == 2:
            return e * e
        return tirx.abs(e) if power == 1 else tirx.pow(tirx.abs(e), const(power, kind))

    return _reduced(data, window, value, const(0, kind), te.sum)


def average(total: te.Tensor, data: te.Tensor, window: Windows, padded: bool) -> te.Tensor:
    """Sums over the number of elements, padding counted where `padded`, never what `ceil_mode` adds."""
    size = static(data.shape)[2:]
    window = window.fit(size)
    kind = str(total.dtype)

    def reached(limit: Any, start: Any, i: int) -> Any:
        """Taps before `limit`."""
        taps = tirx.floordiv(limit - start + window.dilations[i] - 1, window.dilations[i])
        return tirx.max(tirx.min(taps, window.kernel[i]), 0)

    def element(n: Any, c: Any, *o: Any) -> Any:
        count: Any = 1
        for i, at in enumerate(o):
            start = at * window.strides[i] - window.begins[i]
            low, high = (-window.begins[i], size[i] + window.ends[i]) if padded else (0, size[i])
            count = count * (reached(high, start, i) - reached(low, start, i))
        return (total(n, c, *o) / tirx.Cast(kind, tirx.max(count, 1))).astype(str(data.dtype))

    return te.compute(total.shape, element, name="average")


def root(total: te.Tensor, power: float, dtype: str) -> te.Tensor:
    """Sums of powers to norms."""
    kind = str(total.dtype)

    def element(*i: Any) -> Any:
        value = total(*i)
        if power == 2:
            value = tirx.sqrt(value)
        elif power != 1:
            value = tirx.pow(value, const(1 / power, kind))
        return value.astype(dtype)

    return te.compute(total.shape, element, name="norm")  # "root" is TVM's name of the block around all others


def conv(data: te.Tensor, weight: te.Tensor, window: Windows, groups: int) -> te.Tensor:
    """Conv of (N, C, *spatial) and (O, C / groups, *kernel), accumulated in float32, float64 or int32."""
    n, _, *size = static(data.shape)
    filters, per_in, *_ = static(weight.shape)
    kind = _accumulator(str(data.dtype))
    window = window.fit(size)
    taps, channel = window.taps(), te.reduce_axis((0, per_in), "c")
    per_out = filters // groups

    def element(i: Any, f: Any, *o: Any) -> Any:
        at, inside = window.places(o, taps, size)
        source = data(i, f // per_out * per_in + channel, *at).astype(kind)
        read = te.if_then_else(inside, source, const(0, kind))
        return te.sum(read * weight(f, channel, *taps).astype(kind), axis=[channel, *taps])

    return te.compute((n, filters, *window.output(size)), element, name="conv")


def conv_transpose(data: te.Tensor, weight: te.Tensor, window: Windows, out: Sequence[Any], groups: int) -> te.Tensor:
    """ConvTranspose of (N, C, *spatial) and (C, O / groups, *kernel), read from the outputs' side.

    `window` is that of the convolution it is the transpose of: output o takes input i where
    o + begin = i * stride + k * dilation.
    """
    n, channels, *size = static(data.shape)
    _, per_out, *_ = static(weight.shape)
    kind = _accumulator(str(data.dtype))
    per_in = channels // groups
    taps, channel = window.taps(), te.reduce_axis((0, per_in), "c")

    def element(i: Any, f: Any, *o: Any) -> Any:
        at, inside = [], []
        for d, (place, k) in enumerate(zip(o, taps, strict=True)):
            reach = place + window.begins[d] - k * window.dilations[d]
            source = tirx.floordiv(reach, window.strides[d])
            at.append(source)
            inside += [source >= 0, source < size[d]]
            if window.strides[d] > 1:
                inside.append(tirx.floormod(reach, window.strides[d]) == 0)
        c = f // per_out * per_in + channel
        read = te.if_then_else(tirx.all(*inside), data(i, c, *at).astype(kind), const(0, kind))
        return te.sum(read * weight(c, f % per_out, *taps).astype(kind), axis=[channel, *taps])

    return te.compute((n, per_out * groups, *out), element, name="conv_transpose")


def _accumulator(dtype: str) -> str:
    return "float64" if dtype == "float64" else "int32" if "int" in dtype else "float32"


__all__ = ["Windows", "average", "conv", "conv_transpose", "max_indices", "max_pool", "root", "sum_pool"]
