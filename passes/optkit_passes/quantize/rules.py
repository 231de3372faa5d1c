"""From a histogram to the range that is worth keeping: percentile, entropy, mean squared error."""

from __future__ import annotations

import numpy as np

from optkit_passes.quantize.histogram import Histogram

Range = tuple[float, float]
"""(low, high) to keep."""

_BINS = 2048
_STEPS = 128


def percentile_range(h: Histogram, percentile: float, symmetric: bool) -> Range:
    """Cuts (100 - percentile) / 2 percent at either end; of |x|, all at the upper end, where symmetric."""
    if symmetric:
        total = np.cumsum(h.magnitudes())
        at = int(np.searchsorted(total, total[-1] * percentile / 100))
        return _within(h, (at + 1) * h.width)
    cut = (100 - percentile) / 200
    return h.quantile(cut), h.quantile(1 - cut)


def entropy_range(h: Histogram, symmetric: bool) -> Range:
    """The threshold on |x| that loses least information: smallest Kullback-Leibler divergence between the
    clipped distribution and its quantized self (Migacz, "8-bit inference with TensorRT", GTC 2017).
    """
    folded = h.magnitudes()
    merge = -(-len(folded) // _BINS)
    folded = np.add.reduceat(folded, np.arange(0, len(folded), merge))
    # zeros are represented exactly whatever the threshold; a ReLU's mass there would drown the rest
    folded[0] = folded[1] if len(folded) > 1 else folded[0]
    levels = 128 if symmetric or h.low < 0 else 256
    if len(folded) <= levels or not folded.any():
        return h.low, h.high
    ends = np.unique(np.linspace(levels, len(folded), _STEPS).round().astype(int))
    losses = [_divergence(folded, int(end), levels) for end in ends]
    return _within(h, int(ends[int(np.argmin(losses))]) * merge * h.width)


def _divergence(counts: np.ndarray, end: int, levels: int) -> float:
    """KL(P || Q), P = counts[:end] with everything beyond added to its last bin, Q = counts[:end] on `levels`."""
    inside = counts[:end]
    p = inside.copy()
    p[-1] += counts[end:].sum()
    starts = (np.arange(levels) * end) // levels
    level = np.searchsorted(starts, np.arange(end), side="right") - 1
    filled = inside > 0
    mass = np.add.reduceat(inside, starts)
    spread = np.add.reduceat(filled.astype(np.float64), starts)
    q = np.where(filled, (mass / np.maximum(spread, 1))[level], 0.0)
    p, q = p / p.sum(), q / max(q.sum(), 1e-300)
    used = p > 0
    return float((p[used] * np.log(p[used] / np.maximum(q[used], 1e-10))).sum())


def mse_range(h: Histogram, symmetric: bool) -> Range:
    """The range with the smallest mean squared error: step^2 / 12 for what is kept, (x - end)^2 for what is cut
    (Sung et al. 2015, "Resiliency of Deep Neural Networks under Quantization"; Banner et al. 2019, "Post training
    4-bit quantization", section 2, for the two terms).
    """
    x, counts = h.centers(), h.counts.astype(np.float64)
    zero = h.zero_bin()
    if zero is not None:
        counts[zero] = 0.0  # zeros are exact whatever the step
    low, high = min(h.low, 0.0), max(h.high, 0.0)
    shares = np.linspace(1 / _STEPS, 1, _STEPS)
    if symmetric:
        limits = max(-low, high) * shares
        loss = counts.sum() * (limits / 127) ** 2 / 12
        loss += _cut(x, counts, limits) + _cut(-x[::-1], counts[::-1], limits)
        return _within(h, float(limits[int(np.argmin(loss))]))
    tops = high * shares if high > 0 else np.zeros(1)
    bottoms = -low * shares if low < 0 else np.zeros(1)
    steps = (tops[None, :] + bottoms[:, None]) / 255
    loss = counts.sum() * steps**2 / 12
    loss = loss + _cut(x, counts, tops)[None, :] + _cut(-x[::-1], counts[::-1], bottoms)[:, None]
    bottom, top = np.unravel_index(int(np.argmin(loss)), loss.shape)
    return max(h.low, -float(bottoms[bottom])), min(h.high, float(tops[top]))


def _cut(x: np.ndarray, counts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Sum of counts * (x - end)^2 over x > end, for every end; x ascends."""
    suffix = [np.append(np.cumsum((counts * x**k)[::-1])[::-1], 0.0) for k in range(3)]
    at = np.searchsorted(x, ends, side="right")
    zeroth, first, second = (s[at] for s in suffix)
    cut: np.ndarray = np.maximum(second - 2 * ends * first + ends**2 * zeroth, 0.0)
    return cut


def _within(h: Histogram, limit: float) -> Range:
    return max(h.low, -limit), min(h.high, limit)
