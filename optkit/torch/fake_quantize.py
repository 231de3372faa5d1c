"""Rounding to integers and back with a gradient: x -> scale * clip(round(x / scale), low, high).

The gradient of x is that of the identity inside the range and 0 outside. The gradient of the scale is that of Esser
et al., "Learned Step Size Quantization" (ICLR 2020), equation 3: round(v) - v inside, with v = x / scale, and the
reached bound outside, times a factor that balances it against the weights' (section 2.2).
"""

from __future__ import annotations

import math
from typing import Any

import torch

from optkit.torch.recipe import Recipe
from optkit.torch.scales import CENTER, SMALLEST_ACTIVATION, power_of_two, straight_through

LEVELS = 255


def fake_quantize(x: torch.Tensor, scale: torch.Tensor, low: float, high: float, factor: float = 1.0) -> torch.Tensor:
    """Quantized and dequantized `x`.

    Args:
        scale: float32, a scalar or what broadcasts against x.
        low, high: the range of x / scale in whole numbers, zero point subtracted.
        factor: of the scale's gradient.
    """
    answer: torch.Tensor = _FakeQuantize.apply(x, scale, low, high, factor)
    return answer


_EDGE = 1e-3
"""What lies on a bound, as what was clipped there before does, is inside."""


class _FakeQuantize(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: torch.Tensor, low: float, high: float, factor: float) -> torch.Tensor:
        ctx.save_for_backward(x, scale)
        ctx.low, ctx.high, ctx.factor = low, high, factor
        return (x / scale).round_().clamp_(low, high).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,) = grads
        x, scale = ctx.saved_tensors
        v = x / scale
        # the gradient of a clip in one vectorized pass; with comparisons and masks it takes four, none vectorized
        passed = torch.ops.aten.hardtanh_backward(grad, v, ctx.low - _EDGE, ctx.high + _EDGE)
        if not ctx.needs_input_grad[1]:
            return passed, None, None, None, None
        # grad * (q - v) inside and grad * q outside, q the clipped whole number
        step = v.round().clamp_(ctx.low, ctx.high).mul_(grad).addcmul_(passed, v, value=-1.0)
        step = step.sum() if scale.ndim == 0 else step.sum_to_size(scale.shape)
        return passed, step * ctx.factor, None, None, None


def gradient_factor(elements: int, top: int) -> float:
    """1 / sqrt(elements * top), Esser et al. 2020, section 2.2; of one sample, or of one channel's weights."""
    return 1 / math.sqrt(max(elements, 1) * top)


class ActivationQuantizer(torch.nn.Module):  # type: ignore[misc]
    """uint8, one scale and zero point: learned (the zero point stays that of the first range), or observed."""

    scale: torch.Tensor
    zero_point: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    steps: torch.Tensor

    def __init__(self, recipe: Recipe, scale: float, zero_point: int) -> None:
        super().__init__()
        self.recipe = recipe
        first = scale * CENTER if recipe.exact else scale
        if recipe.method == "lsq":
            self.scale = torch.nn.Parameter(torch.tensor(first))
        else:
            self.register_buffer("scale", torch.tensor(scale))
            self.register_buffer("low", torch.tensor(first * -zero_point))
            self.register_buffer("high", torch.tensor(first * (LEVELS - zero_point)))
            self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("zero_point", torch.tensor(float(zero_point)))
        self._low: float | None = None

    @property
    def lowest(self) -> float:
        """Smallest x / scale: minus the zero point. A number, for clipping between tensors is several times slower."""
        if self._low is None or self.recipe.method != "lsq":
            self._low = -float(self.zero_point)
        return self._low

    def step(self) -> torch.Tensor:
        """The scale in use, a float32 scalar."""
        if self.recipe.method != "lsq":
            return self.scale
        scale = self.scale.abs().clamp(min=SMALLEST_ACTIVATION)
        return straight_through(scale, power_of_two(scale.detach())) if self.recipe.exact else scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x as it is after QuantizeLinear and DequantizeLinear; float32, under autocast too."""
        x = x.float()
        if self.training and self.recipe.method == "observer":
            self._observe(x.detach())
        factor = gradient_factor(x[:1].numel() if x.ndim > 1 else x.numel(), LEVELS)
        return fake_quantize(x, self.step(), self.lowest, self.lowest + LEVELS, factor)

    def extra_repr(self) -> str:
        return f"scale={float(self.step()):.6g}, zero_point={int(self.zero_point)}"

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._low = None
        super()._load_from_state_dict(*args, **kwargs)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def _observe(self, x: torch.Tensor) -> None:
        end = self.recipe.freeze_ranges_after
        if end is not None and self.steps >= end:
            return
        self.steps += 1
        low, high = torch.aminmax(x)
        # in place, for buffers that DistributedDataParallel broadcasts
        self.low.lerp_(low.clamp(max=0.0), self.recipe.momentum)
        self.high.lerp_(high.clamp(min=0.0), self.recipe.momentum)
        extent = (self.high - self.low).clamp(min=SMALLEST_ACTIVATION * LEVELS)
        ideal = extent / LEVELS
        scale = power_of_two(ideal) if self.recipe.exact else ideal
        # where the power of two clips, both ends give up the same share
        clipped = torch.round(LEVELS * -self.low / extent)
        whole = torch.round(-self.low / scale).clamp(0, LEVELS)
        self.scale.copy_(scale)
        self.zero_point.copy_(torch.where(extent > LEVELS * scale, clipped, whole))


def step_of(quantizer: ActivationQuantizer) -> torch.Tensor:
    """The scale of a quantizer, as a call in a traced graph; without gradient, for biases do not train scales."""
    return quantizer.step().detach()
