"""Seeded weights that keep activations in a sane range without any training."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

CALIBRATION_BATCH = 4
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

Inputs = tuple[int, ...] | Callable[[torch.Generator], tuple[Tensor, ...]]
"""The shape of the one input, or what draws all inputs for a batch."""


def fan_in(layer: nn.Module) -> float:
    """How many products are summed for one output element."""
    weight = layer.weight
    if isinstance(layer, TRANSPOSED):
        # (in, out / groups, k...): every output element sees 1 / stride of the taps along each axis
        return weight[:, 0].numel() / layer.groups / math.prod(layer.stride)
    return weight[0].numel()


@torch.no_grad()
def seeded(module: nn.Module, inputs: Inputs, seed: int) -> nn.Module:
    """Draw every weight from `seed`, set batch-norm statistics from one random batch, return `module`.

    Convolutions and hidden linear layers are He-normal over the fan-in (He et al. 2015, "Delving Deep into
    Rectifiers", section 2.2), so a network without batch norm keeps its second moments; the classifier (the
    last linear layer or convolution) and recurrent weights have unit gain. Scales are near 1 and biases near 0,
    but not equal to them: a compiler that drops one must not pass unnoticed. With batch norm, one batch of
    standard normal images in train mode sets the running statistics.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(parameter: Tensor, std: float, mean: float = 0.0) -> None:
        parameter.copy_(mean + std * torch.randn(parameter.shape, generator=generator))

    products = [m for m in module.modules() if isinstance(m, (*CONVOLUTIONS, *TRANSPOSED, nn.Linear))]
    for layer in module.modules():
        if isinstance(layer, (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)):
            gain = 1.0 if layer is products[-1] else 2.0
            normal(layer.weight, (gain / fan_in(layer)) ** 0.5)
            if layer.bias is not None:
                normal(layer.bias, 0.1)
        elif isinstance(layer, BATCH_NORMS):
            normal(layer.weight, 0.1, mean=1.0)
            # Most units stay on the linear side of their activation. With zero means such a network is chaotic: a
            # rounding difference of 1e-7 grows with every block (Yang et al. 2019, "A Mean Field Theory of Batch
            # Normalization"), which no trained network does and no tolerance can be held against.
            normal(layer.bias, 0.1, mean=1.5)
        elif isinstance(layer, nn.LayerNorm):
            normal(layer.weight, 0.1, mean=1.0)
            normal(layer.bias, 0.1)
        elif isinstance(layer, nn.RNNBase):
            for name, parameter in layer.named_parameters():
                normal(parameter, layer.hidden_size**-0.5 if name.startswith("weight") else 0.1)
        elif isinstance(layer, nn.Embedding):
            normal(layer.weight, 0.5)
        elif isinstance(layer, nn.PReLU):
            normal(layer.weight, 0.05, mean=0.25)
    for owner in module.modules():
        if not type(owner).__module__.startswith("torch."):  # class token, position embedding, layer scale
            for parameter in owner.parameters(recurse=False):
                normal(parameter, 0.5)

    norms = [m for m in module.modules() if isinstance(m, BATCH_NORMS)]
    if norms:
        for norm in norms:
            norm.momentum = 1.0
        module.train()
        if callable(inputs):
            module(*inputs(generator))
        else:
            module(torch.randn(CALIBRATION_BATCH, *inputs[1:], generator=generator))
    return module.eval()


@torch.no_grad()
def standardize(module: nn.Module, heads: list[nn.Module], inputs: tuple[int, ...], mean: float, std: float) -> None:
    """Scale the `heads` (convolutions, linear layers) so that what they answer has this mean and deviation.

    A detector's class scores are rare events; with plain random weights every anchor would be an object.
    """
    seen: dict[nn.Module, Tensor] = {}
    hooks = [head.register_forward_hook(lambda head, _given, out: seen.update({head: out})) for head in heads]
    module(torch.randn(1, *inputs[1:], generator=torch.Generator().manual_seed(1)))
    for hook in hooks:
        hook.remove()
    for head, answer in seen.items():
        scale = std / answer.std()
        head.weight.mul_(scale)
        head.bias.sub_(answer.mean()).mul_(scale).add_(mean)
