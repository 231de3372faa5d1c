"""The demo's network: its gradient, its ONNX form, and that training learns."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.demo.model import to_onnx
from benchmarks.demo.network import CLASSES, SIDE, forward, initial_weights
from benchmarks.demo.train import Digits, accuracy, softmax, train
from tests.graphs import session


def _images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 1, SIDE, SIDE)).astype(np.float32)


@pytest.mark.parametrize("name", ["conv1.weight", "conv2.weight", "conv3.bias", "conv4.weight", "linear.weight"])
def test_gradient_is_the_finite_difference(name: str) -> None:
    generator = np.random.default_rng(1)
    weights = {key: value.astype(np.float64) for key, value in initial_weights(generator).items()}
    x = _images(3).astype(np.float64)
    seed = generator.standard_normal((3, CLASSES))
    _, backward = forward(weights, x)
    gradient = backward(seed)[name]
    direction = generator.standard_normal(gradient.shape)

    def loss(step: float) -> float:
        moved = {**weights, name: weights[name] + step * direction}
        return float((forward(moved, x)[0] * seed).sum())

    step = 1e-6
    numeric = (loss(step) - loss(-step)) / (2 * step)
    assert (gradient * direction).sum() == pytest.approx(numeric, rel=1e-4)


def test_onnx_gives_the_same_logits() -> None:
    weights = initial_weights(np.random.default_rng(2))
    x = _images(1)
    (got,) = session(to_onnx(weights)).run(None, {"image": x})
    np.testing.assert_allclose(got, forward(weights, x)[0], rtol=1e-4, atol=1e-5)


def test_training_learns_and_repeats() -> None:
    pytest.importorskip("threadpoolctl")
    generator = np.random.default_rng(3)
    labels = generator.integers(0, CLASSES, 192)
    patterns = generator.standard_normal((CLASSES, 1, SIDE, SIDE)).astype(np.float32)
    images = patterns[labels] + 0.1 * generator.standard_normal((192, 1, SIDE, SIDE)).astype(np.float32)
    digits = Digits(images, labels, images[:40], labels[:40])
    first, again = (train(digits, seed=0, report=lambda _line: None) for _ in range(2))
    assert all(np.array_equal(first[key], again[key]) for key in first)
    assert accuracy(lambda image: forward(first, image)[0], digits) > 0.9


def test_softmax_of_large_logits() -> None:
    np.testing.assert_allclose(softmax(np.array([[1000.0, 1000.0]])), [[0.5, 0.5]])
