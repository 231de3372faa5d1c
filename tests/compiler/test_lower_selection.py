"""Results as long as the data says, found when the model runs."""

from __future__ import annotations

import numpy as np
import pytest

from optkit.errors import UnsupportedError
from tests.compiler.bundle import Bundle


def test_nonzero() -> None:
    b = Bundle()
    for shape in [(7,), (3, 4), (2, 3, 2)]:
        b.case(b.op("NonZero", b.input(*shape, values=b.normal(*shape) * (b.normal(*shape) > 0))), f"{shape}")
    b.case(b.op("NonZero", b.input(4, values=np.zeros(4))), "none")
    flags = b.op("Greater", b.input(5, 3), b.const(np.float32(0.2)))
    b.case(b.op("Cast", b.op("NonZero", flags), to=1), "what is behind it")
    b.check()


def test_compress() -> None:
    b = Bundle()
    x = b.input(3, 4, 2)
    for axis, count in [(0, 3), (1, 4), (-1, 2), (1, 2), (None, 20)]:
        condition = b.input(count, dtype="bool", values=b.normal(count) > 0)
        b.case(b.op("Compress", x, condition, axis=axis), f"axis {axis}, {count}")
    b.check()


@pytest.mark.parametrize("ordered", [0, 1])
def test_unique(ordered: int) -> None:
    b = Bundle()
    x = b.input(4, 5, values=b.generator.integers(-3, 4, (4, 5)))
    whole = b.input(30, dtype="int64", values=b.generator.integers(0, 5, 30))
    slices = b.input(5, 2, 2, values=b.generator.integers(0, 2, (5, 2, 2)))
    for label, value, axis in [("flat", x, None), ("integers", whole, None), ("rows", slices, 0), ("last", slices, -1)]:
        for i, part in enumerate(b.op("Unique", value, outputs=4, axis=axis, sorted=ordered)):
            b.case(part, f"{label}, output {i}")
    b.check()


def test_ranges_and_depths() -> None:
    b = Bundle()
    for dtype, values in [
        ("int64", (2, 9, 3)),
        ("int32", (9, 2, -2)),
        ("float32", (0.5, 2.0, 0.4)),
        ("int64", (3, 1, 1)),
    ]:
        limits = [b.input(dtype=dtype, values=np.array(v)) for v in values]
        b.case(b.op("Range", *limits), f"Range {dtype} {values}")
    indices = b.input(2, 3, dtype="int64", values=np.array([[0, -1, 4], [2, 9, -7]]))
    pair, depth = b.const(np.array([2.0, 5.0], "float32")), b.input(dtype="int64", values=np.array(5))
    for axis in (0, 1, -1):
        b.case(b.op("OneHot", indices, depth, pair, axis=axis), f"OneHot {axis}")
    matrix = b.input(3, 5, dtype="int32", values=np.zeros((3, 5)))
    for k in (0, 2, -1):
        b.case(b.op("EyeLike", matrix, k=k, dtype=11), f"EyeLike {k}")
    lengths = b.input(4, dtype="int64", values=np.array([1, 3, 2, 4]))
    b.case(b.op("ReverseSequence", b.input(5, 4, 2), lengths), "ReverseSequence")
    b.case(b.op("ReverseSequence", b.input(4, 5), lengths, batch_axis=0, time_axis=1), "ReverseSequence, batch first")
    b.check()


def test_triangles() -> None:
    b = Bundle()
    x, flags = b.input(2, 4, 5), b.op("Greater", b.input(4, 5), b.const(np.float32(0)))
    for upper in (0, 1):
        for k in (-2, 0, 3):
            for place in (b.const(np.array(k)), b.input(dtype="int64", values=np.array(k))):
                b.case(b.op("Trilu", x, place, upper=upper), f"{upper} {k}")
        b.case(b.op("Trilu", flags, upper=upper), f"{upper}, booleans")
    b.case(b.op("Trilu", b.input(3, 0, 4, values=np.zeros((3, 0, 4)))), "nothing")
    b.check()


def test_refusals_name_the_node() -> None:
    b = Bundle()
    b.case(b.op("Unique", b.input(3, 0, values=np.zeros((3, 0))), axis=0), "slices of nothing")
    with pytest.raises(UnsupportedError, match="Unique"):
        b.build()
