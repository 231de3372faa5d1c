"""Small networks with what quantization has rules for, seeded, their batch statistics away from the initial ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

SIDE = 8


class Residual(nn.Module):
    """conv-bn-relu, a residual sum of two branches, a mean over space, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.fc((self.norm(self.conv(x)) + x).relu().mean((2, 3)))


class Concat(nn.Module):
    """Two branches whose outputs share a scale, then pooling, which passes it on."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 6, 1)
        self.out = nn.Conv2d(10, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        both = torch.cat([self.a(x).relu(), torch.nn.functional.relu6(self.b(x))], 1)
        return self.out(torch.nn.functional.max_pool2d(both, 2))


class Shared(nn.Module):
    """One convolution called twice, with inputs of different scales."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice, self.drop = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1), nn.Dropout()
        self.fc = nn.Linear(6 * SIDE * SIDE, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.twice(self.twice(self.first(x).relu()).relu()).relu()
        return self.fc(self.drop(torch.flatten(x, 1)))


class Perceptron(nn.Module):
    """Linear layers alone."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3 * SIDE * SIDE, 12), nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x.flatten(1)).relu())


MODELS: dict[str, Callable[[], nn.Module]] = {
    "residual": Residual,
    "concat": Concat,
    "shared": Shared,
    "perceptron": Perceptron,
}


def make(name: str) -> Any:
    """The network of that name, in training mode."""
    torch.manual_seed(0)
    module = MODELS[name]()
    with torch.no_grad():
        for _ in range(3):  # batch statistics that are not those of a new layer
            module(images(32, seed=7) * 2 + 0.5)
    return module


def images(count: int, seed: int = 1) -> torch.Tensor:
    """Normal noise (count, 3, SIDE, SIDE)."""
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
