"""A small network with one layer that eight bits ruin, and its metric."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.cli.conftest import Optkit, optkit
from tests.graphs import proto, weights

__all__ = ["Optkit", "optkit"]

FRAGILE = "node_c"
"""Reads channels of which some are 1000 times larger than the others, and hardly listens to those."""


def network() -> onnx.ModelProto:
    """(1, 3, 16, 16) images to scores of ten classes; five convolutions and a product."""
    kernels = {name: weights(16, 16, 3, 3, seed=i, scale=0.12) for i, name in enumerate("bcde")}
    kernels["b"][:3] *= 1000
    kernels["c"][:, :3] /= 1000
    body = "\n".join(
        f"{y} = Conv <pads = [1, 1, 1, 1]> ({x}, w{y}, v{y}) r{y} = Relu ({y})"
        for x, y in (("x", "a"), ("ra", "b"), ("rb", "c"), ("rc", "d"), ("rd", "e"))
    )
    biases = {f"v{name}": weights(16, seed=9, scale=0.1) * (1000 if name == "b" else 1) for name in "abcde"}
    biases["vb"][3:] /= 1000
    made = proto(
        f"{body} m = GlobalAveragePool (re) f = Flatten (m) y = Gemm (f, wy, vy)",
        inputs="float[1,3,16,16] x",
        outputs="float[1,10] y",
        wa=weights(16, 3, 3, 3, seed=7, scale=0.3),
        **{f"w{name}": kernel for name, kernel in kernels.items()},
        **biases,
        wy=weights(16, 10, seed=8),
        vy=weights(10, seed=6, scale=0.1),
    )
    for node in made.graph.node:
        node.name = f"node_{node.output[0]}"
    return made


@pytest.fixture
def fragile(tmp_path: Path) -> Path:
    """The network as `fragile.onnx`, beside `images.npy`, calibration data."""
    onnx.save(network(), tmp_path / "fragile.onnx")
    np.save(tmp_path / "images.npy", weights(64, 3, 16, 16, seed=11))
    return tmp_path / "fragile.onnx"
