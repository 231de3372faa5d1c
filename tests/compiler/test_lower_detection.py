"""TopK and NonMaxSuppression against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optkit.errors import UnsupportedError
from tests.compiler.bundle import BUNDLED, Bundle


@st.composite
def top_k(draw: st.DrawFn) -> dict[str, Any]:
    """Any axis of any rank, few distinct values, so that ties are many."""
    shape = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    return {
        "shape": shape,
        "axis": axis,
        "k": draw(st.integers(1, shape[axis])),
        "largest": draw(st.integers(0, 1)),
        "distinct": draw(st.sampled_from([2, 5, 1000])),
        "dtype": draw(st.sampled_from(["float32", "float16", "int64", "int32", "float64", "uint8"])),
        "runtime": draw(st.booleans()),
    }


@BUNDLED
@given(st.lists(top_k(), min_size=8, max_size=8))
def test_any_top_k(cases: list[dict[str, Any]]) -> None:
    b = Bundle()
    for case in cases:
        values = b.generator.integers(0, case["distinct"], case["shape"])
        x = b.input(*case["shape"], dtype=case["dtype"], values=values.clip(0, 250))
        count = np.array([case["k"]])
        k = b.input(1, dtype="int64", values=count) if case["runtime"] else b.const(count)
        found = b.op("TopK", x, k, outputs=2, axis=case["axis"], largest=case["largest"])
        for name in found:
            b.case(name, f"{name}: {case}")
    b.check()


def test_top_k_of_a_symbolic_axis() -> None:
    b = Bundle()
    x = b.input(70, 3, free="boxes")
    values, indices = b.op("TopK", x, b.const([20]), outputs=2, axis=0)
    b.case(values, "values")
    b.case(b.op("Gather", x, b.op("Gather", indices, b.const(1), axis=1)), "rows by index")
    b.check()


def test_top_k_of_too_few_is_refused() -> None:
    b = Bundle()
    b.case(b.op("TopK", b.input(3), b.op("Identity", b.const([4])), outputs=2)[0], "four of three")
    with pytest.raises(UnsupportedError, match="4 of 3"):
        b.build()


def boxes(b: Bundle, batches: int, count: int, classes: int, centered: bool) -> tuple[str, str]:
    """Boxes that overlap, some with corners exchanged and one without area; scores with ties."""
    places = b.generator.uniform(0, 4, (batches, count, 2))
    sizes = b.generator.uniform(0.2, 2, (batches, count, 2))
    sizes[:, 0] = 0
    corners = np.concatenate([places, sizes if centered else places + sizes], -1)
    if not centered:
        corners[:, 1::3] = corners[:, 1::3][..., [2, 3, 0, 1]]
    scores = b.generator.integers(0, 40, (batches, classes, count)) / 40
    return b.input(*corners.shape, values=corners), b.input(*scores.shape, values=scores)


@pytest.mark.parametrize("runtime", [False, True])
@pytest.mark.parametrize("centered", [False, True])
def test_suppression(runtime: bool, centered: bool) -> None:
    b = Bundle()
    x, scores = boxes(b, 2, 60, 3, centered)

    def parameter(value: Any, dtype: str) -> str:
        array = np.array([value], dtype)
        return b.input(1, dtype=dtype, values=array) if runtime else b.const(array)

    cases = [(60, 0.4, 0.1), (5, 0.0, 0.5), (1, 1.0, 0.0), (0, 0.5, 0.0), (2**40, 0.3, 0.2), (7, 0.3, 2.0)]
    for most, iou, least in cases:
        given = [parameter(most, "int64"), parameter(iou, "float32"), parameter(least, "float32")]
        label = f"{most} boxes, overlap {iou}, score {least}"
        b.case(b.op("NonMaxSuppression", x, scores, *given, center_point_box=int(centered)), label)
    b.case(b.op("NonMaxSuppression", x, scores), "nothing asked for")
    b.case(b.op("NonMaxSuppression", x, scores, b.const(np.int64(9))), "any score, any overlap")
    b.check()


def test_operators_behind_a_suppression() -> None:
    """What detection models do with the rows: take boxes and scores by index, count them, keep the best."""
    b = Bundle()
    x, scores = boxes(b, 1, 50, 4, False)
    rows = b.op("NonMaxSuppression", x, scores, b.const([8]), b.const(np.float32([0.3])), b.const(np.float32([0.2])))
    index = b.op("Squeeze", b.op("Slice", rows, b.const([2]), b.const([3]), b.const([1])), b.const([1]))
    kind = b.op("Gather", rows, b.const(np.int64(1)), axis=1)
    b.case(rows, "rows")
    b.case(b.op("Gather", b.op("Squeeze", x, b.const([0])), index, axis=0), "boxes")
    b.case(b.op("Add", b.op("Cast", kind, to=1), b.const(np.float32(0.5))), "classes")
    b.case(b.op("GatherND", scores, rows), "scores")
    b.check()
