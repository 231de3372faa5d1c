"""What random models were reduced to when they showed a fault: compiled, which compares each with ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

import optkit
from tests.graphs import proto, weights


@dataclass(frozen=True)
class Found:
    """A model as text, and the pipeline and target it failed with."""

    name: str
    body: str
    inputs: str
    outputs: str
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    target: str = "cpu"
    passes: str | None = None

    def compile(self, folder: Path) -> optkit.Artifact:
        """The artifact."""
        model = proto(self.body, self.inputs, self.outputs, opset=21, **self.constants)
        return optkit.compile(model, output=folder / "m.optk", target=self.target, passes=self.passes)


FOUND = [
    Found(
        "normalized groups of open images",
        "y = GroupNormalization<num_groups=2>(x, s, t)",
        "float[n,8,h,w] x",
        "float[n,8,h,w] y",
        {"s": weights(8), "t": weights(8, seed=1)},
    ),
    Found(
        "kernels with two outputs whose extents are given as numbers",
        """a = Conv<strides=[3,3], pads=[2,2,1,2]>(x, w) b = Unsqueeze(a, k) c = Softmax<axis=2>(b)
        y, z = Split<axis=1>(c, p)""",
        "float[3,4,h,w] x",
        "float[3,5,1,a,b] y, float[3,7,1,a,b] z",
        {"w": weights(12, 4, 3, 3), "k": np.array([2]), "p": np.array([5, 7])},
    ),
    Found(
        "a slice of an image that is resized by a table and read twice",
        """a = Slice(x, b, e, k)
        r = Resize<mode="nearest", coordinate_transformation_mode="pytorch_half_pixel", nearest_mode="floor">(a, , s)
        y = Max(r, r)""",
        "float[2,3,16,13] x",
        "float[2,3,32,8] y",
        {"b": np.array([3]), "e": np.array([7]), "k": np.array([3]), "s": np.array([1, 1, 2, 2], np.float32)},
    ),
    *[
        Found(
            f"a part to the power of {power}",
            "q = Abs(x) a, y = Split<axis=0>(q, p) z = Pow(y, e)",
            "float[3,4,5,5] x",
            "float[2,4,5,5] y, float[2,4,5,5] z",
            {"p": np.array([1, 2]), "e": np.float32(power)},
        )
        for power in (0.5, 2, 3, 2.5)
    ],
]


@pytest.mark.parametrize("found", FOUND, ids=lambda found: found.name)
def test_it_is_right_now(found: Found, tmp_path: Path) -> None:
    assert found.compile(tmp_path).manifest.verification["status"] == "passed"
