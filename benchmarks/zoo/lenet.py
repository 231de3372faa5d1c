"""LeNet-5 (LeCun et al. 1998) with its average pooling and tanh, and an ensemble of three small networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.zoo.resnet import Block, conv_bn
from benchmarks.zoo.seeded import seeded

INPUT_SHAPE = (1, 1, 28, 28)
ENSEMBLE_SHAPE = (1, 3, 32, 32)


def build(seed: int = 0) -> nn.Module:
    """LeNet-5 on 28x28 digits, in eval mode."""
    features = [nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh()]
    layers = [nn.AvgPool2d(2), nn.Flatten(), nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh()]
    return seeded(nn.Sequential(*features, *layers, nn.Linear(84, 10)), INPUT_SHAPE, seed)


class Ensemble(nn.Module):
    """The mean of what its members hold for the probabilities of the classes."""

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([member(x).softmax(1) for member in self.members]).mean(0)


def member(width: int) -> nn.Module:
    """A CIFAR ResNet of eight layers."""
    layers = [conv_bn(3, width, 3), nn.ReLU(), Block(width, width, 1, False), Block(width, 2 * width, 2, False)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, 10)]
    return nn.Sequential(*layers, Block(2 * width, 4 * width, 2, False), *head)


def build_ensemble(seed: int = 0) -> nn.Module:
    """Three residual networks of different width whose probabilities are averaged, in eval mode."""
    return seeded(Ensemble([member(width) for width in (16, 20, 24)]), ENSEMBLE_SHAPE, seed)
