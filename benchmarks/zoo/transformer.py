"""A BERT encoder (Devlin et al. 2019; sizes of Turc et al. 2019) and a GPT-2 block with a key-value cache."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from benchmarks.zoo.seeded import seeded

WORDS, LENGTH = 30522, 128
GPT_DIM, GPT_HEADS, GPT_PAST = 768, 12, 63


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.out = nn.Linear(dim, dim)

    def split(self, x: Tensor) -> Tensor:
        """(batch, tokens, dim) to (batch, heads, tokens, dim / heads)."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def mix(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        scores = query * self.scale @ key.transpose(2, 3)
        weights = (scores if mask is None else scores + mask).softmax(-1)
        mixed: Tensor = self.out((weights @ value).transpose(1, 2).flatten(2))
        return mixed


class Encoder(nn.Module):
    """One post-norm layer."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention, self.norm1 = Attention(dim, heads), nn.LayerNorm(dim, eps=1e-12)
        self.up, self.down, self.norm2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim), nn.LayerNorm(dim, eps=1e-12)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        a = self.attention
        x = self.norm1(x + a.mix(a.split(a.query(x)), a.split(a.key(x)), a.split(a.value(x)), mask))
        y: Tensor = self.norm2(x + self.down(gelu(self.up(x))))
        return y


class Bert(nn.Module):
    """Embeddings, encoder and pooler; masked tokens are seen by nobody."""

    def __init__(self, dim: int, depth: int, heads: int, words: int = WORDS, length: int = 512) -> None:
        super().__init__()
        self.words, self.places, self.kinds = nn.Embedding(words, dim), nn.Embedding(length, dim), nn.Embedding(2, dim)
        self.norm = nn.LayerNorm(dim, eps=1e-12)
        self.layers = nn.ModuleList(Encoder(dim, heads) for _ in range(depth))
        self.pool = nn.Linear(dim, dim)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> tuple[Tensor, Tensor]:
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.norm(self.words(input_ids) + self.places(places) + self.kinds(token_type_ids))
        mask = (1.0 - attention_mask[:, None, None].to(x.dtype)) * -1e4
        for layer in self.layers:
            x = layer(x, mask)
        return x, self.pool(x[:, 0]).tanh()


class GptBlock(nn.Module):
    """One pre-norm decoder layer: a new token looks at itself and at the keys and values of the past."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(dim), Attention(dim, heads), nn.LayerNorm(dim)
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor, past_key: Tensor, past_value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, y = self.attention, self.norm1(x)
        key = torch.cat([past_key, a.split(a.key(y))], 2)
        value = torch.cat([past_value, a.split(a.value(y))], 2)
        x = x + a.mix(a.split(a.query(y)), key, value)
        return x + self.down(gelu(self.up(self.norm2(x)), approximate="tanh")), key, value


def build_bert(seed: int = 0) -> nn.Module:
    """BERT-small (4 layers of 512) with seeded weights, in eval mode."""
    return seeded(Bert(512, 4, 8), (), seed)


def build_bert_tiny(seed: int = 0) -> nn.Module:
    """A BERT of two layers of 32 and 100 words for tests, in eval mode."""
    return seeded(Bert(32, 2, 2, words=100, length=64), (), seed)


def build_gpt(seed: int = 0) -> nn.Module:
    """A block of GPT-2 small, in eval mode."""
    return seeded(GptBlock(GPT_DIM, GPT_HEADS), (), seed)
