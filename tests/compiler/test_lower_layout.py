"""Moves of blocked values against ONNX Runtime: concatenation, slices, reshapes, resizes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.compiler.bundle import BUNDLED, Bundle
from tests.compiler.test_lower_conv import conv

PART = st.tuples(st.sampled_from([1, 3, 5, 15, 16, 17, 32]), st.sampled_from(["conv", "plain", "const"]))


@BUNDLED
@given(st.lists(st.lists(PART, min_size=2, max_size=4), min_size=4, max_size=4))
def test_concatenation(cases: list[list[tuple[int, str]]]) -> None:
    """Of any channels from any layout, read plain and by a convolution."""
    b = Bundle()
    x = b.input(2, 3, 5, 7)
    for case in cases:
        parts = []
        for channels, kind in case:
            if kind == "conv":
                parts.append(conv(b, x, 3, channels, (1, 1)))
            elif kind == "plain":
                parts.append(b.input(2, channels, 5, 7))
            else:
                parts.append(b.const(b.normal(2, channels, 5, 7)))
        joined = b.op("Concat", *parts, axis=1)
        b.case(joined, f"{case}")
        b.case(conv(b, joined, sum(c for c, _ in case), 4, (3, 3)), f"{case} before a convolution")
    b.check()


def test_moves_of_blocked_values() -> None:
    b = Bundle()
    x = b.input(2, 3, 8, 6, free="n")
    stem = conv(b, x, 3, 20, (3, 3), pads=[1, 1, 1, 1])

    def numbers(*values: int) -> str:
        return b.const(np.array(values, "int64"))

    moves = {
        "transpose to NHWC": b.op("Transpose", stem, perm=[0, 2, 3, 1]),
        "transpose of the image": b.op("Transpose", stem, perm=[0, 1, 3, 2]),
        "reshape": b.op("Reshape", stem, numbers(0, 4, 5, 48)),
        "flatten": b.op("Flatten", stem),
        "slice of channels": b.op("Slice", stem, numbers(3), numbers(19), numbers(1), numbers(2)),
        "slice of rows": b.op("Slice", stem, numbers(1), numbers(-1), numbers(2)),
        "concatenation of rows": b.op("Concat", stem, stem, axis=2),
        "squeeze": b.op("Squeeze", b.op("GlobalAveragePool", stem), numbers(2, 3)),
        "unsqueeze": b.op("Unsqueeze", stem, numbers(1)),
        "depth to space": b.op("DepthToSpace", stem, blocksize=2),
        "space to depth": b.op("SpaceToDepth", stem, blocksize=2),
        "pad": b.op("Pad", stem, numbers(0, 0, 1, 2, 0, 0, 0, 1), b.const(np.float32(0.5))),
        "reflecting pad": b.op("Pad", stem, numbers(0, 0, 1, 2, 0, 0, 0, 1), mode="reflect"),
        "gather of channels": b.op("Gather", stem, numbers(1, 0, 19, 5), axis=1),
        "tile": b.op("Tile", stem, numbers(1, 1, 2, 1)),
        "maximum over channels": b.op("ReduceMax", stem, numbers(1)),
        "argmax over channels": b.op("ArgMax", stem, axis=1),
    }
    for label, value in moves.items():
        b.case(value, label)
    for i, part in enumerate(b.op("Split", stem, numbers(7, 13), outputs=2, axis=1)):
        b.case(part, f"split {i}")
        b.case(conv(b, part, (7, 13)[i], 3, (3, 3)), f"split {i} before a convolution")
    shuffled = b.op("Reshape", stem, numbers(0, 4, 5, 8, 6))
    shuffled = b.op("Reshape", b.op("Transpose", shuffled, perm=[0, 2, 1, 3, 4]), numbers(0, 20, 8, 6))
    b.case(conv(b, shuffled, 20, 20, (3, 3), 5), "channel shuffle")
    b.check()


SIZES = st.lists(st.sampled_from([4, 8, 16, 32]), min_size=1, max_size=4)


@BUNDLED
@given(st.lists(SIZES, min_size=2, max_size=4), st.booleans())
def test_parts_of_channels(cases: list[list[int]], halves: bool) -> None:
    """Of whole blocks and of less, read plain and by a convolution; in equal parts, too."""
    b = Bundle()
    x = b.input(2, 3, 5, 7)
    for sizes in cases:
        stem = conv(b, x, 3, sum(sizes), (1, 1))
        parts = b.op("Split", stem, b.const(np.array(sizes, "int64")), outputs=len(sizes), axis=1)
        for i, (part, size) in enumerate(zip([parts] if len(sizes) == 1 else parts, sizes, strict=True)):
            b.case(part, f"{sizes} {i}")
            b.case(conv(b, part, size, 3, (3, 3)), f"{sizes} {i} before a convolution")
        if halves:
            first, second = b.op("Split", stem, outputs=2, axis=1, num_outputs=2)
            b.case(b.op("Add", first, second), f"{sizes} in halves")
    b.check()


def test_resize() -> None:
    b = Bundle()
    stem = conv(b, b.input(1, 3, 6, 5), 3, 20, (1, 1))
    scales = b.const(np.array([1, 1, 2, 3], "float32"))
    sizes = b.const(np.array([1, 20, 9, 8], "int64"))
    for mode in ("nearest", "linear"):
        for where in ("asymmetric", "half_pixel", "align_corners"):
            near = {"nearest_mode": "floor"} if mode == "nearest" else {}
            given = {"mode": mode, "coordinate_transformation_mode": where, **near}
            b.case(b.op("Resize", stem, "", scales, **given), f"{mode} {where}, scales")
    b.case(b.op("Resize", stem, "", "", sizes, mode="linear"), "linear, sizes")
    b.case(conv(b, b.op("Resize", stem, "", scales, mode="nearest"), 20, 4, (3, 3)), "before a convolution")
    b.check()


def test_outputs_that_no_kernel_makes() -> None:
    """An input, a constant and one value twice as outputs."""
    b = Bundle()
    x = b.input(2, 3, 4, 4)
    b.case(x, "input")
    b.case(b.const(b.normal(3, 3)), "constant")
    b.case(b.const(np.float32(3)), "number")
    stem = conv(b, x, 3, 5, (1, 1))
    b.case(stem, "value")
    b.case(stem, "the same value")
    b.case(b.op("Shape", stem), "shape")
    b.check()
