"""The automatic choice: each tensor takes the candidate range with the least quantization error."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from optkit_passes.quantize.histogram import Histogram
from optkit_passes.quantize.params import Params, params_of_range
from optkit_passes.quantize.rules import Range, entropy_range, mse_range, percentile_range


def candidates(h: Histogram, percentile: float, symmetric: bool) -> dict[str, Range]:
    """Ranges by method, the widest first: of equal errors the first counts, so nothing is cut for nothing."""
    return {
        "minmax": (h.low, h.high),
        "percentile": percentile_range(h, percentile, symmetric),
        "entropy": entropy_range(h, symmetric),
        "mse": mse_range(h, symmetric),
    }


def choose(h: Histogram, ranges: Mapping[str, Range], symmetric: bool, exact: bool) -> str:
    """The method whose range has the least `quantization_error` with the parameters that it really leads to.

    Why that error: to first order, what a layer's output loses grows with the squared error of its input (Nagel et
    al. 2021, "A White Paper on Neural Network Quantization", section 3.1, which advises it for activations), and it
    is one scale for all candidates, each of which minimizes something else. Why the rounded parameters: with `exact`
    the scale becomes a power of two, which moves the ends of a range by up to a third; what the range promised
    before that says little.
    """
    errors = {
        name: quantization_error(h, params_of_range(*kept, symmetric=symmetric, exact=exact))
        for name, kept in ranges.items()
    }
    return min(errors, key=lambda name: errors[name])  # the first of equals


def quantization_error(h: Histogram, params: Params) -> float:
    """Mean of (x - dequantize(quantize(x)))^2 over the values of `h`, which spread evenly inside each bin.

    Inside the representable range, with step s, the antiderivative of (x - s round(x / s))^2 is n s^3 / 12 + r^3 / 3,
    n = round(x / s), r = x - n s; beyond an end e it is (x - e)^3 / 3. So every bin's error is exact for any ratio of
    its width and the step. The bin at zero counts as zeros, which are exact: a ReLU's mass lies there.
    """
    total = int(h.counts.sum())
    if total == 0:
        return 0.0
    info = np.iinfo(params.zero_point.dtype)
    step, zero = float(params.scale), int(params.zero_point)
    lowest, highest = (info.min - zero) * step, (info.max - zero) * step
    edges = h.edges()
    inside = np.clip(edges, lowest, highest)
    whole = np.rint(inside / step)
    antiderivative = whole * (step**3 / 12) + (inside - whole * step) ** 3 / 3
    outside = (edges - inside) ** 3 / 3
    width = np.diff(edges)
    # A bin of no width holds one value only; so does, nearly, one that rounding has left narrower than float64 tells.
    point = width <= 1e-9 * h.width
    at = (edges[:-1] + edges[1:]) / 2
    kept = np.clip(np.rint(at / step) * step, lowest, highest)
    spread = (np.diff(antiderivative) + np.diff(outside)) / np.where(point, 1.0, width)
    error = np.where(point, (at - kept) ** 2, np.maximum(spread, 0.0)) * h.counts
    position = h.zero_bin()
    if position is not None:
        error[position] = 0.0
    return float(error.sum()) / total
