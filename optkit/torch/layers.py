"""Convolutions and linear layers with quantized weights, the batch normalization behind them folded in.

With s = gamma / sqrt(var + eps), the folded weight is W s. While the normalization follows the batches, the layer
computes conv(x, Q(W s) / s) and normalizes that: the weights that are quantized are those of deployment, made with
the running variance, which does not jump from batch to batch (Krishnamoorthi 2018, section 3.2.2). Frozen, or in eval
mode, it computes conv(x, Q(W s)) + beta - mean s, as the exported model does, the bias rounded to int32 like there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from optkit.torch.fake_quantize import fake_quantize, gradient_factor
from optkit.torch.recipe import Recipe
from optkit.torch.scales import BIAS_LIMIT, SMALLEST_WEIGHT, few_bits, spread, straight_through

Product = Callable[[Any, torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]
_SMALLEST_FACTOR = 1e-8


def _convolve(layer: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    answer: torch.Tensor = layer._conv_forward(x, weight, bias)
    return answer


def _linear(_layer: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return functional.linear(x, weight, bias)


def _transposed(function: Callable[..., torch.Tensor]) -> Product:
    def call(layer: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return function(
            x, weight, bias, layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation
        )

    return call


PRODUCTS: dict[type[torch.nn.Module], Product] = {
    torch.nn.Conv1d: _convolve,
    torch.nn.Conv2d: _convolve,
    torch.nn.Conv3d: _convolve,
    torch.nn.Linear: _linear,
    torch.nn.ConvTranspose1d: _transposed(functional.conv_transpose1d),
    torch.nn.ConvTranspose2d: _transposed(functional.conv_transpose2d),
    torch.nn.ConvTranspose3d: _transposed(functional.conv_transpose3d),
}
"""Layers with a weight; exactly these types, for a subclass may compute something else."""

NORMS = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)


class QuantizedLayer(torch.nn.Module):  # type: ignore[misc]
    """A layer of PRODUCTS, and the batch normalization that alone reads it, if any.

    Attributes:
        layer: the user's module, with its parameters.
        norm: the user's batch normalization, or None.
        scale: learned weight scales (channels,), method "lsq".
        share: of the largest weight that is kept, (channels,), method "observer".
        bits: of the weights; 0: float.
    """

    scale: torch.Tensor
    share: torch.Tensor
    steps: torch.Tensor

    def __init__(self, layer: Any, norm: Any, recipe: Recipe) -> None:
        super().__init__()
        self.layer, self.norm, self.recipe, self.bits = layer, norm, recipe, 0
        self.product = PRODUCTS[type(layer)]
        transposed = layer.weight.ndim > 2 and layer.transposed
        grouped = transposed and layer.groups > 1  # axis 1 then holds the channels of one group only
        self.axis: int | None = None if grouped else int(transposed)
        self.frozen = False
        if norm is not None and recipe.freeze_bn_after is not None:
            self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @property
    def top(self) -> int:
        """Largest quantized weight."""
        return int(2 ** (self.bits - 1)) - 1

    def quantize_weights(self, bits: int, scale: torch.Tensor) -> None:
        """Quantize from now on, from these scales: (channels,), or a scalar for a grouped transposed convolution."""
        self.bits = bits
        device = self.layer.weight.device
        if self.recipe.method == "lsq":
            self.scale = torch.nn.Parameter(scale.float().to(device))
            return
        with torch.no_grad():
            largest = self._largest(self.folded()[0])
        share = torch.where(largest > 0, scale.to(device) * self.top / largest.clamp(min=SMALLEST_WEIGHT), 1.0)
        self.register_buffer("share", share.clamp(max=1.0).float())

    def normalizing(self) -> bool:
        """Whether the batch normalization follows the batches in this call."""
        # a user's norm.eval() freezes it, as everywhere
        return self.norm is not None and self.training and not self.frozen and bool(self.norm.training)

    def factor(self) -> torch.Tensor:
        """What folding multiplies each output channel's weights by, (channels,)."""
        norm = self.norm
        factor = torch.rsqrt(norm.running_var + norm.eps)
        if norm.weight is not None:
            factor = factor * norm.weight
        small = factor.abs() < _SMALLEST_FACTOR  # a gamma of 0 could not be divided out again
        return torch.where(small, torch.full_like(factor, _SMALLEST_FACTOR), factor)

    def folded(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Float weight and bias with the normalization in them."""
        weight, bias = self.layer.weight, self.layer.bias
        if self.norm is None:
            return weight, bias
        factor = self.factor()
        offset = self.norm.running_mean if bias is None else self.norm.running_mean - bias
        bias = -offset * factor
        if self.norm.bias is not None:
            bias = bias + self.norm.bias
        return weight * spread(factor, weight, self.axis), bias

    def step(self, weight: torch.Tensor, bias: torch.Tensor | None, input_step: torch.Tensor | None) -> torch.Tensor:
        """Weight scales in use, (channels,) or a scalar, for folded weights and bias."""
        if self.recipe.method == "lsq":
            scale = self.scale.abs()
        else:
            largest = self._largest(weight.detach())
            scale = self.share * largest / self.top
            scale = torch.where(largest > 0, scale, scale.amax() if bool((largest > 0).any()) else 1 / self.top)
        scale = scale.clamp(min=SMALLEST_WEIGHT)
        if bias is not None and input_step is not None:  # so that the bias fits int32
            need = bias.detach().abs() / (input_step * BIAS_LIMIT)
            scale = torch.maximum(scale, need if self.axis is not None else need.max())
        if self.recipe.exact:
            return straight_through(scale, few_bits(scale.detach(), weight.detach(), self.axis))
        return scale

    def quantized(self, input_step: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Weight scales, and weight and bias as the exported model computes with them, in float32.

        Args:
            input_step: scale of the activation, or None where the bias stays float.
        """
        weight, bias = self.folded()
        step = self.step(weight, bias, input_step)
        weight = self._round(weight, step)
        if bias is not None and input_step is not None:
            unit = (input_step * step).detach()
            bias = straight_through(bias, torch.round(bias.detach() / unit) * unit)
        return step, weight, bias

    def forward(self, x: torch.Tensor, input_step: torch.Tensor | None = None) -> torch.Tensor:
        """The layer's output for a quantized `x` whose scale is `input_step`."""
        if self.training and self.norm is not None and self.recipe.freeze_bn_after is not None:
            self.frozen = self.frozen or bool(self.steps >= self.recipe.freeze_bn_after)
            self.steps += 1
        # products of weights are a few thousand numbers, and bfloat16 would move them across rounding thresholds
        with torch.autocast(x.device.type, enabled=False):
            if self.normalizing():
                weight, bias = self.layer.weight, self.layer.bias
                if self.bits:
                    factor = spread(self.factor(), weight, self.axis)
                    folded = weight * factor
                    weight = self._round(folded, self.step(folded, None, None)) / factor
            elif self.bits:
                _, weight, bias = self.quantized(input_step)
            else:
                weight, bias = self.folded()
        y = self.product(self.layer, x, weight, bias)
        return self.norm(y) if self.normalizing() else y

    def extra_repr(self) -> str:
        return f"bits={self.bits}" if self.bits else "float"

    def _largest(self, weight: torch.Tensor) -> torch.Tensor:
        magnitude = weight.abs()
        return magnitude.amax() if self.axis is None else magnitude.movedim(self.axis, 0).flatten(1).amax(1)

    def _round(self, weight: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        elements = weight.numel() // step.numel()
        factor = gradient_factor(elements, self.top)
        return fake_quantize(weight, spread(step, weight, self.axis), -self.top, self.top, factor)


def plain(layer: QuantizedLayer, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.nn.Module:
    """An ordinary layer like the one inside `layer`, with this weight and bias."""
    own = layer.layer
    if isinstance(own, torch.nn.Linear):
        made: Any = torch.nn.Linear(own.in_features, own.out_features, bias is not None)
    else:
        made = type(own)(
            own.in_channels,
            own.out_channels,
            own.kernel_size,
            stride=own.stride,
            padding=own.padding,
            dilation=own.dilation,
            groups=own.groups,
            bias=bias is not None,
            padding_mode=own.padding_mode,
            **({"output_padding": own.output_padding} if own.transposed else {}),
        )
    made.weight = torch.nn.Parameter(weight.detach().clone())
    if bias is not None:
        made.bias = torch.nn.Parameter(bias.detach().clone())
    return made
