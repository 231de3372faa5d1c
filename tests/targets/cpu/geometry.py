"""Shapes of products that hypothesis draws for a template, and what a convolution of such a shape sums up to."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

# Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", equation 7.
_DATA = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], "float64")
_KERNEL = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], "float64")
_BACK = np.array([[1, 1, 1, 0], [0, 1, -1, -1]], "float64")


def to_bfloat16(array: np.ndarray) -> np.ndarray:
    """Float64 numbers as float32 arithmetic rounds them."""
    return np.asarray(array.astype("float32").astype(ml_dtypes.bfloat16).astype("float64"))


@dataclass(frozen=True)
class Conv:
    """Geometry of a convolution over images.

    Attributes:
        before: what makes the data is an identity convolution, so that they are in blocks of channels.
        sums_only: int8 is ONNX's ConvInteger, whose padding is an operator of its own, with neither of these.
    """

    images: int
    groups: int
    channels: int
    filters: int
    size: tuple[int, int]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]
    bias: bool
    before: bool
    sums_only: bool

    def attributes(self) -> dict[str, Any]:
        """Of ONNX's node."""
        return {
            "group": self.groups,
            "strides": list(self.strides),
            "dilations": list(self.dilations),
            "pads": list(self.pads),
        }

    def sums(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """The convolution of zero-padded data, in the type of its operands."""
        top, left, bottom, right = self.pads
        full = np.pad(x, [(0, 0), (0, 0), (top, bottom), (left, right)])
        (sy, sx), (dy, dx), (kh, kw) = self.strides, self.dilations, self.kernel
        oh, ow = (
            (full.shape[2 + i] - (self.kernel[i] - 1) * self.dilations[i] - 1) // self.strides[i] + 1 for i in (0, 1)
        )
        grouped = full.reshape(self.images, self.groups, -1, *full.shape[2:])
        taps = weight.reshape(self.groups, -1, *weight.shape[1:])
        total = np.zeros((self.images, self.groups, taps.shape[1], oh, ow), x.dtype)
        for r, s in itertools.product(range(kh), range(kw)):
            part = grouped[..., r * dy :: sy, s * dx :: sx][..., :oh, :ow]
            total += np.einsum("goc,ngchw->ngohw", taps[..., r, s], part)
        return total.reshape(self.images, -1, oh, ow)

    def sums_of_rounded_tiles(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """What F(2, 3) makes of tiles and weights that are rounded to bfloat16 after their transformation."""
        top, left, bottom, right = self.pads
        oh, ow = self.size[0] + top + bottom - 2, self.size[1] + left + right - 2
        full = np.pad(x, [(0, 0), (0, 0), (top, bottom + oh % 2), (left, right + ow % 2)])
        tiles = np.lib.stride_tricks.sliding_window_view(full, (4, 4), (2, 3))[:, :, ::2, ::2]
        data = to_bfloat16(_DATA @ tiles @ _DATA.T)
        taps = to_bfloat16(_KERNEL @ weight @ _KERNEL.T)
        back = _BACK @ np.einsum("ocef,nctsef->notsef", taps, data, optimize=True) @ _BACK.T
        whole = back.swapaxes(3, 4).reshape(self.images, self.filters, full.shape[2] - 2, full.shape[3] - 2)
        return np.asarray(whole[..., :oh, :ow])


@dataclass(frozen=True)
class Matmul:
    """(..., M, K) x (K, N) of constant weights, or of two activations with leading axes of their own.

    Attributes:
        transposed: Gemm's transB where there are no leading axes; of two activations, a Transpose before.
        sums_only: int8 is ONNX's MatMulInteger.
    """

    lead: tuple[int, ...]
    other: tuple[int, ...]
    rows: int
    depth: int
    columns: int
    bias: bool
    transposed: bool
    sums_only: bool


@st.composite
def convs(draw: st.DrawFn, template: str) -> Conv:
    """A convolution that the template computes."""
    depthwise, winograd = template == "depthwise", template.startswith("winograd")
    pointwise = template == "pointwise"
    groups = 1 if winograd else draw(st.sampled_from([1, 1, 2, 3, 4, 7]))
    inputs, outputs = (draw(st.integers(1, 70 // groups)) for _ in "io")
    if depthwise:
        groups, inputs, outputs = draw(st.integers(1, 70)), 1, 1
    elif inputs == outputs == 1:
        outputs = 2  # as many filters as groups of one channel are a depthwise convolution
    kernel = (3, 3) if winograd else (1, 1) if pointwise else (draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    fixed = winograd or pointwise
    strides = (1, 1) if fixed else (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    dilations = (1, 1) if winograd else (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    reach = [(k - 1) * d for k, d in zip(kernel, dilations, strict=True)]
    most = [0 if pointwise else max(2, r) for r in reach]
    top, left, bottom, right = (draw(st.integers(0, most[i % 2])) for i in range(4))
    if template == "direct" and kernel == strides == (1, 1) and not (top or left or bottom or right):
        strides = (2, 1)
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 19))
    return Conv(
        draw(st.integers(1, 2)),
        groups,
        groups * inputs,
        groups * outputs,
        (max(height, reach[0] + 1 - top - bottom), max(width, reach[1] + 1 - left - right)),
        kernel,
        strides,
        dilations,
        (top, left, bottom, right),
        draw(st.booleans()),
        draw(st.booleans()),
        draw(st.integers(0, 3)) == 3,
    )


@st.composite
def matmuls(draw: st.DrawFn, template: str) -> Matmul:
    """A matrix product that the template computes."""
    two = template == "batch_matmul"
    lead = tuple(draw(st.lists(st.integers(1, 3), min_size=int(two), max_size=2)))
    other = tuple(size if draw(st.booleans()) else 1 for size in lead) if two else ()
    rows, depth, columns = (draw(st.integers(1, 70)) for _ in "mkn")
    bias, transposed, sums_only = (draw(st.booleans()) for _ in "bts")
    return Matmul(lead, other, rows, depth, columns, bias, transposed, sums_only)


def cases(template: str) -> st.SearchStrategy[Conv | Matmul]:
    """What a template computes; "batch_matmul" is the packed one of two activations."""
    return matmuls(template) if template in ("packed", "batch_matmul") else convs(template)
