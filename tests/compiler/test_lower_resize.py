"""Resize against ONNX Runtime: every mode, with sizes known, symbolic, and known only when the model runs."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optkit.errors import UnsupportedError
from tests.compiler.bundle import BUNDLED, Bundle
from tests.compiler.test_lower_conv import conv

COORDINATES = ["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners", "half_pixel_symmetric"]
ROUNDINGS = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]


@st.composite
def resize(draw: st.DrawFn) -> dict[str, Any]:
    """A Resize that ONNX Runtime runs."""
    mode = draw(st.sampled_from(["nearest", "linear", "cubic"]))
    sizes = draw(st.booleans())
    # With a fractional length, ONNX's reference and ONNX Runtime disagree about the corners.
    modes = COORDINATES if sizes else [c for c in COORDINATES if c != "align_corners"]
    antialias = mode != "nearest" and draw(st.booleans())
    return {
        "size": draw(st.tuples(st.integers(1, 9), st.integers(1, 19))),
        "target": draw(st.tuples(st.integers(1, 20), st.integers(1, 20))) if sizes else None,
        "scale": None if sizes else draw(st.tuples(*[st.sampled_from([0.5, 0.6, 1.0, 1.5, 2.0, 3.3])] * 2)),
        "channels": draw(st.sampled_from([1, 3, 17])),
        "mode": mode,
        "coordinate_transformation_mode": draw(st.sampled_from(modes)),
        "nearest_mode": draw(st.sampled_from(ROUNDINGS)),
        "cubic_coeff_a": draw(st.sampled_from([-0.75, -0.5])),
        "exclude_outside": int(mode == "cubic" and draw(st.booleans())),
        "antialias": int(antialias),
        "keep_aspect_ratio_policy": draw(st.sampled_from(["stretch", "not_larger", "not_smaller"])) if sizes else None,
    }


def add(b: Bundle, x: str, case: dict[str, Any], runtime: bool = False) -> str:
    """The node, over the last two axes."""
    attributes = {k: v for k, v in case.items() if k not in ("size", "target", "scale", "channels")}

    def parameter(values: Any, dtype: str) -> str:
        array = np.array(values, dtype)
        return b.input(len(array), dtype=dtype, values=array) if runtime else b.const(array)

    if case["target"] is not None:
        extra = ["", "", parameter(case["target"], "int64")]
    else:
        extra = ["", parameter(case["scale"], "float32")]
    return str(b.op("Resize", x, *extra, axes=[2, 3], **attributes))


def fits(case: dict[str, Any]) -> bool:
    """Whether something is left, and ONNX Runtime takes the case."""
    if case["scale"] is not None and any(int(s * f) < 1 for s, f in zip(case["size"], case["scale"], strict=True)):
        return False
    if case["target"] is not None and case["keep_aspect_ratio_policy"] != "stretch":
        pick = min if case["keep_aspect_ratio_policy"] == "not_larger" else max
        factor = pick(t / s for s, t in zip(case["size"], case["target"], strict=True))
        return all(s * factor >= 0.5 for s in case["size"])
    return True


@BUNDLED
@given(st.lists(resize().filter(fits), min_size=16, max_size=16))
def test_any_resize(cases: list[dict[str, Any]]) -> None:
    b = Bundle()
    for case in cases:
        x = b.input(2, case["channels"], *case["size"])
        b.case(add(b, x, case), str(case))
    b.check()


def test_every_rounding_at_ties() -> None:
    b = Bundle()
    for (how, mode), (size, out) in itertools.product(
        itertools.product(ROUNDINGS, COORDINATES), [((1, 4), (1, 8)), ((2, 8), (4, 4)), ((3, 9), (6, 3))]
    ):
        if (mode, size) == ("half_pixel_symmetric", (3, 9)):
            continue  # a third is no float32: ONNX Runtime rounds its products to another side than the reference
        case = {"target": out, "scale": None, "mode": "nearest"}
        x = b.input(1, 1, *size)
        names = {"nearest_mode": how, "coordinate_transformation_mode": mode}
        b.case(add(b, x, {**case, **names}), f"{how}, {mode}, {size} to {out}")
    b.check()


@pytest.mark.parametrize("target", ["cpu", "x86-64-v3"])
def test_images_stay_blocked(target: str) -> None:
    """Between convolutions every mode reads and writes blocks, empty lanes included."""
    b = Bundle()
    stem = conv(b, b.input(2, 3, 9, 11, free="n"), 3, 21, (3, 3))
    for mode in ("nearest", "linear", "cubic"):
        large = b.op("Resize", stem, "", b.const(np.float32([1, 1, 2, 2])), mode=mode)
        b.case(conv(b, large, 21, 5, (1, 1)), mode)
    b.check(target)


def test_sizes_of_the_run() -> None:
    """Sizes and scales that are inputs make extents that are found when the model runs."""
    b = Bundle()
    for mode, sizes in itertools.product(("nearest", "linear", "cubic"), (True, False)):
        case = {"target": (7, 12) if sizes else None, "scale": None if sizes else (1.5, 2.2), "mode": mode}
        y = add(b, b.input(1, 3, 5, 6), case, runtime=True)
        b.case(b.op("Relu", y), f"{mode} by {'sizes' if sizes else 'scales'}")
    b.check()


def test_symbolic_height() -> None:
    b = Bundle()
    x = b.input(6, 5, free="h")
    for mode, scales in itertools.product(("nearest", "linear", "cubic"), ([2, 2], [0.5, 1.5])):
        b.case(b.op("Resize", x, "", b.const(np.float32(scales)), mode=mode), f"{mode} by {scales}")
    shrink = {"mode": "linear", "antialias": 1}
    b.case(b.op("Resize", x, "", b.const(np.float32([0.5, 1])), **shrink), "antialiased")
    other = b.input(13, 4, free="k")
    b.case(b.op("Resize", x, "", "", b.op("Shape", other), mode="linear"), "to another's size")
    b.check()
    b = Bundle()
    x = b.input(6, 5, free="h")
    b.case(b.op("Resize", x, "", b.const(np.float32([0.71234, 1]))), "no simple fraction")
    with pytest.raises(UnsupportedError, match=r"0\.7123"):
        b.build()


def test_crops() -> None:
    b = Bundle()
    for runtime, mode in itertools.product((False, True), ("linear", "nearest", "cubic")):
        roi = np.float32([0.2, 0.3, 0.7, 1.4])
        given = b.input(4, values=roi) if runtime else b.const(roi)
        x = b.input(1, 2, 7, 9)
        y = b.op(
            "Resize",
            *[x, given, "", b.const([5, 6])],
            axes=[2, 3],
            coordinate_transformation_mode="tf_crop_and_resize",
            extrapolation_value=7.5,
            mode=mode,
        )
        b.case(y, f"{mode}, {'runtime' if runtime else 'constant'} roi")
    b.check()


def test_element_types() -> None:
    b = Bundle()
    for dtype, mode in itertools.product(("float16", "uint8", "int8", "int32"), ("nearest", "linear")):
        values = b.generator.integers(0, 100, (1, 2, 4, 5))
        x = b.input(1, 2, 4, 5, dtype=dtype, values=values)
        b.case(b.op("Resize", x, "", b.const(np.float32([1, 1, 2, 4])), mode=mode), f"{dtype}, {mode}")
    b.check()
