"""Inception v3 (Szegedy et al. 2016) without its auxiliary classifier."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.zoo.seeded import seeded

INPUT_SHAPE = (1, 3, 299, 299)
Kernel = int | tuple[int, int]


class Conv(nn.Sequential):
    def __init__(self, cin: int, cout: int, kernel: Kernel, stride: int = 1, *, padded: bool = True) -> None:
        rows, columns = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (rows // 2, columns // 2) if padded else 0
        conv = nn.Conv2d(cin, cout, (rows, columns), stride, padding, bias=False)
        super().__init__(conv, nn.BatchNorm2d(cout, eps=1e-3), nn.ReLU())


class Branches(nn.Module):
    """The outputs of all branches, concatenated."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def chain(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers)


def pooled(cin: int, cout: int) -> nn.Sequential:
    return chain(nn.AvgPool2d(3, 1, 1), Conv(cin, cout, 1))


def block_a(cin: int, pool: int) -> nn.Module:
    """35x35: two 3x3 in place of a 5x5 (figure 5)."""
    return Branches(
        Conv(cin, 64, 1),
        chain(Conv(cin, 48, 1), Conv(48, 64, 5)),
        chain(Conv(cin, 64, 1), Conv(64, 96, 3), Conv(96, 96, 3)),
        pooled(cin, pool),
    )


def block_b(width: int) -> nn.Module:
    """17x17: a 7x7 as 1x7 and 7x1 (figure 6)."""
    row, column = (1, 7), (7, 1)
    return Branches(
        Conv(768, 192, 1),
        chain(Conv(768, width, 1), Conv(width, width, row), Conv(width, 192, column)),
        chain(
            Conv(768, width, 1),
            *(Conv(width, width, k) for k in (column, row, column)),
            Conv(width, 192, row),
        ),
        pooled(768, 192),
    )


def block_c(cin: int) -> nn.Module:
    """8x8: a row and a column side by side (figure 7)."""
    cross = [Branches(Conv(384, 384, (1, 3)), Conv(384, 384, (3, 1))) for _ in range(2)]
    long = chain(Conv(cin, 448, 1), Conv(448, 384, 3), cross[1])
    return Branches(Conv(cin, 320, 1), chain(Conv(cin, 384, 1), cross[0]), long, pooled(cin, 192))


def build(seed: int = 0) -> nn.Module:
    """Inception v3 with seeded weights, in eval mode."""
    stem = [Conv(3, 32, 3, 2, padded=False), Conv(32, 32, 3, padded=False), Conv(32, 64, 3), nn.MaxPool2d(3, 2)]
    stem += [Conv(64, 80, 1), Conv(80, 192, 3, padded=False), nn.MaxPool2d(3, 2)]
    shrink_a = Branches(
        Conv(288, 384, 3, 2, padded=False),
        chain(Conv(288, 64, 1), Conv(64, 96, 3), Conv(96, 96, 3, 2, padded=False)),
        nn.MaxPool2d(3, 2),
    )
    cross = [Conv(192, 192, (1, 7)), Conv(192, 192, (7, 1)), Conv(192, 192, 3, 2, padded=False)]
    shrink_b = Branches(
        chain(Conv(768, 192, 1), Conv(192, 320, 3, 2, padded=False)),
        chain(Conv(768, 192, 1), *cross),
        nn.MaxPool2d(3, 2),
    )
    layers = [*stem, block_a(192, 32), block_a(256, 64), block_a(288, 64), shrink_a]
    layers += [*(block_b(width) for width in (128, 160, 160, 192)), shrink_b, block_c(1280), block_c(2048)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000)]
    return seeded(nn.Sequential(*layers, *head), INPUT_SHAPE, seed)
