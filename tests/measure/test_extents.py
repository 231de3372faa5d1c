"""Extents of open axes that a model takes: one search for verification and calibration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from optkit_passes.precision.ranges import measure_ranges
from optkit_passes.quantize.data_free import made_up_samples

import optkit
from optkit.artifact.spec import TensorSpec
from optkit.errors import DataError
from optkit.measure.extents import LARGEST, accepted_extents, open_names
from optkit.measure.samples import choose_samples
from optkit.transform import PassContext
from tests.graphs import build, proto, weights

WINDOWED = ('p = Pad<mode="reflect">(x, pads) y = Identity(p)', "float[n,length] x", "float[n,longer] y")
"""Reflects 80 elements at the end, so a row needs 81."""
PADS = np.array([0, 0, 0, 80])


def _zeros(shapes: list[tuple[int | str, ...]]) -> object:
    def draw(extents: Mapping[str, int]) -> list[dict[str, np.ndarray]]:
        return [{"x": np.zeros([extents.get(str(d), 1) if isinstance(d, str) else d for d in shapes[0]], np.float32)}]

    return draw


def test_batches_are_no_lengths_wherever_they_stand() -> None:
    assert open_names([("b", 3, "h", "w"), (2, "b", "h"), ()]) == ("h", "w")


def test_the_first_extent_that_the_model_takes_is_used() -> None:
    model = build(*WINDOWED, pads=PADS)
    shapes = [("n", "length")]
    assert accepted_extents(model, shapes, _zeros(shapes)) == {"length": 224}
    assert accepted_extents(model, shapes, _zeros(shapes), {"length": 81}) == {"length": 81}


def test_long_windows_are_reached_and_endless_ones_named() -> None:
    shapes = [("n", "length")]
    longer = build(*WINDOWED, pads=np.array([0, 0, 0, 9000]))
    assert accepted_extents(longer, shapes, _zeros(shapes)) == {"length": 16384}
    endless = build(*WINDOWED, pads=np.array([0, 0, 0, LARGEST]))
    with pytest.raises(DataError, match=r"Pad.*--calib-data"):
        accepted_extents(endless, shapes, _zeros(shapes))


def test_calibration_verification_and_ranges_draw_what_the_model_takes() -> None:
    model = build(*WINDOWED, pads=PADS)
    assert {s["x"].shape for s in made_up_samples(model, 0)()} == {(1, 224)}
    chosen = choose_samples([TensorSpec("x", "float32", ("n", "length"))], None, 2, 0, {}, model)
    assert [s["x"].shape for s in chosen] == [(1, 224), (3, 224)]
    named = choose_samples([TensorSpec("x", "float32", ("n", "length"))], None, 1, 0, {"x": (2, 100)}, model)
    assert named[0]["x"].shape == (2, 100)
    ranges, count, real = measure_ranges(model, PassContext(), 0)
    assert count == 4 and not real and ranges["y"].high > 0


def test_a_state_has_the_batch_of_the_input_beside_it() -> None:
    model = build("y = Add(x, s)", "float[n,length] x, float[2,n,length] s", "float[2,n,length] y")
    assert {s["s"].shape for s in made_up_samples(model, 0)()} == {(2, 1, 64)}


def test_int8_and_fp32_of_a_window_longer_than_the_usual_text(tmp_path: Path) -> None:
    body = 'p = Pad<mode="reflect">(x, pads) u = Unsqueeze(p, one) c = Conv<strides=[8]>(u, k) y = ReduceMax(c, last)'
    model = proto(
        body,
        "float[n,length] x",
        "float[n,4,1] y",
        pads=PADS,
        one=np.array([1]),
        last=np.array([2]),
        k=weights(4, 1, 16),
    )
    onnx.save(model, tmp_path / "model.onnx")
    for passes in (None, "int8"):
        report = optkit.compile(tmp_path / "model.onnx", passes=passes, output=tmp_path / "x.optk").report
        assert report["verification"]["status"] == "passed", passes
