"""DenseNet-121 (Huang et al. 2017): every layer sees the outputs of all before it in its block."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.zoo.seeded import seeded

INPUT_SHAPE = (1, 3, 224, 224)
GROWTH = 32
BLOCKS = (6, 12, 24, 16)


def bn_conv(cin: int, cout: int, kernel: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(cin), nn.ReLU(), nn.Conv2d(cin, cout, kernel, padding=kernel // 2, bias=False)]


class Layer(nn.Module):
    def __init__(self, cin: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(*bn_conv(cin, 4 * GROWTH, 1), *bn_conv(4 * GROWTH, GROWTH, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.branch(x)], 1)


def build(seed: int = 0, blocks: tuple[int, ...] = BLOCKS) -> nn.Module:
    """DenseNet-121 with seeded weights, in eval mode."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    layers.append(nn.MaxPool2d(3, 2, 1))
    channels = 64
    for index, count in enumerate(blocks):
        if index:
            layers += [*bn_conv(channels, channels // 2, 1), nn.AvgPool2d(2)]
            channels //= 2
        for _ in range(count):
            layers.append(Layer(channels))
            channels += GROWTH
    layers += [nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000)]
    return seeded(nn.Sequential(*layers), INPUT_SHAPE, seed)
