"""Pools against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
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
    b.case(b.op("ReduceMax", stem, b.const([-1, 2]), keepdims=0), "maximum over height and width")
    b.case(b.op("ReduceMax", b.op("Log", b.op("Relu", stem)), b.const([2, 3])), "maximum of numbers and -inf")
    nothing = b.op("Log", b.op("Mul", stem, b.const(np.float32(0))))
    b.case(b.op("ReduceMax", nothing, b.const([2, 3])), "maximum of -inf alone")
    b.case(b.op("ReduceMean", stem, b.const([-1, -2])), "mean that keeps its axes")
    b.case(b.op("ReduceMean", stem, b.const([1])), "mean over channels")
    flat = b.op("Flatten", b.op("GlobalAveragePool", b.op("Relu", stem)))
    b.case(b.op("Gemm", flat, b.const(b.normal(21, 10))), "classifier")
    b.check()


@st.composite
def general(draw: st.DrawFn) -> dict[str, Any]:
    """A pool over one to three dimensions, with every attribute."""
    rank = draw(st.integers(1, 3))

    def each(*values: int) -> list[int]:
        return [draw(st.sampled_from(values)) for _ in range(rank)]

    op = draw(st.sampled_from(["MaxPool", "MaxPool", "AveragePool", "LpPool"]))
    kernel, dilations = each(1, 2, 3), each(1, 1, 2)
    span = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    case: dict[str, Any] = {
        "op": op,
        "size": [s + e for s, e in zip(span, each(0, 1, 4, 5), strict=True)],
        "kernel_shape": kernel,
        "strides": each(1, 2, 3),
        "dilations": dilations,
        "pads": [draw(st.integers(0, k - 1)) for k in (*kernel, *kernel)],
        "ceil_mode": draw(st.integers(0, 1)),
    }
    if op == "MaxPool":
        case["storage_order"] = draw(st.integers(0, 1))
    elif op == "AveragePool":
        case["count_include_pad"] = draw(st.integers(0, 1))
    else:
        case["p"], case["ceil_mode"] = draw(st.sampled_from([1, 2, 3])), 0
    return case


@BUNDLED
@given(st.lists(general(), min_size=8, max_size=8))
def test_any_window_in_any_dimensions(cases: list[dict[str, Any]]) -> None:
    b = Bundle()
    for case in cases:
        label, op = str(case), case.pop("op")
        x = b.input(2, 3, *case.pop("size"))
        if op == "MaxPool":
            values, indices = b.op(op, x, outputs=2, **case)
            b.case(indices, f"indices {label}")
        else:
            values = b.op(op, x, **case)
        b.case(values, label)
    b.check()


def test_pools_of_open_extents_and_bytes() -> None:
    b = Bundle()
    line = b.op("Transpose", b.input(17, 2, 5, free="length"), perm=[1, 2, 0])
    for op in ("MaxPool", "AveragePool"):
        b.case(b.op(op, line, kernel_shape=[3], strides=[2], pads=[1, 1]), f"{op} of an open length")
        b.case(b.op(op, line, kernel_shape=[4], auto_pad="SAME_LOWER", strides=[2]), f"{op} of an open length, SAME")
    for op in ("GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool"):
        b.case(b.op(op, line), f"{op} of an open length")
    for dtype in ("uint8", "int8"):
        values = b.generator.integers(-100, 100, (1, 3, 6, 7)) + (100 if dtype == "uint8" else 0)
        x = b.input(1, 3, 6, 7, dtype=dtype, values=values)
        b.case(b.op("MaxPool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1]), dtype)
        b.case(b.op("MaxPool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1], outputs=2)[1], f"{dtype}, indices")
    b.check()
