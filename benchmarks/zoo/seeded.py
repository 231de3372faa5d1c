"""Seeded weights that keep activations in a sane range without any training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

CALIBRATION_BATCH = 4


@torch.no_grad()
def seeded(module: nn.Module, input_shape: tuple[int, ...], seed: int) -> nn.Module:
    """Draw every weight from `seed`, set batch-norm statistics from one random batch, return `module`.

    Convolutions and hidden linear layers are He-normal over the fan-in (He et al. 2015, "Delving Deep into
    Rectifiers", section 2.2), so a network without batch norm keeps its second moments; the classifier (the
    last linear layer or convolution) has unit gain. Scales are near 1 and biases near 0, but not equal to
    them: a compiler that drops one must not pass unnoticed. With batch norm, one batch of standard normal
    images in train mode sets the running statistics.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(parameter: Tensor, std: float, mean: float = 0.0) -> None:
        parameter.copy_(mean + std * torch.randn(parameter.shape, generator=generator))

    products = [m for m in module.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            gain = 1.0 if layer is products[-1] else 2.0
            normal(layer.weight, (gain / layer.weight[0].numel()) ** 0.5)
            if layer.bias is not None:
                normal(layer.bias, 0.1)
        elif isinstance(layer, nn.BatchNorm2d):
            normal(layer.weight, 0.1, mean=1.0)
            # Most units stay on the linear side of their activation. With zero means such a network is chaotic: a
            # rounding difference of 1e-7 grows with every block (Yang et al. 2019, "A Mean Field Theory of Batch
            # Normalization"), which no trained network does and no tolerance can be held against.
            normal(layer.bias, 0.1, mean=1.5)
        elif isinstance(layer, nn.LayerNorm):
            normal(layer.weight, 0.1, mean=1.0)
            normal(layer.bias, 0.1)
    for name, parameter in module.named_parameters():
        if "." not in name:  # class token, position embedding
            normal(parameter, 0.5)

    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    if norms:
        for norm in norms:
            norm.momentum = 1.0
        module.train()
        module(torch.randn(CALIBRATION_BATCH, *input_shape[1:], generator=generator))
    return module.eval()
