"""Means of quantized values, which often lie half-way between two integers: bit for bit as in ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

from tests.compiler.bundle import Bundle


@pytest.mark.parametrize("target", ["cpu", "x86-64-v3"])
def test_means_of_quantized_images_round_ties_as_the_reference(target: str) -> None:
    b = Bundle()
    scale, zero = b.const(np.float32(0.25)), b.const(np.uint8(37))
    for height, width in ((6, 80), (7, 7), (5, 3), (1, 6)):
        levels = np.random.default_rng(height).integers(0, 256, (2, 33, height, width)).astype(np.uint8)
        levels[:, :, 0, 0] = 0
        image = b.op("DequantizeLinear", b.input(*levels.shape, values=levels, dtype="uint8"), scale, zero)
        space = b.const(np.array([2, 3]))
        pools = {
            "global": b.op("GlobalAveragePool", image),
            "reduced": b.op("ReduceMean", image, space),
            "columns": b.op("AveragePool", image, kernel_shape=[1, 3], strides=[1, 3]),
            "border": b.op("AveragePool", image, kernel_shape=[1, 3], pads=[0, 1, 0, 1]),
        }
        for name, mean in pools.items():
            b.case(b.op("QuantizeLinear", mean, b.const(np.float32(0.5)), zero), f"{name} {height}x{width}")
            b.case(mean, f"{name} {height}x{width}, real")
    b.check_bits(target)
