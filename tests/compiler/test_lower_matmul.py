"""Matrix products against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.compiler.bundle import BUNDLED, Bundle

SIZE = st.sampled_from([1, 2, 3, 5, 7, 13, 16, 17, 31, 33, 48, 65])


@pytest.mark.parametrize("target", ["cpu", "x86-64-v3"])
def test_gemm(target: str) -> None:
    b = Bundle()
    for m, k, n, attributes, bias in [
        (1, 8, 10, {}, (10,)),
        (3, 17, 5, {"transB": 1}, (5,)),
        (7, 33, 48, {"alpha": 0.5, "beta": 2.0}, (1, 48)),
        (5, 16, 64, {"transB": 1, "beta": 0.0}, (64,)),
        (5, 16, 30, {"transA": 1}, (30,)),
        (4, 9, 16, {"alpha": -1.5}, None),
        (4, 9, 12, {}, (4, 1)),
        (4, 9, 32, {}, (4, 32)),
        (4, 9, 32, {}, ()),
    ]:
        x = b.input(*((k, m) if attributes.get("transA") else (m, k)))
        w = b.const(b.normal(*((n, k) if attributes.get("transB") else (k, n))))
        extra = [] if bias is None else [b.const(b.normal(*bias))]
        b.case(b.op("Gemm", x, w, *extra, **attributes), f"{m}x{k}x{n} {attributes} bias {bias}")
    b.case(b.op("Gemm", b.input(3, 5), b.input(5, 7), b.input(7)), "all operands computed")
    b.check(target)


@BUNDLED
@given(st.lists(st.tuples(st.lists(SIZE, min_size=0, max_size=2), SIZE, SIZE, SIZE), min_size=6, max_size=6))
def test_constant_weights(cases: list[tuple[list[int], int, int, int]]) -> None:
    b = Bundle()
    for lead, m, k, n in cases:
        x = b.input(*[min(d, 5) for d in lead], m, k)
        b.case(b.op("MatMul", x, b.const(b.normal(k, n))), f"{lead} {m}x{k}x{n}")
    b.check()


@BUNDLED
@given(st.lists(st.tuples(SIZE, SIZE, SIZE, st.integers(0, 3)), min_size=6, max_size=6))
def test_two_activations(cases: list[tuple[int, int, int, int]]) -> None:
    leads = [((2, 3), (2, 3)), ((1, 3), (2, 1)), ((4,), (4,)), ((), ())]
    b = Bundle()
    for m, k, n, which in cases:
        left, right = leads[which]
        x, y = b.input(*left, m, k), b.input(*right, k, n)
        b.case(b.op("MatMul", x, y), f"{left}x{right} {m}x{k}x{n}")
    b.check()


def test_shapes_without_a_template() -> None:
    """Vectors, unequal ranks and batched constants."""
    b = Bundle()
    b.case(b.op("MatMul", b.input(5), b.input(5, 3)), "vector by matrix")
    b.case(b.op("MatMul", b.input(4, 5), b.input(5)), "matrix by vector")
    b.case(b.op("MatMul", b.input(5), b.const(b.normal(5, 17))), "vector by constant")
    b.case(b.op("MatMul", b.input(2, 4, 5), b.input(5, 3)), "ranks 3 and 2, computed")
    b.case(b.op("MatMul", b.input(2, 4, 5), b.const(b.normal(2, 5, 18))), "batched constant")
    b.case(b.op("MatMul", b.const(b.normal(4, 5)), b.input(2, 5, 18)), "constant on the left")
    b.check()


def test_transposed_keys_are_packed_where_they_lie() -> None:
    """No pass that moves single elements; with a scale between, with odd sizes, and with other permutations."""
    b = Bundle()
    q, k = b.input(1, 2, 9, 33), b.input(1, 21, 2, 33)
    b.case(b.op("MatMul", q, b.op("Transpose", k, perm=[0, 2, 3, 1])), "heads and keys at once")
    scaled = b.op("Mul", b.op("Transpose", k, perm=[0, 2, 3, 1]), b.const(np.float32(0.125)))
    b.case(b.op("MatMul", q, scaled), "scaled after")
    rows = b.input(3, 17, 8)
    b.case(b.op("MatMul", b.input(3, 5, 8), b.op("Transpose", rows, perm=[0, 2, 1])), "keys alone")
    built = b.check()
    kernels = [kernel.name for kernel in built.kernels]
    assert sum("transpose" in name for name in kernels) <= 1, kernels  # of the heads, whose rows stay whole
    other = Bundle()
    x = other.input(4, 7, 6)
    other.case(other.op("MatMul", other.input(6, 3, 4), other.op("Transpose", x, perm=[2, 0, 1])), "columns apart")
    other.case(other.op("MatMul", other.input(7, 3, 4), other.op("Transpose", x, perm=[1, 0, 2])), "as they are")
    other.check()


@pytest.mark.parametrize("batch", [1, 3, 17])
def test_symbolic_batch(batch: int) -> None:
    b = Bundle()
    x = b.input(batch, 33, free="batch")
    hidden = b.op("Relu", b.op("Gemm", x, b.const(b.normal(33, 64)), b.const(b.normal(64))))
    b.case(b.op("Gemm", hidden, b.const(b.normal(10, 64)), transB=1), "two layers")
    t = b.input(batch, 7, 24, free="batch")
    q = b.op("MatMul", t, b.const(b.normal(24, 24)))
    k = b.op("Transpose", b.op("MatMul", t, b.const(b.normal(24, 24))), perm=[0, 2, 1])
    scores = b.op("Softmax", b.op("MatMul", q, k))
    b.case(b.op("MatMul", scores, b.op("MatMul", t, b.const(b.normal(24, 13)))), "attention")
    b.check()
