"""Integer matrix products and convolutions with zero points known only at run time, int32 sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import te, tirx

from optkit.compiler.operators.affine import to_range
from optkit.compiler.operators.common import const, static
from optkit.compiler.operators.exact import product


def _one(d: Any) -> bool:
    return isinstance(d, int) and d == 1


def _offset(zero: te.Tensor | None, index: Sequence[Any], axis: int) -> Any:
    """The zero point at an index of the operand: one number, a vector along `axis`, or a tensor to broadcast."""
    if zero is None:
        return const(0, "int32")
    shape = static(zero.shape)
    if len(shape) == 1 and not _one(shape[0]):
        return zero(index[axis]).astype("int32")
    tail = index[len(index) - len(shape) :]
    return zero(*(0 if _one(d) else i for d, i in zip(shape, tail, strict=True))).astype("int32")


def matmul(a: te.Tensor, b: te.Tensor, a_zero: te.Tensor | None, b_zero: te.Tensor | None) -> te.Tensor:
    """numpy's matmul of (a - a_zero) and (b - b_zero), operands of at least two dimensions."""
    shapes = [static(t.shape) for t in (a, b)]
    rank = max(len(s) for s in shapes)
    lead = [[1] * (rank - len(s)) + s[:-2] for s in shapes]
    full = [y if _one(x) else x for x, y in zip(*lead, strict=True)]
    k = te.reduce_axis((0, shapes[0][-1]), "k")

    def read(t: te.Tensor, zero: te.Tensor | None, index: tuple[Any, ...], axis: int) -> Any:
        shape = static(t.shape)
        at = [0 if _one(d) else i for d, i in zip(shape, index[len(index) - len(shape) :], strict=True)]
        return t(*at).astype("int32") - _offset(zero, at, axis)

    def element(*i: Any) -> Any:
        *batch, m, n = i
        left, right = read(a, a_zero, (*batch, m, k), -2), read(b, b_zero, (*batch, k, n), -1)
        return te.sum(left * right, axis=k)

    return te.compute((*full, shapes[0][-2], shapes[1][-1]), element, name="matmul_integer")


def conv(
    x: te.Tensor,
    w: te.Tensor,
    x_zero: te.Tensor | None,
    w_zero: te.Tensor | None,
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
    groups: int,
) -> te.Tensor:
    """Convolution of (x - x_zero), which is 0 in the padding, and (w - w_zero), in any number of dimensions."""
    n, _, *size = static(x.shape)
    out, per_in, *kernel = static(w.shape)
    rank = len(kernel)
    spatial = [
        (d + pads[i] + pads[rank + i] - (k - 1) * dilations[i] - 1) // strides[i] + 1
        for i, (d, k) in enumerate(zip(size, kernel, strict=True))
    ]
    channel = te.reduce_axis((0, per_in), "c")
    taps = [te.reduce_axis((0, k), f"k{i}") for i, k in enumerate(kernel)]

    def element(*i: Any) -> Any:
        batch, o, *at = i
        source = [p * strides[j] + taps[j] * dilations[j] - pads[j] for j, p in enumerate(at)]
        inside = [c for p, d in zip(source, size, strict=True) for c in (p >= 0, p < d)]
        index = (batch, o // (out // groups) * per_in + channel, *source)
        value = x(*index).astype("int32") - _offset(x_zero, index, 1)
        weight = w(o, channel, *taps).astype("int32") - _offset(w_zero, (o, channel, *taps), 0)
        padded = te.if_then_else(tirx.all(*inside), value, const(0, "int32")) if any(pads) else value
        return te.sum(padded * weight, axis=[channel, *taps])

    return te.compute((n, out, *spatial), element, name="conv_integer")


def pad(x: te.Tensor, zero: te.Tensor | None, pads: Sequence[int]) -> te.Tensor:
    """Spatial padding with the zero point, which is only known at run time."""
    shape = static(x.shape)
    rank = len(shape) - 2
    full = [*shape[:2], *[d + pads[i] + pads[rank + i] for i, d in enumerate(shape[2:])]]

    def element(*i: Any) -> Any:
        source = [p - pads[j] for j, p in enumerate(i[2:])]
        inside = [c for p, d in zip(source, shape[2:], strict=True) for c in (p >= 0, p < d)]
        empty = const(0, str(x.dtype)) if zero is None else zero(*[0] * len(zero.shape))
        return te.if_then_else(tirx.all(*inside), x(*i[:2], *source), empty)

    return te.compute(full, element, name="pad")


def shift(acc: te.Tensor, sums: te.Tensor, zero: te.Tensor | None, offset: int, axis: int) -> te.Tensor:
    """acc - (zero + offset) * sums[c]: what the zero point of the other operand adds to a product.

    Args:
        sums: of the weights, one for each index of `axis`.
    """

    def element(*i: Any) -> Any:
        extra = const(offset, "int32")
        if zero is not None:
            extra = extra + zero(*[0] * len(zero.shape)).astype("int32")
        return acc(*i) - extra * sums(i[axis])

    return te.compute(acc.shape, element, name="shift")


def requantize(
    acc: te.Tensor,
    scales: tuple[te.Tensor, te.Tensor, te.Tensor],
    zero: te.Tensor | None,
    bias: te.Tensor | None,
    dtype: str,
    axes: tuple[int, int],
) -> te.Tensor:
    """saturate(round((acc + bias) * (a * b / y)) + zero) for the scales a, b and y of operands and result.

    Args:
        axes: along which a vector of a's and of b's scales runs.
    """
    rank = len(acc.shape)

    def pick(t: te.Tensor, index: tuple[Any, ...], axis: int) -> Any:
        shape = static(t.shape)
        if len(shape) == 1 and not _one(shape[0]):
            return t(index[axis]).astype("float32")
        given = zip(shape, index[rank - len(shape) :], strict=True)
        return t(*(0 if _one(d) else i for d, i in given)).astype("float32")

    def element(*i: Any) -> Any:
        a, b, y = (pick(t, i, axis) for t, axis in zip(scales, (*axes, -1), strict=True))
        value = acc(*i) if bias is None else acc(*i) + bias(i[axes[1]])
        real = product(value.astype("float32"), product(a, b) / y)
        return to_range(real, None if zero is None else pick(zero, i, -1), dtype)

    return te.compute(acc.shape, element, name="requantize")


def rescale(acc: te.Tensor, a: te.Tensor, b: te.Tensor, bias: te.Tensor | None) -> te.Tensor:
    """acc * (a * b) + bias in float32; b and the bias are one number or one a column."""

    def pick(t: te.Tensor, last: Any) -> Any:
        shape = static(t.shape)
        return t(*([0] * (len(shape) - 1)), 0 if _one(shape[-1]) else last) if shape else t()

    def element(*i: Any) -> Any:
        real = product(acc(*i).astype("float32"), product(pick(a, 0), pick(b, i[-1])))
        return real if bias is None else real + pick(bias, i[-1])

    return te.compute(acc.shape, element, name="rescale")


__all__ = ["conv", "matmul", "pad", "requantize", "rescale", "shift"]
