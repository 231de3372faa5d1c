"""A small convolutional network with its gradient, in numpy.

conv3x3(1->16) relu, conv3x3(16->32) relu, maxpool, conv3x3(32->64) relu, maxpool, conv3x3(64->64) relu,
mean over the plane, linear(64->10). All convolutions have stride 1 and zero padding of 1. Activations are
(n, height, width, channels) here, which makes im2col a copy of whole pixels; filters are (out, 3, 3, in).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

Weights = dict[str, np.ndarray]
CHANNELS = (1, 16, 32, 64, 64)
POOL_AFTER = frozenset({2, 3})
CLASSES = 10
SIDE = 16

Backward = Callable[[np.ndarray], np.ndarray]


def initial_weights(generator: np.random.Generator) -> Weights:
    """He-normal weights (He et al. 2015, section 2.2) and zero biases."""
    weights: Weights = {}
    for index, (cin, cout) in enumerate(itertools.pairwise(CHANNELS), start=1):
        scale = np.sqrt(2 / (cin * 9))
        weights[f"conv{index}.weight"] = scale * generator.standard_normal((cout, 3, 3, cin))
        weights[f"conv{index}.bias"] = np.zeros(cout, np.float32)
    scale = np.sqrt(1 / CHANNELS[-1])
    weights["linear.weight"] = scale * generator.standard_normal((CLASSES, CHANNELS[-1]))
    weights["linear.bias"] = np.zeros(CLASSES, np.float32)
    return {name: value.astype(np.float32) for name, value in weights.items()}


def columns(x: np.ndarray) -> np.ndarray:
    """im2col: (n, h, w, c) to the 3x3 neighbourhoods (n * h * w, 9 * c) of every point."""
    n, h, w, c = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return windows.transpose(0, 1, 2, 4, 5, 3).reshape(n * h * w, 9 * c)


def convolve(x: np.ndarray, weight: np.ndarray, cols: np.ndarray | None = None) -> np.ndarray:
    """(n, h, w, c) with (m, 3, 3, c) to (n, h, w, m)."""
    cols = columns(x) if cols is None else cols
    flat: np.ndarray = cols @ weight.reshape(len(weight), -1).T
    return flat.reshape(*x.shape[:3], len(weight))


def forward(weights: Weights, x: np.ndarray) -> tuple[np.ndarray, Callable[[np.ndarray], Weights]]:
    """Logits (n, 10) of images (n, 1, 16, 16), and the function from their gradient to the weights'."""
    x = x.transpose(0, 2, 3, 1)
    gradients: Weights = {}
    tape: list[Backward] = []
    for index in range(1, len(CHANNELS)):
        x = _conv_relu(x, weights, f"conv{index}", gradients, tape)
        if index in POOL_AFTER:
            x = _max_pool(x, tape)
    plane = x.shape[1] * x.shape[2]
    shape = x.shape
    features = x.mean(axis=(1, 2))
    logits = features @ weights["linear.weight"].T + weights["linear.bias"]

    def backward(gradient: np.ndarray) -> Weights:
        gradients["linear.weight"] = gradient.T @ features
        gradients["linear.bias"] = gradient.sum(0)
        upstream = (gradient @ weights["linear.weight"] / plane)[:, None, None, :]
        upstream = np.broadcast_to(upstream, shape)
        for step in reversed(tape):
            upstream = step(upstream)
        return gradients

    return logits, backward


def _conv_relu(x: np.ndarray, weights: Weights, name: str, gradients: Weights, tape: list[Backward]) -> np.ndarray:
    weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    cols = columns(x)
    y = np.maximum(convolve(x, weight, cols) + bias, 0)

    def backward(gradient: np.ndarray) -> np.ndarray:
        gradient = gradient * (y > 0)
        flat = gradient.reshape(-1, len(weight))
        gradients[f"{name}.weight"] = (flat.T @ cols).reshape(weight.shape)
        gradients[f"{name}.bias"] = flat.sum(0)
        if name == "conv1":  # nothing lies before it
            return gradient
        # the gradient of a convolution is the convolution with the flipped filter, channels swapped
        return convolve(gradient, weight.transpose(3, 1, 2, 0)[:, ::-1, ::-1])

    tape.append(backward)
    return y


def _max_pool(x: np.ndarray, tape: list[Backward]) -> np.ndarray:
    n, h, w, c = x.shape
    blocks = x.reshape(n, h // 2, 2, w // 2, 2, c)
    y = blocks.max(axis=(2, 4), keepdims=True)

    def backward(gradient: np.ndarray) -> np.ndarray:
        chosen = blocks == y
        share = chosen / chosen.sum(axis=(2, 4), keepdims=True, dtype=np.float32)
        spread: np.ndarray = (gradient[:, :, None, :, None, :] * share).reshape(x.shape)
        return spread

    tape.append(backward)
    return y[:, :, 0, :, 0]
