"""Weights as integers of at most 8 bits and biases as int32, symmetric, per channel or per tensor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optkit_passes.quantize.params import EXACT_WEIGHT_BITS, exact_weight_scale, nearest_weight_scale

SMALLEST_SCALE = 2.0**-80
"""A weight's smallest scale: times the smallest activation scale it is still a normal float32."""

RANGES = ("max", "mse")
"""How a weight's range is chosen."""

BIAS_LIMIT = 2**30
"""Largest bias magnitude, half of int32: the other half is for the products it is added to."""


@dataclass(frozen=True)
class QuantizedWeight:
    """w = q * scale.

    Attributes:
        q: int8, the weight's shape; of b bits it lies in [-(2^(b-1) - 1), 2^(b-1) - 1].
        scale: float32, one a channel along `axis`, or a scalar.
        axis: channel axis, None per tensor.
        bias: int32 (channels,), b = bias * input scale * scale; None where there is none.
        widened: channels whose scale was raised so that the bias fits int32.
    """

    q: np.ndarray
    scale: np.ndarray
    axis: int | None
    bias: np.ndarray | None = None
    widened: tuple[int, ...] = ()

    def accumulator_fits(self, channel_axis: int) -> bool:
        """Whether no int32 accumulator can overflow, whatever the input: 255 * sum|q| + |bias| < 2^31."""
        others = tuple(a for a in range(self.q.ndim) if a != channel_axis)
        worst = 255 * np.abs(self.q.astype(np.int64)).sum(axis=others)
        if self.bias is not None and len(self.bias) == len(worst):
            worst = worst + np.abs(self.bias.astype(np.int64))
        return bool((worst < 2**31).all())


def quantize_weight(
    weight: np.ndarray,
    axis: int | None,
    bias: np.ndarray | None = None,
    input_scale: float = 1.0,
    exact: bool = False,
    bits: int = 8,
    method: str = "max",
    given: np.ndarray | None = None,
) -> QuantizedWeight:
    """Symmetric integers: scale = range / (2^(bits-1) - 1) per channel, q = round half to even.

    Binary weights (see `is_binary`) become one step to either side of zero, whatever `bits` is: one bit to store.
    A channel of zeros takes the largest scale of the others (1/127 where all are zero, for 8 bits). Where a bias
    would not fit int32 at scale input_scale * scale, its channel's scale is raised until it does: the
    weights then matter so little beside the bias that nothing is lost.

    Args:
        weight: finite float32.
        axis: channel axis, or None for one scale.
        bias: float (channels,) or None.
        input_scale: scale of the activation that the weight multiplies.
        exact: round scales up to few significant bits, see params.exact_weight_scale.
        bits: 2 to 8.
        method: the range, one of RANGES: "max" keeps all, "mse" clips what costs less than it gains.
        given: scales to take as they are, (channels,) or a scalar like `axis` wants; none is chosen then.
    """
    w = weight.astype(np.float64)
    binary = given is None and axis is not None and is_binary(w, axis)
    top = 1 if binary else 2 ** (bits - 1) - 1
    others = tuple(a for a in range(w.ndim) if a != axis) if axis is not None else None
    largest = np.abs(w).max(axis=others, initial=0.0)
    scale = np.asarray(largest / top)
    scale = np.where(largest > 0, np.maximum(scale, SMALLEST_SCALE), scale.max() if scale.any() else 1 / top)
    if method == "mse":
        scale = _least_error(w, scale, axis, top)
    widened: tuple[int, ...] = ()
    if given is not None:
        scale = given.astype(np.float64)
    elif bias is not None:
        need = np.abs(bias.astype(np.float64)) / (input_scale * BIAS_LIMIT)
        need = need if axis is not None else np.asarray(need.max(initial=0.0))
        widened = tuple(int(c) for c in np.flatnonzero(need > scale))
        scale = np.maximum(scale, need)
    shape = [1] * w.ndim
    if axis is not None:
        shape[axis] = -1
    if exact and given is None:
        exact_scale = nearest_weight_scale if binary else exact_weight_scale
        scale = exact_scale(scale, exact_bits(w / scale.reshape(shape), axis))
    scale = scale.astype(np.float32)
    q = np.clip(np.rint(w / scale.astype(np.float64).reshape(shape)), -top, top).astype(np.int8)
    quantized = None
    if bias is not None:
        steps = bias.astype(np.float64) / bias_scale(scale, input_scale).astype(np.float64)
        quantized = np.clip(np.rint(steps), -(2**31) + 1, 2**31 - 1).astype(np.int32)
    return QuantizedWeight(q, scale, axis, quantized, widened)


def is_binary(w: np.ndarray, axis: int) -> bool:
    """Whether every channel along `axis` holds one magnitude only, with either sign somewhere: no mean filter."""
    rows = np.moveaxis(w, axis, 0).reshape(w.shape[axis], -1)
    if rows.shape[1] < 2 or not ((rows > 0).any() and (rows < 0).any()):
        return False
    sizes = np.abs(rows)
    return bool((sizes == sizes[:, :1]).all())


_SHARES = np.linspace(0.3, 1.0, 71)
"""Of the largest scale, those that are tried: a 3-bit weight's best range is about half its largest value."""


def _least_error(w: np.ndarray, scale: np.ndarray, axis: int | None, top: int) -> np.ndarray:
    """The scale, per channel, with the smallest squared error of the weights, clipping included.

    Choukroun et al., "Low-bit Quantization of Neural Networks for Efficient Inference" (2019), section 3.2.
    """
    rows = w.reshape(1, -1) if axis is None else np.moveaxis(w, axis, 0).reshape(w.shape[axis], -1)
    scales = scale.reshape(-1)
    best, least = scales.copy(), np.full(scales.shape, np.inf)
    for share in _SHARES:
        step = (scales * share)[:, None]
        error = np.square(rows - np.clip(np.rint(rows / step), -top, top) * step).sum(axis=1)
        better = error < least
        best[better], least[better] = scales[better] * share, error[better]
    kept: np.ndarray = np.maximum(best, SMALLEST_SCALE).reshape(scale.shape)
    return kept


def exact_bits(q: np.ndarray, axis: int | None) -> np.ndarray:
    """Significant bits of a scale, per channel, with which float32's 24 hold a sum of activations times `q` exactly.

    The bound, 255 sum|q|, leaves none for long sums, which no input comes near. Taken is what six standard
    deviations of independent uint8 activations with a mean of 40 and a root mean square of 80 reach (a layer after a
    ReLU has less). Fewer than three bits would cost too much accuracy: weights of one sign stay inexact. Per tensor,
    where the channels' axis is not told, it is the first or last one, whichever has the longer sums.
    """
    if axis is None:
        return np.asarray(min(exact_bits(q, a).min() for a in (0, q.ndim - 1)))
    others = tuple(a for a in range(q.ndim) if a != axis)
    reach = 40 * np.abs(q.sum(axis=others)) + 6 * 80 * np.sqrt(np.square(q).sum(axis=others))
    bits = 24 - np.ceil(np.log2(np.maximum(reach, 1.0)))
    found: np.ndarray = np.clip(bits, 3, EXACT_WEIGHT_BITS)
    return found


def bias_scale(weight_scale: np.ndarray, input_scale: float) -> np.ndarray:
    """float32 product, rounded once, as every reader of the model computes it."""
    return np.asarray(np.float32(input_scale) * weight_scale, dtype=np.float32)
