"""Concatenations and splits of blocks of channels are not computed: what makes parts writes them to their places."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optkit.compiler.build import Built
from tests.compiler.bundle import BUNDLED, Bundle
from tests.compiler.test_lower_conv import conv

SAME = {"pads": [1, 1, 1, 1]}


def pointwise(b: Bundle, x: str, channels: int, out: int) -> str:
    """A convolution of one by one, and an activation."""
    return str(b.op("Relu", conv(b, x, channels, out, (1, 1))))


def stage(b: Bundle, n: int = 1, height: int = 6, free: str = "") -> None:
    """YOLO's C2f: two halves, the second one and what is made of it read and concatenated."""
    x = pointwise(b, b.input(n, 16, height, 7, free=free), 16, 64)
    first, second = b.op("Split", x, outputs=2, axis=1, num_outputs=2)
    one = b.op("Add", conv(b, conv(b, second, 32, 32, (3, 3), **SAME), 32, 32, (3, 3), **SAME), second)
    two = b.op("Add", conv(b, one, 32, 32, (3, 3), **SAME), one)
    whole = b.op("Concat", first, second, one, two, axis=1)
    b.case(conv(b, whole, 128, 16, (1, 1)), f"stage of {n}x{height}")


def pyramid(b: Bundle, n: int = 2) -> None:
    """U-Net's skip, pooled and concatenated with what comes back, of another size."""
    skip = pointwise(b, b.input(n, 16, 8, 10), 16, 32)
    down = pointwise(b, b.op("MaxPool", skip, kernel_shape=[2, 2], strides=[2, 2]), 32, 64)
    up = b.op("Resize", down, "", b.const(b.normal(0)), b.const([n, 64, 8, 10]), mode="nearest")
    b.case(conv(b, b.op("Concat", up, skip, axis=1), 96, 16, (3, 3), **SAME), f"pyramid of {n}")


def pooled(b: Bundle) -> None:
    """SPPF: each part is a pool of the one before."""
    parts = [pointwise(b, b.input(1, 16, 7, 9), 16, 32)]
    for _ in range(3):
        parts.append(b.op("MaxPool", parts[-1], kernel_shape=[5, 5], pads=[2, 2, 2, 2]))
    b.case(conv(b, b.op("Concat", *parts, axis=1), 128, 16, (1, 1)), "pooled")


def dense(b: Bundle) -> None:
    """DenseNet without normalization: every concatenation is the beginning of the next one."""
    features = [pointwise(b, b.input(1, 16, 5, 5), 16, 32)]
    for count in range(1, 4):
        whole = features[0] if count == 1 else b.op("Concat", *features, axis=1)
        features.append(pointwise(b, whole, 32 * count, 32))
    b.case(conv(b, b.op("Concat", *features, axis=1), 128, 16, (1, 1)), "dense")


def brought(b: Bundle) -> None:
    """A part that is the caller's tensor, in blocks."""
    x = b.input(1, 32, 6, 6)
    b.case(conv(b, b.op("Concat", x, pointwise(b, x, 32, 32), axis=1), 64, 16, (1, 1)), "brought")


def moves(built: Built) -> list[str]:
    """Kernels that concatenate or split."""
    return [k.name for k in built.kernels if "concat" in k.name or "split" in k.name]


@pytest.mark.parametrize(
    "model",
    [stage, lambda b: stage(b, 3), lambda b: stage(b, 1, 5), pyramid, lambda b: pyramid(b, 1), pooled, dense, brought],
    ids=["stage", "three images", "odd height", "pyramid", "one pyramid", "pooled", "dense", "brought"],
)
def test_parts_are_made_in_their_places(model: Callable[[Bundle], None]) -> None:
    b = Bundle()
    model(b)
    built = b.check()
    assert not moves(built)
    assert "R.call_tir_inplace" in built.relax_text


def test_an_open_batch_is_written_in_place_too() -> None:
    b = Bundle()
    stage(b, 2, free="n")
    built = b.check()
    assert not moves(built)
    assert "R.call_tir_inplace" in built.relax_text


def twice(b: Bundle) -> None:
    """A value in two concatenations: the second one copies it."""
    x = b.input(1, 16, 6, 6)
    one, two, three = (pointwise(b, x, 16, 32) for _ in range(3))
    b.case(conv(b, b.op("Concat", one, two, axis=1), 64, 16, (1, 1)), "first")
    b.case(conv(b, b.op("Concat", three, one, axis=1), 64, 16, (1, 1)), "second")


def doubled(b: Bundle) -> None:
    """A concatenation of a value with itself."""
    x = pointwise(b, b.input(1, 16, 6, 6), 16, 32)
    b.case(conv(b, b.op("Concat", x, x, axis=1), 64, 16, (1, 1)), "doubled")


def crossed(b: Bundle) -> None:
    """Halves in the other order: the tensor that both lie in has no place."""
    x = pointwise(b, b.input(1, 16, 6, 6), 16, 64)
    first, second = b.op("Split", x, outputs=2, axis=1, num_outputs=2)
    b.case(conv(b, b.op("Concat", second, first, axis=1), 64, 16, (1, 1)), "crossed")


def uneven(b: Bundle) -> None:
    """Parts that are not of whole blocks."""
    x = b.input(1, 16, 6, 6)
    whole = b.op("Concat", pointwise(b, x, 16, 20), pointwise(b, x, 16, 12), axis=1)
    b.case(conv(b, whole, 32, 16, (1, 1)), "uneven")


