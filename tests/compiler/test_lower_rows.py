"""Softmax and layer normalization against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.compiler.bundle import BUNDLED, Bundle


@BUNDLED
@given(
    st.lists(st.lists(st.sampled_from([1, 2, 3, 5, 16, 17, 33, 111]), min_size=1, max_size=3), min_size=6, max_size=6)
)
def test_rows_of_any_length(shapes: list[list[int]]) -> None:
    b = Bundle()
    for shape in shapes:
        x = b.input(*shape)
        b.case(b.op("Softmax", x), f"softmax {shape}")
        scale, shift = (b.const(b.normal(shape[-1])) for _ in "ab")
        b.case(b.op("LayerNormalization", x, scale, shift, epsilon=1e-3), f"layer norm {shape}")
    # of one element, mean minus itself is 0, and 0 * scale + shift is exact
    b.check()


@pytest.mark.parametrize("target", ["cpu", "x86-64-v3"])
def test_axes_and_extremes(target: str) -> None:
    b = Bundle()
    x = b.input(2, 5, 6)
    for axis in (0, 1, 2, -1, -2):
        b.case(b.op("Softmax", x, axis=axis), f"softmax over axis {axis}")
    b.case(b.op("LogSoftmax", x), "log softmax")
    large = b.input(3, 9, values=np.linspace(-300, 300, 27).reshape(3, 9))
    b.case(b.op("Softmax", large), "softmax of large numbers")
    masked = np.full((2, 17), -np.inf)
    masked[:, :5] = 1.0
    b.case(b.op("Softmax", b.input(2, 17, values=masked)), "softmax of a masked row")
    finite = np.where(np.arange(80).reshape(2, 40) % 3, np.linspace(-3, 3, 80).reshape(2, 40), -1e4)
    b.case(b.op("Softmax", b.input(2, 40, values=finite)), "softmax of a row masked by a large number")
    b.case(b.op("LayerNormalization", x, b.const(b.normal(6))), "layer norm without shift")
    b.case(b.op("LayerNormalization", x, b.const(b.normal(5, 6)), axis=1), "layer norm over two axes")
    free = b.input(3, 4, 20, free="n")
    b.case(b.op("Softmax", free), "symbolic rows")
    b.check(target)


def test_old_softmax_is_over_flattened_axes() -> None:
    b = Bundle(opset=11)
    b.case(b.op("Softmax", b.input(2, 3, 4), axis=1), "axes 1 and 2 together")
    b.case(b.op("Softmax", b.input(2, 3), axis=1), "matrix")
    b.check()
