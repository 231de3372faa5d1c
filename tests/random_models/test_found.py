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
    Found(
        "a power by a half where the lanes past the last channel are negative",
        "a = Conv(x, w) b = Abs(a) c = Add(b, two) d = Sub(c, one) e = Pow(d, h) y = Conv(e, v)",
        "float[1,3,8,8] x",
        "float[1,8,8,8] y",
        {
            "w": weights(21, 3, 1, 1),
            "v": weights(8, 21, 1, 1),
            "two": np.full((1, 21, 1, 1), 2, np.float32),
            "one": np.float32(1),
            "h": np.float32(0.5),
        },
    ),
    Found(
        "channels of a block, backwards, twice",
        "c = Conv(x, w) d = Slice(c, b, e, a, s) y = Concat<axis=1>(d, d)",
        "float[3,1,7,1] x",
        "float[1,16,7,1] y",
        {
            "w": weights(16, 1, 1, 1),
            "b": np.array([-1, 9]),
            "e": np.array([2**63 - 1, 1]),
            "a": np.array([0, 1]),
            "s": np.array([1, -1]),
        },
    ),
    Found(
        "a pool that leaves open extents as they are, and what has them",
        "a = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(x) y = Mean(a, x)",
        "float[n,3,h,w] x",
        "float[n,3,h,w] y",
    ),
    Found(
        "backwards from the last element to as far before the first as int64 has numbers",
        "y = Slice(x, b, e, k, s)",
        "float[n,3,h] x",
        "float[n,3,a] y",
        {"b": np.array([-1]), "e": np.array([1 - 2**63]), "k": np.array([2]), "s": np.array([-1])},
    ),
    Found(
        "a number out of a shape that ONNX does not infer",
        """v = GroupNormalization<num_groups=2>(x, s, t) a = Shape(v) b = Gather(a, i) c = Unsqueeze(b, z)
        d = Concat<axis=0>(c, k) y = Reshape(v, d)""",
        "float[3,8,9,9] x",
        "float[3,648] y",
        {"s": weights(8), "t": weights(8), "i": np.int64(0), "z": np.array([0]), "k": np.array([-1])},
    ),
    Found(
        "rows of twice as many elements as a quotient, and some",
        "a = Conv<strides=[3,3]>(x, w) b = ConvTranspose<strides=[2,2]>(a, v) c = Min(b, b) y = Softmax<axis=-1>(c)",
        "float[n,3,h,w] x",
        "float[n,16,p,q] y",
        {"w": weights(40, 3, 4, 4), "v": weights(40, 16, 3, 3)},
        target="cuda:sm_90",
        passes="fp16",
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


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(found, id=found.name, marks=[pytest.mark.needs_nvcc] if found.target.startswith("cuda") else [])
        for found in FOUND
    ],
)
def test_it_is_right_now(found: Found, tmp_path: Path) -> None:
    status = found.compile(tmp_path).manifest.verification["status"]
    # Without a GPU its code is compiled and not run.
    assert status == "passed" or (status == "not_run" and found.target.startswith("cuda"))
