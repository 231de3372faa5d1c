"""Trains the demo's network on scikit-learn's digits; seeded, under half a minute on two cores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.demo.network import CLASSES, SIDE, Weights, forward, initial_weights
from optkit.errors import UsageError

EPOCHS, BATCH, RATE = 12, 64, 2e-3
TEST_SHARE = 0.2


@dataclass(frozen=True)
class Digits:
    """Handwritten digits as images (n, 1, 16, 16) in 0..1 and labels (n,)."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def load_digits(seed: int = 0) -> Digits:
    """The 1797 digits that come with scikit-learn, each pixel doubled, split 80 : 20.

    Raises:
        UsageError: scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise UsageError("the demo's images come with scikit-learn: pip install 'optkit[demo]'") from error
    images, labels = datasets.load_digits(return_X_y=True)
    small = images.reshape(-1, 1, 8, 8).astype(np.float32) / 16
    large = small.repeat(SIDE // 8, axis=2).repeat(SIDE // 8, axis=3)
    order = np.random.default_rng(seed).permutation(len(labels))
    cut = int(len(labels) * TEST_SHARE)
    test, train = order[:cut], order[cut:]
    return Digits(large[train], labels[train], large[test], labels[test])


def train(digits: Digits, seed: int = 0, report: Callable[[str], None] = print) -> Weights:
    """Weights after twelve epochs of Adam (Kingma and Ba 2015) with a linearly falling rate."""
    from threadpoolctl import threadpool_limits  # comes with scikit-learn

    # products this narrow run several times slower when BLAS splits them; one thread also repeats exactly
    with threadpool_limits(1):
        return _train(digits, seed, report)


def _train(digits: Digits, seed: int, report: Callable[[str], None]) -> Weights:
    generator = np.random.default_rng(seed)
    weights = initial_weights(generator)
    first = {name: np.zeros_like(value) for name, value in weights.items()}
    second = {name: np.zeros_like(value) for name, value in weights.items()}
    count = len(digits.train_labels)
    steps = EPOCHS * (count // BATCH)
    step = 0
    for epoch in range(EPOCHS):
        order = generator.permutation(count)
        loss = 0.0
        for start in range(0, count - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            logits, backward = forward(weights, digits.train_images[chosen])
            probabilities = softmax(logits)
            truth = np.eye(CLASSES, dtype=np.float32)[digits.train_labels[chosen]]
            loss -= float((np.log(probabilities + 1e-9) * truth).sum())
            gradients = backward((probabilities - truth) / BATCH)
            step += 1
            rate = RATE * (1 - step / (steps + 1))
            for name, gradient in gradients.items():
                first[name] += 0.1 * (gradient - first[name])
                second[name] += 0.001 * (gradient**2 - second[name])
                mean = first[name] / (1 - 0.9**step)
                variance = second[name] / (1 - 0.999**step)
                weights[name] -= (rate * mean / (np.sqrt(variance) + 1e-8)).astype(np.float32)
        report(f"epoch {epoch + 1:2}/{EPOCHS}: loss {loss / (count // BATCH * BATCH):.4f}")
    return weights


def softmax(logits: np.ndarray) -> np.ndarray:
    """Row-wise, shifted by the row's maximum."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    result: np.ndarray = powers / powers.sum(1, keepdims=True)
    return result


def accuracy(answer: Callable[[np.ndarray], np.ndarray], digits: Digits) -> float:
    """Share of test images whose largest logit is right; `answer` maps (1, 1, 16, 16) to (1, 10)."""
    right = sum(
        int(answer(image[None]).argmax() == label)
        for image, label in zip(digits.test_images, digits.test_labels, strict=True)
    )
    return right / len(digits.test_labels)
