"""Pad by known numbers: every mode, of images in blocks and plain, of known and open size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import optkit
from optkit.artifact.reader import read_kernels
from tests.graphs import proto, session, weights


@pytest.mark.parametrize("size", ["7,9", "h,v"])
@pytest.mark.parametrize(
    ("mode", "value"), [("reflect", 0.0), ("edge", 0.0), ("wrap", 0.0), ("constant", 0.0), ("constant", -1.5)]
)
@pytest.mark.parametrize("channels", [16, 21])
def test_images_between_convolutions(mode: str, value: float, channels: int, size: str, tmp_path: Path) -> None:
    model = proto(
        f'a = Conv(x, w) b = Sigmoid(a) c = Pad<mode="{mode}">(b, p, f) y = Conv(c, v) z = Pad<mode="{mode}">(x, q, f)',
        f"float[2,3,{size}] x",
        "float[2,8,a,b] y, float[2,3,c,d] z",
        opset=19,
        w=weights(channels, 3, 1, 1),
        v=weights(8, channels, 3, 3, scale=0.1),
        p=np.array([0, 0, 2, 1, 0, 0, 0, 3]),
        q=np.array([0, 0, 1, 0, 0, 0, 2, 2]),
        f=np.float32(value),
    )
    made = optkit.compile(model, output=tmp_path / "m.optk")
    assert "padding" not in {kernel["name"] for kernel in read_kernels(made.path)}
    reference = session(model)
    with optkit.load(made.path) as runner:
        for h, v in [(7, 9), *([(24, 5), (4, 31)] if "h" in size else [])]:
            x = np.random.default_rng(h).standard_normal((2, 3, h, v)).astype(np.float32)
            for name, expected in zip("yz", reference.run(None, {"x": x}), strict=True):
                np.testing.assert_allclose(runner(x)[name], expected, rtol=1e-4, atol=1e-5)


def test_an_infinite_border_stays_out_of_what_is_past_the_last_channel(tmp_path: Path) -> None:
    model = proto(
        "a = Conv(x, w) c = Pad(a, p, f) d = MaxPool<kernel_shape=[3,3], strides=[2,2]>(c) y = Conv(d, v)",
        "float[1,3,8,8] x",
        "float[1,8,4,4] y",
        w=weights(21, 3, 1, 1),
        v=weights(8, 21, 1, 1),
        p=np.array([0, 0, 0, 0, 0, 0, 1, 1]),
        f=np.float32(-np.inf),
    )
    assert optkit.compile(model, output=tmp_path / "m.optk").manifest.verification["status"] == "passed"
