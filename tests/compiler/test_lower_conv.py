"""Convolutions against ONNX Runtime: every geometry, every way channels fail to fill blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.compiler.bundle import BUNDLED, Bundle


def conv(
    b: Bundle,
    x: str,
    channels: int,
    out: int,
    kernel: tuple[int, ...],
    group: int = 1,
    bias: bool = True,
    **attributes: Any,
) -> str:
    """A convolution with seeded weights."""
    fan = channels // group
    for k in kernel:
        fan *= k
    weight = b.normal(out, channels // group, *kernel, scale=fan**-0.5)
    extra = [b.const(b.normal(out))] if bias else []
    return str(b.op("Conv", x, b.const(weight), *extra, group=group, **attributes))


def grid(b: Bundle) -> None:
    """The cases a hand would pick, one reason each."""
    square = [
        # label, channels, out, size, kernel, group, attributes
        ("stem of three channels", 3, 24, (15, 13), (3, 3), 1, {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ("SqueezeNet's stem width", 3, 64, (9, 223), (3, 3), 1, {"strides": [2, 2]}),
        ("prime width", 16, 32, (3, 113), (3, 3), 1, {"pads": [1, 1, 1, 1]}),
        ("prime width, one by one", 17, 33, (3, 37), (1, 1), 1, {}),
        ("one by one of one pixel", 40, 24, (1, 1), (1, 1), 1, {}),
        ("one by one with stride", 24, 48, (8, 9), (1, 1), 1, {"strides": [2, 2]}),
        ("one by one with padding", 5, 6, (4, 5), (1, 1), 1, {"pads": [1, 0, 0, 2]}),
        ("one channel", 1, 1, (9, 9), (5, 5), 1, {"pads": [2, 2, 2, 2]}),
        ("asymmetric padding", 5, 17, (10, 11), (3, 4), 1, {"pads": [0, 2, 1, 0]}),
        ("SAME_UPPER", 8, 16, (10, 11), (4, 3), 1, {"auto_pad": "SAME_UPPER", "strides": [2, 3]}),
        ("SAME_LOWER", 8, 16, (10, 11), (4, 3), 1, {"auto_pad": "SAME_LOWER", "strides": [2, 3]}),
        ("VALID", 8, 16, (10, 11), (4, 3), 1, {"auto_pad": "VALID"}),
        ("dilation", 16, 16, (20, 17), (3, 3), 1, {"dilations": [2, 3], "pads": [2, 3, 2, 3]}),
        ("seven by seven", 3, 16, (21, 19), (7, 7), 1, {"strides": [2, 2], "pads": [3, 3, 3, 3]}),
        ("tall kernel", 16, 16, (12, 7), (7, 1), 1, {"pads": [3, 0, 3, 0]}),
        ("kernel as large as the image", 24, 10, (6, 6), (6, 6), 1, {}),
        ("ShuffleNet, 80 channels a group", 240, 240, (5, 5), (1, 1), 3, {}),
        ("ShuffleNet, 20 channels a group", 60, 240, (4, 5), (1, 1), 3, {}),
        ("ResNeXt 32x4", 128, 128, (7, 7), (3, 3), 32, {"pads": [1, 1, 1, 1]}),
        ("groups that straddle blocks", 30, 42, (6, 5), (3, 3), 6, {"pads": [1, 1, 1, 1]}),
        ("groups of odd sizes", 15, 9, (6, 5), (3, 3), 3, {}),
        ("AlexNet's groups", 96, 256, (5, 5), (5, 5), 2, {"pads": [2, 2, 2, 2]}),
        ("depthwise", 32, 32, (14, 14), (3, 3), 32, {"pads": [1, 1, 1, 1]}),
        ("depthwise, odd channels", 17, 17, (13, 11), (3, 3), 17, {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
        ("depthwise, five by five", 24, 24, (7, 37), (5, 5), 24, {"pads": [2, 2, 2, 2]}),
        ("depthwise, dilated", 16, 16, (9, 9), (3, 3), 16, {"dilations": [2, 2], "pads": [2, 2, 2, 2]}),
        ("depthwise multiplier two", 12, 24, (8, 8), (3, 3), 12, {"pads": [1, 1, 1, 1]}),
        ("one channel a group, one out", 1, 3, (8, 8), (3, 3), 1, {}),
    ]
    for label, channels, out, size, kernel, group, attributes in square:
        x = b.input(2, channels, *size)
        b.case(conv(b, x, channels, out, kernel, group, **attributes), label)
    line = [
        ("1-D", 6, 12, 33, (3,), 1, {"pads": [1, 1]}),
        ("1-D, stride and dilation", 4, 8, 40, (5,), 1, {"strides": [2], "dilations": [3]}),
        ("1-D depthwise", 20, 20, 31, (7,), 20, {"auto_pad": "SAME_UPPER"}),
    ]
    for label, channels, out, length, kernel1, group, attributes in line:
        x = b.input(2, channels, length)
        b.case(conv(b, x, channels, out, kernel1, group, **attributes), label)
    volume = [
        ("3-D", 3, 4, (5, 6, 7), (2, 3, 2), 1, {}),
        ("3-D of odd channels", 19, 5, (4, 5, 3), (3, 3, 3), 1, {"pads": [1, 1, 1, 1, 1, 1]}),
        ("3-D, stride and dilation", 3, 18, (7, 9, 8), (3, 2, 3), 1, {"strides": [2, 1, 2], "dilations": [2, 3, 1]}),
        ("3-D one by one", 16, 17, (3, 4, 5), (1, 1, 1), 1, {}),
        ("3-D, SAME", 4, 6, (5, 6, 7), (3, 4, 2), 1, {"auto_pad": "SAME_UPPER", "strides": [2, 2, 2]}),
        ("3-D groups", 6, 9, (4, 5, 6), (3, 3, 3), 3, {"pads": [0, 1, 1, 1, 1, 0]}),
    ]
    for label, channels, out, space, kernel3, group, attributes in volume:
        b.case(conv(b, b.input(2, channels, *space), channels, out, kernel3, group, **attributes), label)


def test_volumes_stay_blocked() -> None:
    b = Bundle()
    x = b.input(2, 2, 6, 7, 5, free="n")
    stem = b.op("Relu", conv(b, x, 2, 21, (3, 3, 3), pads=[1] * 6))
    deep = conv(b, stem, 21, 21, (3, 3, 3), pads=[1] * 6)
    b.case(conv(b, b.op("Add", stem, deep), 21, 3, (1, 1, 1)), "residual volume")
    b.check()


def test_weights_of_the_run() -> None:
    """A tracker correlates one image's features with another's; biases and filters may be computed too."""
    b = Bundle()
    cases: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
        ((2, 6, 9, 8), (4, 6, 3, 2), {"pads": [1, 0, 1, 1]}),
        ((2, 6, 9), (4, 3, 3), {"group": 2, "strides": [2]}),
        ((1, 4, 5, 6, 7), (3, 4, 2, 3, 2), {"dilations": [1, 2, 1]}),
        ((1, 4, 9, 8), (4, 1, 3, 3), {"group": 4, "auto_pad": "SAME_LOWER", "strides": [2, 3]}),
    ]
    for shape, kernel, attributes in cases:
        x, w = b.input(*shape), b.input(*kernel)
        b.case(b.op("Conv", x, w, b.input(kernel[0]), **attributes), f"{shape} {kernel} {attributes}")
    x, w = b.input(2, 6, 9, 8), b.const(b.normal(4, 6, 3, 3))
    b.case(b.op("Conv", x, w, b.input(4)), "bias of the run")
    b.check()


@pytest.mark.parametrize("target", ["cpu", "x86-64-v3"])
def test_picked_geometries(target: str) -> None:
    b = Bundle()
    grid(b)
    b.check(target)


@st.composite
def geometry(draw: st.DrawFn) -> dict[str, Any]:
    """A convolution ONNX allows, over awkward sizes."""
    group = draw(st.sampled_from([1, 1, 1, 2, 3, 5]))
    channels = group * draw(st.sampled_from([1, 3, 5, 8, 17, 24]))
    kernel = draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    dilations = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    span = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = draw(st.tuples(*[st.integers(0, k) for k in (*kernel, *kernel)]))
    height = draw(st.integers(span[0], span[0] + 12))
    width = draw(st.one_of(st.integers(span[1], span[1] + 20), st.sampled_from([37, 53, 111])))
    width = max(width, span[1])
    # ONNX Runtime's SAME wants no dilation (it refuses others)
    auto = draw(
        st.sampled_from(["NOTSET"] * 3 + ["VALID"] + (["SAME_UPPER", "SAME_LOWER"] if dilations == (1, 1) else []))
    )
    return {
        "channels": channels,
        "out": channels if draw(st.booleans()) else group * draw(st.sampled_from([1, 2, 7, 16, 24])),
        "size": (height, width),
        "kernel": kernel,
        "group": group,
        "bias": draw(st.booleans()),
        "strides": list(draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))),
        "dilations": list(dilations),
        "auto_pad": auto,
        "pads": list(pads) if auto == "NOTSET" else None,
    }


@BUNDLED
@given(st.lists(geometry(), min_size=6, max_size=6))
def test_any_geometry(cases: list[dict[str, Any]]) -> None:
    b = Bundle()
    for case in cases:
        label = str(case)
        size = case.pop("size")
        x = b.input(1, case["channels"], *size)
        b.case(conv(b, x, **case), label)
    b.check()


@pytest.mark.parametrize("target", ["cpu", "x86-64-v3"])
def test_chains_stay_right_in_blocks(target: str) -> None:
    """Odd channel counts leave padded lanes between layers; they must never reach a result."""
    b = Bundle()
    x = b.input(3, 5, 11, 13, free="batch")
    stem = b.op("Relu", conv(b, x, 5, 17, (3, 3), pads=[1, 1, 1, 1]))
    depth = b.op("Clip", conv(b, stem, 17, 17, (3, 3), 17, pads=[1, 1, 1, 1]), b.const(np.float32(0)), "")
    wide = conv(b, depth, 17, 23, (1, 1))
    same = conv(b, b.op("Add", stem, depth), 17, 23, (3, 3), pads=[1, 1, 1, 1])
    b.case(b.op("Add", wide, same), "residual")
    b.case(conv(b, b.op("Relu", b.op("Add", wide, same)), 23, 10, (3, 3), strides=[2, 2]), "after the residual")
    built = b.check(target)
    assert built.inputs[0].shape == ("batch", 5, 11, 13)
