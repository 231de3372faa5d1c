"""Scales that every runtime computes alike, inside training: rounded forward, straight through backward.

The same numbers as the pass `quantize` chooses with its option `exact`: activation scales are powers of two (Jain et
al. 2020, "Trained Quantization Thresholds"), weight scales have few significant bits, so that float32 holds every sum.
"""

from __future__ import annotations

import torch

SLACK = 0.4
"""In powers of two: so much above a power of two a scale is still rounded down to it."""

CENTER = 2.0**-0.1
"""Times a power of two: the middle, in powers, of the scales that are rounded to it; training starts there."""

WEIGHT_BITS = 6
SMALLEST_WEIGHT = 2.0**-80
SMALLEST_ACTIVATION = 2.0**-40
BIAS_LIMIT = 2.0**30
"""Largest bias in steps of its scale: half of what int32 holds."""


def power_of_two(scale: torch.Tensor) -> torch.Tensor:
    """The power of two that stands for `scale`: 2^ceil(log2(scale) - SLACK)."""
    # ldexp, because exp2 of a whole number need not be exact
    return torch.ldexp(torch.ones_like(scale), torch.ceil(torch.log2(scale) - SLACK).int())


def few_bits(scale: torch.Tensor, weight: torch.Tensor, axis: int | None) -> torch.Tensor:
    """`scale` rounded up to so few significant bits that sums of activations times weight / scale are exact.

    Args:
        scale: (channels,), or a scalar where `axis` is None.
        weight: float.
        axis: of the channels.
    """
    q = weight / spread(scale, weight, axis)
    # which axis holds the channels is not told without one
    bits = torch.minimum(*(_sum_bits(q, a).min() for a in (0, q.ndim - 1))) if axis is None else _sum_bits(q, axis)
    mantissa, exponent = torch.frexp(scale)
    steps = torch.exp2(bits)
    return torch.ldexp(torch.ceil(mantissa * steps) / steps, exponent)


def _sum_bits(q: torch.Tensor, axis: int) -> torch.Tensor:
    """What is left of float32's 24 bits by sums of uint8 activations (mean 40, rms 80, six deviations) times `q`."""
    rows = q.movedim(axis, 0).flatten(1)
    reach = 40 * rows.sum(1).abs() + 6 * 80 * rows.square().sum(1).sqrt()
    return (24 - torch.ceil(torch.log2(reach.clamp(min=1.0)))).clamp(3, WEIGHT_BITS)


def spread(scale: torch.Tensor, weight: torch.Tensor, axis: int | None) -> torch.Tensor:
    """A (channels,) tensor as one that broadcasts against `weight`."""
    if axis is None:
        return scale
    shape = [1] * weight.ndim
    shape[axis] = -1
    return scale.view(shape)


def straight_through(value: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
    """`rounded`, with the gradient of `value` (Bengio et al. 2013)."""
    # not value + (rounded - value), which float32 need not round back to `rounded`
    answer: torch.Tensor = _StraightThrough.apply(value, rounded)
    return answer


class _StraightThrough(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(_ctx: object, _value: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
        return rounded.clone()

    @staticmethod
    def backward(_ctx: object, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grads[0], None
