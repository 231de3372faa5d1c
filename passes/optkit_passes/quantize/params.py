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


def params_of_range(low: float, high: float, symmetric: bool = False) -> Params:
    """Parameters that represent [low, high], widened to hold zero, and zero itself exactly.

    Asymmetric: uint8, scale = (high - low) / 255. Symmetric: int8 with zero point 0, scale = max|x| / 127.
    An empty range (a tensor that is all zeros) gives a scale of 1/255, which represents it exactly and
    keeps bias scales that derive from it fine enough.
    """
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    steps = 127 if symmetric else 255
    extent = max(-low, high) if symmetric else high - low
    largest = float(np.finfo(np.float32).max) / 2
    if extent / steps < SMALLEST_SCALE:
        low, extent = 0.0, 1.0 if extent == 0 else SMALLEST_SCALE * steps
    scale = np.float32(min(extent / steps, largest))
    if symmetric:
        return Params(scale, np.int8(0))
    return Params(scale, np.uint8(min(max(round(-low / float(scale)), 0), 255)))
