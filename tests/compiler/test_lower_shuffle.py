"""Channel shuffles, as exporters write them, and splits of channels that are no whole blocks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optkit.api import transform
from optkit.compiler.build import build
from optkit.plan import choose_pipeline
from optkit.registry import find_target
from tests.compiler.bundle import BUNDLED, Bundle
from tests.compiler.test_lower_conv import conv


def shuffle(b: Bundle, x: str, shape: Sequence[int], groups: int) -> str:
    """Channels divided, their axes swapped, and put together again."""
    n, channels, *space = shape
    divided = b.op("Reshape", x, b.const(np.array([n, groups, channels // groups, *space])))
    swapped = b.op("Transpose", divided, perm=[0, 2, 1, *range(3, len(shape) + 1)])
    return str(b.op("Reshape", swapped, b.const(np.array([n, -1, *space]))))


def unit(b: Bundle, n: int = 1, half: int = 29, groups: int = 2) -> None:
    """ShuffleNetV2's: half of the channels pass by, two units behind each other."""
    x = conv(b, b.input(n, 16, 5, 6), 16, 2 * half, (1, 1))
    for _ in range(2):
        beside, through = b.op("Split", x, outputs=2, axis=1, num_outputs=2)
        made = b.op("Relu", conv(b, through, half, half, (3, 3), half, pads=[1, 1, 1, 1]))
        x = shuffle(b, b.op("Concat", beside, conv(b, made, half, half, (1, 1)), axis=1), (n, 2 * half, 5, 6), groups)
    b.case(conv(b, x, 2 * half, 24, (1, 1)), f"{n} images, halves of {half}, {groups} groups")


@BUNDLED
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(8, 40), st.integers(0, 3)), min_size=4, max_size=4))
def test_units_stay_in_blocks(units: list[tuple[int, int, int]]) -> None:
    b = Bundle()
    for n, half, choice in units:
        divisors = [d for d in range(1, 2 * half + 1) if 2 * half % d == 0]
        unit(b, n, half, divisors[choice % len(divisors)])
    built = b.check()
    assert not [kernel.name for kernel in built.kernels if "transpose" in kernel.name or "reshape" in kernel.name]


@pytest.mark.parametrize("rank", [1, 3])
def test_of_rows_and_volumes(rank: int) -> None:
    b = Bundle()
    space = (5, 4, 6)[:rank]
    x = conv(b, b.input(2, 16, *space), 16, 48, (1,) * rank)
    b.case(conv(b, shuffle(b, x, (2, 48, *space), 3), 48, 16, (1,) * rank), "shuffled")
    b.check()


def test_parts_of_a_shuffle_are_what_they_are() -> None:
    """Divided channels that something else reads, or that are swapped in another way, or not at all."""
    b = Bundle()
    x = conv(b, b.input(2, 16, 3, 4), 16, 36, (1, 1))
    divided = b.op("Reshape", x, b.const(np.array([2, 4, 9, 3, 4])))
    b.case(divided, "divided")
    b.case(b.op("Reshape", divided, b.const(np.array([2, 36, 3, 4]))), "together at once")
    swapped = b.op("Transpose", divided, perm=[0, 2, 1, 3, 4])
    b.case(swapped, "swapped")
    b.case(b.op("ReduceMean", swapped, b.const(np.array([2])), keepdims=0), "means")
    b.case(b.op("Transpose", swapped, perm=[0, 2, 1, 3, 4]), "swapped back")
    b.case(b.op("Transpose", divided, perm=[0, 2, 1, 4, 3]), "more swapped")
    b.case(b.op("Reshape", swapped, b.const(np.array([2, 9, 4, 12]))), "another shape")
    b.case(b.op("Reshape", swapped, b.const(np.array([2, 36, 3, 4]))), "shuffled")
    b.case(b.op("Relu", b.op("Reshape", swapped, b.const(np.array([0, -1, 3, 4])))), "zero is as before")
    b.check()


@pytest.mark.parametrize("target", ["cpu", "cuda:sm_90"])
def test_bytes_are_shuffled_in_blocks(target: str) -> None:
    b = Bundle()
    unit(b)
    model = transform(b.model(), choose_pipeline("int8", {})).model
    names = [kernel.name for kernel in build(model, find_target(target)).kernels]
    assert [name for name in names if "shuffle" in name]
    assert not [name for name in names if "transpose" in name or "dequantize" in name]
