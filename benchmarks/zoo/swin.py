"""Swin-T (Liu et al. 2021): attention inside windows, which every second layer shifts by half a window."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from benchmarks.zoo.seeded import seeded
from benchmarks.zoo.transformer import Attention

INPUT_SHAPE = (1, 3, 224, 224)
TINY_SHAPE = (1, 3, 32, 32)


def relative_places(window: int) -> Tensor:
    """Row of the bias table for each pair of tokens of a window."""
    places = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
    difference = places[:, :, None] - places[:, None] + window - 1
    return difference[0] * (2 * window - 1) + difference[1]


def shift_mask(side: int, window: int, shift: int) -> Tensor:
    """Large negative numbers between tokens that the shift brought together from opposite borders."""
    region = torch.zeros(side)
    region[-window:-shift], region[-shift:] = 1, 2
    regions = region[:, None] * 3 + region
    tokens = regions.unflatten(0, (-1, window)).unflatten(2, (-1, window)).transpose(1, 2).flatten(0, 1).flatten(1)
    return torch.where(tokens[:, None] == tokens[:, :, None], 0.0, -100.0)[:, None]


class WindowAttention(Attention):
    def __init__(self, dim: int, heads: int, side: int, window: int, shift: int) -> None:
        super().__init__(dim, heads)
        self.window, self.shift = window, shift
        self.table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("places", relative_places(window), persistent=False)
        self.register_buffer("mask", shift_mask(side, window, shift) if shift else None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        n = self.window
        x = x.roll((-self.shift, -self.shift), (1, 2)) if self.shift else x
        x = x.unflatten(1, (height // n, n)).unflatten(3, (width // n, n)).transpose(2, 3)
        tokens = x.flatten(0, 2).flatten(1, 2)
        bias = self.table[self.places.flatten()].unflatten(0, (n * n, n * n)).permute(2, 0, 1)[None]
        bias = bias if self.mask is None else bias + self.mask.repeat(batch, 1, 1, 1)
        query, key, value = self.query(tokens), self.key(tokens), self.value(tokens)
        tokens = self.mix(self.split(query), self.split(key), self.split(value), bias)
        x = tokens.unflatten(1, (n, n)).unflatten(0, (batch, height // n, width // n)).transpose(2, 3)
        x = x.flatten(1, 2).flatten(2, 3)
        return x.roll((self.shift, self.shift), (1, 2)) if self.shift else x


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, side: int, window: int, shift: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(dim), WindowAttention(dim, heads, side, window, shift)
        self.norm2, self.up, self.down = nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        y: Tensor = self.down(gelu(self.up(self.norm2(x))))
        return x + y


class Merge(nn.Module):
    """Four neighbours become one token of twice the channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm, self.reduce = nn.LayerNorm(4 * dim), nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        corners = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]
        y: Tensor = self.reduce(self.norm(torch.cat(corners, -1)))
        return y


class Swin(nn.Module):
    def __init__(self, image: int, depths: tuple[int, ...], dim: int, heads: tuple[int, ...], window: int) -> None:
        super().__init__()
        self.embed, self.norm = nn.Conv2d(3, dim, 4, 4), nn.LayerNorm(dim)
        side = image // 4
        layers: list[nn.Module] = []
        for stage, (depth, count) in enumerate(zip(depths, heads, strict=True)):
            if stage:
                layers.append(Merge(dim))
                dim, side = 2 * dim, side // 2
            for index in range(depth):
                shift = window // 2 if index % 2 and side > window else 0
                layers.append(Block(dim, count, side, window, shift))
        self.layers = nn.Sequential(*layers)
        self.last, self.head = nn.LayerNorm(dim), nn.Linear(dim, 1000)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.last(self.layers(self.norm(self.embed(x).permute(0, 2, 3, 1))))
        y: Tensor = self.head(tokens.mean((1, 2)))
        return y


@torch.no_grad()
def scale_residuals(model: Swin) -> Swin:
    """Divide what each residual branch adds by the root of their number; see `vit.scale_residuals`."""
    blocks = [layer for layer in model.layers if isinstance(layer, Block)]
    for block in blocks:
        for last in (block.attention.out, block.down):
            last.weight.mul_((2 * len(blocks)) ** -0.5)
    return model


def build(seed: int = 0) -> nn.Module:
    """Swin-T with seeded weights, in eval mode."""
    model = Swin(224, (2, 2, 6, 2), 96, (3, 6, 12, 24), 7)
    seeded(model, INPUT_SHAPE, seed)
    return scale_residuals(model)


def build_tiny(seed: int = 0) -> nn.Module:
    """Two stages with windows of four tokens on 32x32 images, for tests, in eval mode."""
    model = Swin(32, (2, 2), 32, (2, 4), 4)
    seeded(model, TINY_SHAPE, seed)
    return scale_residuals(model)
