"""Which way to round a weight so that the layer's outputs change least, not the weight.

With the moments of its inputs the error of a row v of the rounded weight is v H v - 2 v t + const, t = C w: a quadratic
form, exact for any amount of data. Three ways to make it small over v = scale * integers, batched over groups:
`relax` (AdaRound's continuous relaxation), `descend` (one integer after the other), `fit_scale` (the scale, given the
integers).
"""

from __future__ import annotations

import numpy as np

_LOW, _HIGH = -0.1, 1.1
"""Ends of the stretched sigmoid (Louizos et al. 2018), with which a variable reaches 0 and 1."""
_RATE = 1e-2
_BETAS = (20.0, 2.0)
_WARM = 0.2
"""Share of the steps before which nothing is pushed to 0 or 1."""
_PUSH = 0.01
_BLOCK = 64
"""Columns after which what they changed is told to all others, in one product (as in GPTQ, Frantar et al. 2022)."""


def objective(v: np.ndarray, gram: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(g, o): v H v - 2 v t, the error of each output but for a constant."""
    found: np.ndarray = ((v @ gram) * v).sum(axis=-1) - 2 * (v * target).sum(axis=-1)
    return found


def descend(
    q: np.ndarray, scale: np.ndarray, gram: np.ndarray, target: np.ndarray, top: int, sweeps: int = 8
) -> np.ndarray:
    """Coordinate descent: each integer in turn takes its best value, the others given (QuantEase, Behdin et al. 2023).

    Args:
        q: (g, o, k) integers to start from.
        scale: (g, o, 1).
        gram: (g, k, k).
        target: (g, o, k).
        top: largest magnitude of an integer.
        sweeps: rounds over all columns, fewer where nothing changes.

    Returns:
        (g, o, k) integers; the objective is never larger than at the start.
    """
    q = q.astype(np.float64)
    slack = target - (scale * q) @ gram  # minus half the gradient
    diagonal = np.einsum("gkk->gk", gram)
    # an input that is always the same, or zero, says nothing about its weight
    alive = diagonal > 1e-9 * diagonal.max(axis=1, keepdims=True, initial=1e-300)
    width = np.where(alive, diagonal, np.inf)[:, None, :] * scale
    for _ in range(sweeps):
        changed = False
        for start in range(0, q.shape[2], _BLOCK):
            block = slice(start, start + _BLOCK)
            near, inner = slack[..., block].copy(), gram[:, block, block]
            steps = np.zeros_like(near)
            for k in range(near.shape[2]):
                now = q[..., start + k]
                steps[..., k] = np.clip(np.rint(now + near[..., k] / width[..., start + k]), -top, top) - now
                if steps[..., k].any():
                    near -= (steps[..., k] * scale[..., 0])[..., None] * inner[:, None, k, :]
            if steps.any():
                changed = True
                q[..., block] += steps
                slack -= (scale * steps) @ gram[:, block, :]
        if not changed:
            break
    return q


def relax(
    w: np.ndarray,
    scale: np.ndarray,
    gram: np.ndarray,
    target: np.ndarray,
    top: int,
    steps: int,
) -> np.ndarray:
    """AdaRound (Nagel et al. 2020, "Up or Down?", section 3.2): each weight goes to one of its two neighbours.

    The choice is a rectified sigmoid h(V), found by Adam on the error plus the push sum(1 - |2h - 1|^beta) whose beta
    falls from 20 to 2. Gradients come from the moments of all data, not from batches.

    Args and returns as for `descend`, with `w` the float weight in place of `q`.
    """
    floor = np.floor(w / scale)
    part = np.clip(w / scale - floor, 1e-4, 1 - 1e-4)
    ratio = (part - _LOW) / (_HIGH - _LOW)
    V = np.log(ratio / (1 - ratio))
    # in units of what a step of rounding does to an output
    unit = np.maximum(np.einsum("gkk->gk", gram).mean(axis=1), 1e-30)[:, None, None] * scale**2
    first, second = np.zeros_like(V), np.zeros_like(V)
    for step in range(1, steps + 1):
        sigmoid = 1 / (1 + np.exp(-V))
        h = np.clip(sigmoid * (_HIGH - _LOW) + _LOW, 0, 1)
        inside = (h > 0) & (h < 1)
        q = np.clip(floor + h, -top, top)
        gradient = 2 * ((scale * q) @ gram - target) * scale / unit
        done = (step / steps - _WARM) / (1 - _WARM)
        if done > 0:
            beta = _BETAS[1] + (_BETAS[0] - _BETAS[1]) * 0.5 * (1 + np.cos(np.pi * done))
            centre = 2 * h - 1
            gradient = gradient - _PUSH * 2 * beta * np.abs(centre) ** (beta - 1) * np.sign(centre)
        gradient = gradient * inside * sigmoid * (1 - sigmoid) * (_HIGH - _LOW)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        V = V - _RATE * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    h = np.clip((_HIGH - _LOW) / (1 + np.exp(-V)) + _LOW, 0, 1)
    rounded: np.ndarray = np.clip(floor + (h >= 0.5), -top, top)
    return rounded


def fit_scale(q: np.ndarray, scale: np.ndarray, gram: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(g, o, 1): the scale with which these integers come closest; as it was where they are zero or it would turn."""
    square = ((q @ gram) * q).sum(axis=-1, keepdims=True)
    best = (q * target).sum(axis=-1, keepdims=True) / np.where(square > 0, square, np.inf)
    return np.where(best > 0.1 * scale, best, scale)
