"""Scale and zero point of a tensor from the range it is to keep."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SMALLEST_SCALE = 2.0**-40
"""Below this a range counts as empty; times a weight's smallest scale it is still no denormal float32."""


@dataclass(frozen=True)
class Params:
    """q = clip(round(x / scale) + zero_point), per tensor.

    Attributes:
        scale: float32.
        zero_point: uint8, or int8 and 0 where symmetric.
    """

    scale: np.float32
    zero_point: np.uint8 | np.int8


EXACT_WEIGHT_BITS = 6
"""Significant bits of an exact weight scale: it grows by 3 % at most. Long sums get fewer (weights.exact_bits)."""

POWER_SLACK = 2.0**-0.4
"""A power of two this much below the ideal scale is still taken: it clips the far 24 % of a range at most, where
few values lie, and the alternative is a step nearly twice as coarse (chosen by SQNR on three CIFAR networks)."""


def exact_activation_scale(scale: float) -> float:
    """A power of two near `scale`.

    A product of such a scale and a weight's has as few significant bits as the weight's (exact_weight_scale), so
    float32 holds every partial sum, every rescaled sum and every sum of two activations without rounding: ONNX
    Runtime's float emulation of Q/DQ nodes, its integer kernels and ours agree to the bit, in whatever order they
    add (power-of-two scales: Jacob et al. 2018, section 2.2, and Jain et al. 2020, "Trained Quantization Thresholds").

    >>> exact_activation_scale(0.011), exact_activation_scale(0.01)
    (0.015625, 0.0078125)
    """
    return float(2.0 ** np.ceil(np.log2(scale * POWER_SLACK)))


def exact_weight_scale(scale: np.ndarray, bits: np.ndarray | int = EXACT_WEIGHT_BITS) -> np.ndarray:
    """`scale` rounded up to so many significant bits.

    >>> exact_weight_scale(np.array([0.1, 0.1]), np.array([6, 2])).tolist()
    [0.1015625, 0.125]
    """
    mantissa, exponent = np.frexp(scale)
    steps = 2.0 ** np.asarray(bits)
    rounded: np.ndarray = np.ldexp(np.ceil(mantissa * steps) / steps, exponent)
    return rounded


def nearest_weight_scale(scale: np.ndarray, bits: np.ndarray | int = EXACT_WEIGHT_BITS) -> np.ndarray:
    """`scale` rounded to so many significant bits, for weights of one magnitude, of which a smaller scale clips none.

    >>> nearest_weight_scale(np.array([0.1, 0.11]), np.array([6, 2])).tolist()
    [0.099609375, 0.125]
    """
    mantissa, exponent = np.frexp(scale)
    steps = 2.0 ** np.asarray(bits)
    rounded: np.ndarray = np.ldexp(np.rint(mantissa * steps) / steps, exponent)
    return rounded


def params_of_range(low: float, high: float, symmetric: bool = False, exact: bool = False) -> Params:
    """Parameters that represent [low, high], widened to hold zero, and zero itself exactly.

    Asymmetric: uint8, scale = (high - low) / 255. Symmetric: int8 with zero point 0, scale = max|x| / 127.
    An empty range (a tensor that is all zeros) gives a scale of 1/255, which represents it exactly and
    keeps bias scales that derive from it fine enough. With `exact`, see exact_activation_scale.
    """
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    steps = 127 if symmetric else 255
    extent = max(-low, high) if symmetric else high - low
    largest = float(np.finfo(np.float32).max) / 2
    if extent / steps < SMALLEST_SCALE:
        extent = 1.0 if extent == 0 else SMALLEST_SCALE * steps
    ideal = min(extent / steps, largest)
    scale = np.float32(exact_activation_scale(ideal) if exact else ideal)
    if symmetric:
        return Params(scale, np.int8(0))
    if extent > steps * float(scale):
        # Clipped: both ends give up the same share.
        return Params(scale, np.uint8(round(255 * -low / extent)))
    return Params(scale, np.uint8(min(max(round(-low / float(scale)), 0), 255)))
