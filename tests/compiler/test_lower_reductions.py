"""Reductions over constant, declared and unknown axes; running sums; determinants."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from optkit.compiler.converters.reductions import _declared_axes
from optkit.compiler.operators.reductions import REDUCTIONS
from tests.compiler.bundle import BUNDLED, Bundle
from tests.compiler.test_lower_shapes import free

NAMES = [*REDUCTIONS, "ReduceMean", "ReduceLogSumExp"]


def test_known_axes_in_every_type() -> None:
    b = Bundle()
    x = b.input(2, 3, 4, values=np.abs(b.normal(2, 3, 4)) + 0.1)
    whole = b.input(2, 3, 4, dtype="int32", values=b.generator.integers(1, 6, (2, 3, 4)))
    double = b.input(2, 3, 4, dtype="float64", values=np.abs(b.normal(2, 3, 4)) + 0.1)
    for name in NAMES:
        b.case(b.op(name, x, b.const(np.array([1])), keepdims=0), f"{name} [1]")
        b.case(b.op(name, x, b.const(np.array([-1, 0]))), f"{name} [-1, 0]")
        b.case(b.op(name, x), f"{name} of all")
        b.case(b.op(name, x, noop_with_empty_axes=1), f"{name} of none")
        b.case(b.op(name, double, b.const(np.array([2]))), f"{name} of float64")
        if name not in ("ReduceLogSum", "ReduceLogSumExp", "ReduceL2"):
            b.case(b.op(name, whole, b.const(np.array([0, 2]))), f"{name} of int32")
    b.case(b.op("ReduceLogSumExp", b.op("Mul", x, b.const(np.float32(1000)))), "ReduceLogSumExp of large numbers")
    b.check()


@BUNDLED
@given(st.lists(st.integers(1, 4), min_size=2, max_size=4), st.data())
def test_axes_are_inputs(shape: list[int], data: st.DataObject) -> None:
    """The model knows nothing of the axes: shapes too are found when it runs."""
    b = Bundle()
    x = b.input(*shape)
    for name in ("ReduceMean", "ReduceLogSumExp"):
        drawn = st.lists(st.integers(0, len(shape) - 1), min_size=1, max_size=len(shape), unique=True)
        axes = data.draw(drawn)
        signed = [a - len(shape) if data.draw(st.booleans()) else a for a in axes]
        for keep in (0, 1):
            given_axes = b.input(len(axes), dtype="int64", values=np.array(signed))
            free(b, b.op(name, x, given_axes, keepdims=keep), f"{name} of {shape} over {signed}, keepdims={keep}")
    b.check()


def test_declared_shapes_name_axes_only_where_they_can() -> None:
    assert _declared_axes((3, 2, 2), [3, 1, 2], True) == [1]
    assert _declared_axes((3, 2, 4), [3, 4], False) == [1]
    assert _declared_axes((3, 2, 2), [3, 2], False) is None
    assert _declared_axes((3, 1, 1), [3, 1], False) in ([1], [2])
    assert _declared_axes((3, 2), [3, None], True) is None


def test_running_sums() -> None:
    b = Bundle()
    x = b.input(2, 3, 4)
    whole = b.input(5, dtype="int64", values=np.arange(5) - 2)
    for axis in (0, 1, -1):
        for exclusive, reverse in [(0, 0), (1, 0), (0, 1), (1, 1)]:
            for at in (b.const(np.array(axis)), b.input(dtype="int64", values=np.array(axis))):
                label = f"{axis} exclusive={exclusive} reverse={reverse}"
                b.case(b.op("CumSum", x, at, exclusive=exclusive, reverse=reverse), label)
    b.case(b.op("CumSum", whole, b.const(np.array(0))), "integers")
    b.check()


def test_determinants() -> None:
    b = Bundle()
    b.case(b.op("Det", b.input(4, 4)), "one")
    b.case(b.op("Det", b.input(2, 3, 5, 5)), "many")
    b.case(b.op("Det", b.input(2, 2, values=np.array([[0, 2], [3, 0]]))), "a zero where the first pivot is")
    b.case(b.op("Det", b.input(2, 2, values=np.array([[1, 2], [2, 4]]))), "singular")
    b.check()