def equal(b: Bundle) -> None:
    """Two values that are the same: one kernel makes them."""
    x = conv(b, b.input(1, 16, 6, 6), 16, 32, (1, 1))
    whole = b.op("Concat", b.op("Relu", x), b.op("Relu", x), axis=1)
    b.case(conv(b, whole, 64, 16, (1, 1)), "equal")


def repeated(b: Bundle) -> None:
    """A value's halves twice."""
    x = pointwise(b, b.input(1, 16, 6, 6), 16, 64)
    halves = [half for _ in range(2) for half in b.op("Split", x, outputs=2, axis=1, num_outputs=2)]
    b.case(conv(b, b.op("Concat", *halves, axis=1), 128, 16, (1, 1)), "repeated")


def beside(b: Bundle) -> None:
    """A value beside its own halves."""
    x = pointwise(b, b.input(1, 16, 6, 6), 16, 64)
    halves = b.op("Split", x, outputs=2, axis=1, num_outputs=2)
    b.case(conv(b, b.op("Concat", x, *halves, axis=1), 128, 16, (1, 1)), "beside")


@pytest.mark.parametrize("model", [twice, doubled, crossed, uneven, equal, repeated, beside])
def test_what_has_no_place_is_copied(model: Callable[[Bundle], None]) -> None:
    b = Bundle()
    model(b)
    assert len(moves(b.check())) == 1


def test_a_concatenation_beside_its_parts_copies_them() -> None:
    """And one that is in another one twice."""
    b = Bundle()
    x = b.input(1, 16, 6, 6)
    one, two = pointwise(b, x, 16, 32), pointwise(b, x, 16, 32)
    whole = b.op("Concat", one, two, axis=1)
    b.case(conv(b, whole, 64, 16, (1, 1)), "whole")
    b.case(conv(b, b.op("Concat", whole, one, two, axis=1), 128, 16, (1, 1)), "beside")
    b.case(conv(b, b.op("Concat", whole, b.op("Concat", one, two, axis=1), axis=1), 128, 16, (1, 1)), "in it twice")
    b.check()


def test_results_are_tensors_of_their_own() -> None:
    """Parts, and whole concatenations, that the caller gets."""
    b = Bundle()
    x = b.input(1, 16, 6, 6)
    one, two = (pointwise(b, x, 16, 32) for _ in range(2))
    whole = b.op("Concat", one, two, axis=1)
    b.case(conv(b, whole, 64, 16, (1, 1)), "behind")
    b.case(one, "a part")
    b.case(whole, "the whole")
    b.check()


def test_what_only_elements_follow_is_part_of_them() -> None:
    """A concatenation before a normalization is no kernel, and neither are copies of its parts."""
    b = Bundle()
    x = b.input(1, 16, 6, 6)
    whole = b.op("Concat", pointwise(b, x, 16, 32), pointwise(b, x, 16, 32), axis=1)
    scaled = b.op("Relu", b.op("Mul", whole, b.const(b.normal(1, 64, 1, 1))))
    b.case(conv(b, scaled, 64, 16, (1, 1)), "scaled")
    built = b.check()
    (name,) = moves(built)
    assert "multiply" in name
    assert "R.call_tir_inplace" not in built.relax_text


STEPS = st.tuples(
    st.sampled_from(["conv", "depthwise", "pool", "add", "scale", "halves", "join", "join"]),
    st.integers(0, 5),
    st.integers(0, 5),
)


def grow(b: Bundle, images: int, steps: Sequence[tuple[str, int, int]]) -> None:
    """A graph of these steps over images of six by five, each of which reads one or two of the last values."""
    values = [(pointwise(b, b.input(images, 16, 6, 5), 16, 32), 32)]
    for kind, place, other in steps:
        (x, channels), (y, more) = (values[-1 - i % len(values)] for i in (place, other))
        if kind == "conv":
            values.append((conv(b, x, channels, 32, (3, 3), **SAME), 32))
        elif kind == "depthwise":
            values.append((conv(b, x, channels, channels, (3, 3), channels, **SAME), channels))
        elif kind == "pool":
            values.append((b.op("MaxPool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1]), channels))
        elif kind == "scale":
            values.append((b.op("Mul", x, b.const(b.normal(1, channels, 1, 1))), channels))
        elif kind == "add" and channels == more:
            values.append((b.op("Add", x, y), channels))
        elif kind == "halves" and channels % 32 == 0:
            halves = b.op("Split", x, outputs=2, axis=1, num_outputs=2)
            values += [(half, channels // 2) for half in halves]
        elif kind == "join" and channels + more <= 256:
            whole = b.op("Concat", x, y, axis=1)
            values += [(whole, channels + more), (pointwise(b, whole, channels + more, 32), 32)]
    for number, (value, channels) in enumerate(values[-2:]):
        b.case(conv(b, value, channels, 16, (1, 1)), f"{number} of {steps}")


@BUNDLED
@given(images=st.integers(1, 2), graphs=st.lists(st.lists(STEPS, min_size=6, max_size=12), min_size=8, max_size=8))
def test_any_graph_of_parts(images: int, graphs: Sequence[Sequence[tuple[str, int, int]]]) -> None:
    b = Bundle()
    for steps in graphs:
        grow(b, images, steps)
    b.check()
