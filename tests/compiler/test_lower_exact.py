"""Kernels of the exact functions against their ONNX bodies in ONNX Runtime, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optkit.exact import DOMAIN
from optkit.exact.formulas import UNARY
from tests.compiler.bundle import BUNDLED, Bundle

TARGETS = ("cpu", "x86-64-v3")


@BUNDLED
@given(
    st.lists(st.lists(st.sampled_from([1, 2, 3, 5, 16, 17, 33, 197]), min_size=1, max_size=3), min_size=5, max_size=5),
    st.sampled_from(TARGETS),
)
def test_rows_of_any_length(shapes: list[list[int]], target: str) -> None:
    b = Bundle()
    for shape in shapes:
        x = b.input(*shape, values=b.normal(*shape, scale=4.0))
        b.case(b.op("Softmax", x, domain=DOMAIN), f"softmax {shape}")
        scale, shift = (b.const(b.normal(shape[-1])) for _ in "ab")
        b.case(b.op("LayerNormalization", x, scale, shift, domain=DOMAIN, epsilon=1e-6), f"layer norm {shape}")
    b.check_bits(target)


@pytest.mark.parametrize("target", TARGETS)
def test_long_and_masked_rows(target: str) -> None:
    b = Bundle()
    b.case(b.op("Softmax", b.input(3, 9000), domain=DOMAIN), "sums past int32")
    masked = np.full((2, 17), -np.inf)
    masked[:, :5] = 1.0
    b.case(b.op("Softmax", b.input(2, 17, values=masked), domain=DOMAIN), "masked")
    far = b.normal(4, 768)
    far[:, 7] *= 1e4
    x, scale, shift = b.input(4, 768, values=far), b.const(b.normal(768)), b.const(b.normal(768))
    b.case(b.op("LayerNormalization", x, scale, shift, domain=DOMAIN, epsilon=1e-6), "an outlier")
    free = b.input(3, 4, 20, free="n")
    b.case(b.op("Softmax", free, domain=DOMAIN), "symbolic rows")
    b.check_bits(target)


@pytest.mark.parametrize("target", TARGETS)
def test_scalar_functions(target: str) -> None:
    b = Bundle()
    x = b.input(2, 5, 7, 11, values=b.normal(2, 5, 7, 11, scale=10.0))
    blocked = b.op("Conv", x, b.const(np.eye(5, dtype=np.float32).reshape(5, 5, 1, 1)))
    for name in UNARY:
        b.case(b.op(name, x, domain=DOMAIN), name)
        b.case(b.op(name, blocked, domain=DOMAIN), f"{name} of a blocked tensor")
    b.check_bits(target)


@pytest.mark.parametrize("target", TARGETS)
def test_local_response_normalization(target: str) -> None:
    b = Bundle()
    for size, beta in ((5, "075"), (4, "050"), (1, "100"), (9, "075")):
        for shape in ((2, 7, 5, 3), (1, 16, 13, 13)):
            x = b.input(*shape, values=b.normal(*shape, scale=30.0))
            found = b.op(f"LRN_{size}_{beta}", x, domain=DOMAIN, alpha=0.03, bias=1.25)
            b.case(found, f"size {size}, beta {beta}, {shape}")
    b.check_bits(target)


@pytest.mark.parametrize("target", TARGETS)
def test_float_arithmetic_of_a_quantized_model_is_not_contracted(target: str) -> None:
    b = Bundle()
    one, zero = b.const(np.asarray(1.0, np.float32)), b.const(np.asarray(0, np.int8))
    b.op("QuantizeLinear", b.input(4), one, zero)
    x, y = b.input(3, 6, 9), b.input(3, 6, 9)
    column, number = b.const(b.normal(6, 1)), b.const(np.asarray(0.7, np.float32))
    b.case(b.op("Add", b.op("Mul", x, y), y), "a product of tensors and a sum")
    b.case(b.op("Add", b.op("Mul", x, column), y), "a product with a column and a sum")
    b.case(b.op("Sub", b.op("Mul", number, x), y), "a product with a number and a difference")
    b.case(b.op("Div", x, number), "a quotient by a constant")
    b.check_bits(target)
