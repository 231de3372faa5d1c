"""Pools against ONNX Runtime."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.compiler.bundle import BUNDLED, Bundle
from tests.compiler.test_lower_conv import conv


@st.composite
def pool(draw: st.DrawFn) -> dict[str, Any]:
    """A pool ONNX allows: padding smaller than the kernel."""
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    op = draw(st.sampled_from(["MaxPool", "AveragePool"]))
    dilations = draw(st.sampled_from([(1, 1), (1, 1), (2, 1), (2, 3)]))
    span = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    auto = draw(
        st.sampled_from(["NOTSET"] * 4 + ["VALID"] + (["SAME_UPPER", "SAME_LOWER"] if dilations == (1, 1) else []))
    )
    return {
        "op": op,
        "channels": draw(st.sampled_from([1, 3, 16, 17])),
        "size": (span[0] + draw(st.integers(0, 9)), span[1] + draw(st.integers(0, 12))),
        "kernel_shape": list(kernel),
        "strides": list(draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))),
        "dilations": list(dilations),
        "pads": [draw(st.integers(0, k - 1)) for k in (*kernel, *kernel)] if auto == "NOTSET" else None,
        "auto_pad": auto,
        "ceil_mode": draw(st.integers(0, 1)) if auto == "NOTSET" else 0,
        "count_include_pad": draw(st.integers(0, 1)) if op == "AveragePool" else None,
    }


@BUNDLED
@given(st.lists(pool(), min_size=8, max_size=8))
def test_any_window(cases: list[dict[str, Any]]) -> None:
    b = Bundle()
    for case in cases:
        label = str(case)
        x = b.input(2, case.pop("channels"), *case.pop("size"))
        b.case(b.op(case.pop("op"), x, **case), label)
    b.check()


def test_pools_between_convolutions() -> None:
    """Blocked values keep their layout through pools, padded lanes included."""
    b = Bundle()
    x = b.input(2, 3, 17, 19, free="n")
    stem = conv(b, x, 3, 21, (3, 3))
    top = b.op("MaxPool", stem, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    mean = b.op("AveragePool", stem, kernel_shape=[3, 2], strides=[2, 2], ceil_mode=1, pads=[1, 0, 1, 0])
    b.case(conv(b, top, 21, 5, (1, 1)), "maximum")
    b.case(conv(b, mean, 21, 5, (1, 1)), "mean")
    b.case(b.op("GlobalAveragePool", stem), "global mean")
    b.case(b.op("GlobalMaxPool", stem), "global maximum")
    b.case(b.op("ReduceMean", stem, b.const([2, 3]), keepdims=0), "mean over height and width")
    b.case(b.op("ReduceMean", stem, b.const([-1, -2])), "mean that keeps its axes")
    b.case(b.op("ReduceMean", stem, b.const([1])), "mean over channels")
    flat = b.op("Flatten", b.op("GlobalAveragePool", b.op("Relu", stem)))
    b.case(b.op("Gemm", flat, b.const(b.normal(21, 10))), "classifier")
    b.check()


def test_pools_without_a_template() -> None:
    """One and three dimensions, and indices, are TVM's."""
    b = Bundle()
    b.case(b.op("MaxPool", b.input(2, 5, 17), kernel_shape=[3], strides=[2], pads=[1, 1]), "1-D maximum")
    b.case(b.op("AveragePool", b.input(2, 5, 17), kernel_shape=[3], strides=[2]), "1-D mean")
    b.case(b.op("MaxPool", b.input(1, 3, 5, 6, 7), kernel_shape=[2, 2, 2]), "3-D maximum")
    b.case(b.op("GlobalAveragePool", b.input(2, 5, 17)), "1-D global mean")
    b.check()
