"""Made-up calibration samples: right shapes, types and indices, the same for the same seed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from optkit_passes.quantize.data_free import SAMPLES, made_up_samples

from optkit.errors import DataError
from tests.graphs import build, weights


def test_image_inputs_vary_in_kind_and_repeat_with_the_seed() -> None:
    model = build("y = Relu(x)", "float[n,3,h,32] x")
    first, again, other = (list(made_up_samples(model, seed)()) for seed in (0, 0, 1))
    assert len(first) == SAMPLES
    assert {s["x"].shape for s in first} == {(1, 3, 224, 32)} and {s["x"].dtype for s in first} == {np.dtype("float32")}
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a["x"], b["x"])
        assert (a["x"] != c["x"]).any()
    assert [s["x"].min() >= 0 for s in first[:4]] == [False, False, False, True]
    # neighbours resemble each other in natural images, in white noise they do not
    likeness = [float(np.corrcoef(s["x"][0, 0, :, 1:].ravel(), s["x"][0, 0, :, :-1].ravel())[0, 1]) for s in first[:2]]
    assert likeness[0] > 0.8 and abs(likeness[1]) < 0.1


def test_integer_inputs_index_their_table_and_masks_are_ones() -> None:
    model = build(
        "e = Gather(t, ids) m = Cast<to=1>(mask) o = Unsqueeze(m, two) y = Mul(e, o)",
        "int64[n,s] ids, int64[n,s] mask",
        "float[a,b,c] y",
        t=weights(50, 8),
        two=np.array([2]),
    )
    for sample in itertools.islice(made_up_samples(model, 0)(), 3):
        assert sample["ids"].shape == sample["mask"].shape == (1, 64)
        assert sample["ids"].min() >= 0 and 10 < sample["ids"].max() < 50
        assert (sample["mask"] == 1).all()


def test_what_cannot_be_made_up_is_named() -> None:
    model = build("y = Identity(x)", "string[n] x", "string[n] y")
    with pytest.raises(DataError, match="'x'"):
        next(made_up_samples(model, 0)())
