"""Transposed convolutions against ONNX Runtime: by phases on the blocked kernels, and in the general form."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.compiler.bundle import BUNDLED, Bundle
from tests.compiler.test_lower_conv import conv


def transpose(
    b: Bundle, x: str, channels: int, out: int, kernel: list[int], live: bool = False, bias: bool = True, **given: Any
) -> str:
    """The node with seeded weights, constants or inputs."""
    group = given.get("group", 1)
    weight = b.normal(channels, out // group, *kernel, scale=0.3)
    extra = [b.input(*weight.shape, values=weight) if live else b.const(weight)]
    if bias:
        extra.append(b.const(b.normal(out)))
    return str(b.op("ConvTranspose", x, *extra, **given))


@st.composite
def transposed(draw: st.DrawFn) -> dict[str, Any]:
    """A transposed convolution ONNX Runtime runs."""
    rank = draw(st.sampled_from([2, 2, 2, 1, 3]))

    def each(*values: Any) -> list[Any]:
        return [draw(st.sampled_from(values)) for _ in range(rank)]

    group = draw(st.sampled_from([1, 1, 1, 2]))
    strides = each(1, 2, 3)
    dilations = each(1, 1, 2) if draw(st.booleans()) else [1] * rank
    kernel = each(1, 2, 3, 4, 5)
    style = draw(st.sampled_from(["pads", "pads", "output_shape", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    span = [(k - 1) * d for k, d in zip(kernel, dilations, strict=True)]
    case: dict[str, Any] = {
        "channels": group * draw(st.sampled_from([1, 3, 17])),
        "out": group * draw(st.sampled_from([1, 5, 16, 20])),
        "size": each(2, 3, 5, 7),
        "kernel": kernel,
        "group": group,
        "strides": strides,
        "dilations": dilations,
        "bias": draw(st.booleans()),
        "live": draw(st.sampled_from([False, False, True])),
    }
    if style == "pads":
        case["pads"] = [draw(st.integers(0, s // 2)) for s in (*span, *span)]
        case["output_padding"] = [draw(st.integers(0, s - 1)) for s in strides]
    elif style == "output_shape":
        # no larger than the full result: what lies behind it is not defined
        case["output_shape"] = [
            (n - 1) * s + e + 1 - draw(st.integers(0, e)) for n, s, e in zip(case["size"], strides, span, strict=True)
        ]
    else:
        case["auto_pad"] = style
    return case


def fits(case: dict[str, Any]) -> bool:
    """SAME of a stride over the kernel's reach would need padding below zero, which runtimes treat differently."""
    same = str(case.get("auto_pad", "")).startswith("SAME")
    reach = [(k - 1) * d + 1 for k, d in zip(case["kernel"], case["dilations"], strict=True)]
    return not same or all(r >= s for r, s in zip(reach, case["strides"], strict=True))


@BUNDLED
@given(st.lists(transposed().filter(fits), min_size=8, max_size=8))
def test_any_transposed_convolution(cases: list[dict[str, Any]]) -> None:
    b = Bundle()
    for case in cases:
        label = str(case)
        x = b.input(2, case["channels"], *case.pop("size"))
        b.case(transpose(b, x, **case), label)
    b.check()


def test_an_upsampling_network_stays_blocked() -> None:
    """U-Net's and DCGAN's transposed convolutions between others, over an open batch."""
    b = Bundle()
    stem = conv(b, b.input(3, 3, 9, 8, free="n"), 3, 21, (3, 3), pads=[1, 1, 1, 1])
    double = transpose(b, stem, 21, 18, [2, 2], strides=[2, 2])
    smooth = transpose(b, b.op("Relu", double), 18, 7, [4, 4], strides=[2, 2], pads=[1, 1, 1, 1])
    same = transpose(b, smooth, 7, 5, [3, 3], pads=[1, 1, 1, 1])
    b.case(conv(b, same, 5, 4, (1, 1)), "network")
    built = b.check()
    assert all(record.reason in ("", "its input is not quantized") for record in built.nodes)


def test_open_height_and_width() -> None:
    b = Bundle()
    x = b.input(2, 4, 5, 6, free="n")
    b.case(transpose(b, x, 4, 6, [3, 3], strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]), "batch")
    weights = b.const(b.normal(4, 3, 3, scale=0.3))
    line = b.op("Transpose", b.input(9, 2, 4, free="length"), perm=[1, 2, 0])
    b.case(b.op("ConvTranspose", line, weights, strides=[2], pads=[1, 1]), "length")
    b.case(b.op("Relu", b.op("ConvTranspose", line, weights, dilations=[2])), "dilated length")
    b.check()


def test_bilinear_upsampling_by_groups() -> None:
    """FCN's up-sampling: one fixed filter a channel."""
    b = Bundle()
    line = np.float32([0.25, 0.75, 0.75, 0.25])
    weight = np.broadcast_to(np.outer(line, line), (5, 1, 4, 4)).astype("float32")
    x = b.input(1, 5, 4, 5)
    b.case(b.op("ConvTranspose", x, b.const(weight), group=5, strides=[2, 2], pads=[1, 1, 1, 1]), "bilinear")
    b.check()
