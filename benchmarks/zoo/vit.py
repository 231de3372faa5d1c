"""Vision transformers (Dosovitskiy et al. 2021) with attention spelled out: two matmuls and a softmax."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from benchmarks.zoo.seeded import seeded

INPUT_SHAPE = (1, 3, 224, 224)
TINY_INPUT_SHAPE = (1, 3, 32, 32)


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.out = nn.Linear(dim, dim)

    def split(self, x: Tensor) -> Tensor:
        """(batch, tokens, dim) to (batch, heads, tokens, dim / heads)."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        weights = ((query * self.scale) @ key.transpose(2, 3)).softmax(-1)
        mixed: Tensor = self.out((weights @ value).transpose(1, 2).flatten(2))
        return mixed


class Layer(nn.Module):
    """One pre-norm encoder layer."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(dim, eps=1e-6), Attention(dim, heads)
        self.norm2, self.up = nn.LayerNorm(dim, eps=1e-6), nn.Linear(dim, hidden)
        self.down = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        y: Tensor = self.down(gelu(self.up(self.norm2(x))))
        return x + y


class VisionTransformer(nn.Module):
    def __init__(self, image: int, patch: int, depth: int, dim: int, heads: int, classes: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, dim, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, dim))
        self.position = nn.Parameter(torch.zeros(1, (image // patch) ** 2 + 1, dim))
        self.layers = nn.Sequential(*(Layer(dim, heads, dim * 4) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(dim, eps=1e-6), nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), patches], dim=1)
        y: Tensor = self.head(self.norm(self.layers(tokens + self.position))[:, 0])
        return y


@torch.no_grad()
def scale_residuals(model: VisionTransformer) -> VisionTransformer:
    """Divide what each residual branch adds by the root of their number, so that depth does not add up.

    Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3.
    """
    factor = (2 * len(model.layers)) ** -0.5
    for layer in model.layers:
        for last in (layer.attention.out, layer.down):
            last.weight.mul_(factor)
    return model


def build(seed: int = 0) -> nn.Module:
    """ViT-B/16 at 224x224 with seeded weights, in eval mode."""
    model = VisionTransformer(224, 16, 12, 768, 12, 1000)
    seeded(model, INPUT_SHAPE, seed)
    return scale_residuals(model)


def build_tiny(seed: int = 0) -> nn.Module:
    """A four-layer ViT at 32x32 (64 tokens of 96 channels, 10 classes) for tests, in eval mode."""
    return seeded(VisionTransformer(32, 4, 4, 96, 3, 10), TINY_INPUT_SHAPE, seed)
