"""ShuffleNetV2 at width 1.0 (Ma et al. 2018): half the channels pass by, then both halves are shuffled."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.zoo.resnet import conv_bn
from benchmarks.zoo.seeded import seeded

INPUT_SHAPE = (1, 3, 224, 224)
STAGES = ((116, 4), (232, 8), (464, 4))


def depthwise_bn(channels: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels))


def shuffle(x: Tensor) -> Tensor:
    """Channels of the two halves in turns."""
    return x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


class Unit(nn.Module):
    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        half = cout // 2
        self.split = stride == 1
        first = half if self.split else cin
        layers = [conv_bn(first, half, 1), nn.ReLU(), depthwise_bn(half, stride), conv_bn(half, half, 1), nn.ReLU()]
        self.branch = nn.Sequential(*layers)
        down = nn.Sequential(depthwise_bn(cin, stride), conv_bn(cin, half, 1), nn.ReLU())
        self.shortcut: nn.Module = nn.Identity() if self.split else down

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1) if self.split else (x, x)
        return shuffle(torch.cat([self.shortcut(left), self.branch(right)], 1))


def build(seed: int = 0) -> nn.Module:
    """ShuffleNetV2 x1.0 with seeded weights, in eval mode."""
    layers: list[nn.Module] = [conv_bn(3, 24, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    channels = 24
    for cout, repeats in STAGES:
        for index in range(repeats):
            layers.append(Unit(channels, cout, 1 if index else 2))
            channels = cout
    layers += [conv_bn(channels, 1024, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1024, 1000)]
    return seeded(nn.Sequential(*layers), INPUT_SHAPE, seed)
