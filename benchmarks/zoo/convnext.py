"""ConvNeXt-Tiny (Liu et al. 2022): depthwise 7x7, layer norm over channels, an inverted bottleneck, layer scale."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.zoo.seeded import seeded

INPUT_SHAPE = (1, 3, 224, 224)
DIMS, DEPTHS = (96, 192, 384, 768), (3, 3, 9, 3)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of an image."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Block(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(dim, dim, 7, padding=3, groups=dim), nn.LayerNorm(dim, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.scale = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.scale * self.mlp(self.norm(self.depthwise(x).permute(0, 2, 3, 1)))
        return x + y.permute(0, 3, 1, 2)


def build(seed: int = 0, dims: tuple[int, ...] = DIMS, depths: tuple[int, ...] = DEPTHS) -> nn.Module:
    """ConvNeXt-Tiny with seeded weights, in eval mode."""
    layers: list[nn.Module] = [nn.Conv2d(3, dims[0], 4, 4), ChannelNorm(dims[0], eps=1e-6)]
    for stage, (dim, depth) in enumerate(zip(dims, depths, strict=True)):
        if stage:
            layers += [ChannelNorm(dims[stage - 1], eps=1e-6), nn.Conv2d(dims[stage - 1], dim, 2, 2)]
        layers += [Block(dim) for _ in range(depth)]
    head = [nn.AdaptiveAvgPool2d(1), ChannelNorm(dims[-1], eps=1e-6), nn.Flatten(), nn.Linear(dims[-1], 1000)]
    return seeded(nn.Sequential(*layers, *head), INPUT_SHAPE, seed)
