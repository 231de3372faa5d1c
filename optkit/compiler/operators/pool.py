"""Pooling over blocked activations (N, C/b, H, W, b), in floating point and on quantized integers."""

from __future__ import annotations

from typing import Any

from tvm import te, tirx

from optkit.compiler.operators.common import OP, const, pad_axes, static
from optkit.compiler.operators.conv import Window
from optkit.compiler.operators.exact import product
from optkit.compiler.operators.open_conv import padded_images
from optkit.compiler.operators.reductions import reducer


def _lowest(dtype: str) -> Any:
    return tirx.min_value(dtype)


def _padded(data: te.Tensor, window: Window, out: tuple[Any, Any], value: Any) -> te.Tensor:
    _, _, h, w, _ = static(data.shape)
    if not isinstance(h, int) or not isinstance(w, int):
        return padded_images(data, window, *out, value) if any(window.pads) else data
    sizes = []
    for i, size in enumerate((h, w)):
        need = (out[i] - 1) * window.strides[i] + (window.kernel[i] - 1) * window.dilations[i] + 1
        sizes.append(max(need, size + window.pads[i]))
    return pad_axes(data, window.pads[:2], sizes, 2, value)


def max_pool2d(data: te.Tensor, window: Window, ceil: bool) -> te.Tensor:
    """Maximum over each window; padding never wins."""
    n, cb, h, w, b = static(data.shape)
    oh, ow = window.output(h, w, ceil)
    dtype = str(data.dtype)
    lowest = _lowest(dtype)
    source = _padded(data, window, (oh, ow), lowest.value)
    ky, kx = (te.reduce_axis((0, k), name) for k, name in zip(window.kernel, ("ky", "kx"), strict=True))
    (sy, sx), (dy, dx) = window.strides, window.dilations
    return te.compute(
        (n, cb, oh, ow, b),
        lambda i, c, y, x, v: te.max(source[i, c, y * sy + ky * dy, x * sx + kx * dx, v], axis=[ky, kx]),
        name="pool",
        attrs={OP: "pool"},
    )


def sum_pool2d(data: te.Tensor, window: Window, ceil: bool) -> te.Tensor:
    """Sum over each window, padding counting as zero, in float32 -> (N, C/b, OH, OW, b)."""
    n, cb, h, w, b = static(data.shape)
    oh, ow = window.output(h, w, ceil)
    source = _padded(data, window, (oh, ow), 0)
    ky, kx = (te.reduce_axis((0, k), name) for k, name in zip(window.kernel, ("ky", "kx"), strict=True))
    (sy, sx), (dy, dx) = window.strides, window.dilations
    return te.compute(
        (n, cb, oh, ow, b),
        lambda i, c, y, x, v: te.sum(
            source[i, c, y * sy + ky * dy, x * sx + kx * dx, v].astype("float32"), axis=[ky, kx]
        ),
        name="pool",
        attrs={OP: "pool"},
    )


def window_sizes(size: int, out: int, window: Window, axis: int, include_pad: bool) -> list[int]:
    """Elements each window along one axis averages over, as ONNX counts them (AveragePool, count_include_pad)."""
    kernel, stride, dilation = window.kernel[axis], window.strides[axis], window.dilations[axis]
    lead, trail = window.pads[axis], window.pads[axis + 2]
    low, high = (0, lead + size + trail) if include_pad else (lead, lead + size)
    return [sum(low <= o * stride + k * dilation < high for k in range(kernel)) for o in range(out)]


def global_sum(data: te.Tensor) -> te.Tensor:
    """Sum over height and width -> (N, C/b, 1, 1, b), exact in int32 for quantized data."""
    n, cb, h, w, b = static(data.shape)
    kind = "int32" if "int" in str(data.dtype) else "float32"
    y, x = te.reduce_axis((0, h), "y"), te.reduce_axis((0, w), "x")
    return te.compute(
        (n, cb, 1, 1, b),
        lambda i, c, _y, _x, v: te.sum(data[i, c, y, x, v].astype(kind), axis=[y, x]),
        name="pool",
        attrs={OP: "pool"},
    )


def global_max(data: te.Tensor, flat: bool) -> te.Tensor:
    """Maximum over height and width, which may be open -> (N, C/b, 1, 1, b); a NaN anywhere is it.

    Args:
        flat: reduce open extents as one axis, which the threads of a GPU divide.
    """
    n, cb, *_, b = static(data.shape)
    dtype = str(data.dtype)
    kind = "float32" if dtype == "float16" else dtype
    largest, (axes, place) = reducer("max", kind), _positions(data, flat)

    def element(i: Any, c: Any, _y: Any, _x: Any, v: Any) -> Any:
        return largest(data[i, c, *place, v].astype(kind), axis=axes)

    top = te.compute((n, cb, 1, 1, b), element, name="pool", attrs={OP: "pool"})
    return top if kind == dtype else te.compute(top.shape, lambda *i: top(*i).astype(dtype), name="reduced")


def global_mean(data: te.Tensor, flat: bool, scale: float = 1.0, zero: int = 0) -> te.Tensor:
    """Mean over height and width, which may be open, in float32 -> (N, C/b, 1, 1, b); `flat` as `global_max`'s.

    Of quantized data the sum is exact, and made real by its scale and zero point.
    """
    n, cb, h, w, b = static(data.shape)
    whole = "int" in str(data.dtype)
    kind = "int32" if whole else "float32"
    axes, place = _positions(data, flat)

    def element(i: Any, c: Any, _y: Any, _x: Any, v: Any) -> Any:
        return te.sum(data[i, c, *place, v].astype(kind), axis=axes)

    total = te.compute((n, cb, 1, 1, b), element, name="pool", attrs={OP: "pool"})
    count = (h * w).astype("int32")

    def mean(*i: Any) -> Any:
        real = product((total(*i) - zero * count).astype("float32"), const(scale, "float32")) if whole else total(*i)
        return real / count.astype("float32")

    return te.compute((n, cb, 1, 1, b), mean, name="mean")


def _positions(data: te.Tensor, flat: bool) -> tuple[list[Any], tuple[Any, Any]]:
    """Axes over all positions of an image, and the position they are at."""
    _, _, h, w, _ = static(data.shape)
    if flat and not (isinstance(h, int) and isinstance(w, int)):
        p = te.reduce_axis((0, h * w), "p")
        return [p], (p // w, p % w)
    y, x = te.reduce_axis((0, h), "y"), te.reduce_axis((0, w), "x")
    return [y, x], (y, x)
