"""Model definitions with seeded weights: `python -m benchmarks.zoo resnet50 -o resnet50.onnx`.

The registry names modules and does not import them: listing the zoo needs no torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from optkit.errors import UsageError, nearest

if TYPE_CHECKING:
    from torch import nn

IMAGE = (1, 3, 224, 224)
OPEN_SIDE = 160
"""Side of the example image where height and width stay open: the exporter also tries three times as much."""


@dataclass(frozen=True)
class Tokens:
    """The shape of an integer input, and how many different values it takes, from 0."""

    shape: tuple[int, ...]
    count: int


@dataclass(frozen=True)
class Entry:
    """Where a model is built, its inputs (a tuple: the shape of floats) and the names of its outputs."""

    module: str
    function: str = "build"
    inputs: Mapping[str, tuple[int, ...] | Tokens] = field(default_factory=lambda: {"input": IMAGE})
    outputs: tuple[str, ...] = ("output",)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of the first input."""
        return next(iter(self.shapes.values()))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every input."""
        return {name: i.shape if isinstance(i, Tokens) else i for name, i in self.inputs.items()}

    def build(self, seed: int = 0) -> nn.Module:
        """The torch module with weights drawn from `seed`, in eval mode; needs torch."""
        builder: Callable[[int], nn.Module] = getattr(importlib.import_module(self.module), self.function)
        return builder(seed)

    def samples(self, count: int, seed: int = 0) -> dict[str, np.ndarray]:
        """`count` seeded samples for every input, along its first axis: normal floats, evenly drawn tokens."""
        generator = np.random.default_rng(seed)
        drawn: dict[str, np.ndarray] = {}
        for name, given in self.inputs.items():
            if isinstance(given, Tokens):
                drawn[name] = generator.integers(0, given.count, (count, *given.shape[1:]))
            else:
                drawn[name] = generator.standard_normal((count, *given[1:]), dtype=np.float32)
        return drawn


def _entry(place: str, shape: tuple[int, ...] = IMAGE, outputs: tuple[str, ...] = ("output",)) -> Entry:
    module, _, function = place.partition(":")
    return Entry(f"benchmarks.zoo.{module}", function or "build", {"input": shape}, outputs)


def _inputs(place: str, outputs: tuple[str, ...] = ("output",), **inputs: tuple[int, ...] | Tokens) -> Entry:
    module, _, function = place.partition(":")
    return Entry(f"benchmarks.zoo.{module}", function or "build", inputs, outputs)


_TEXT = Tokens((1, 56), 8000)
_FOUND = ("boxes", "scores", "labels")

FULL = {
    "lenet": _entry("lenet", (1, 1, 28, 28)),
    "resnet18": _entry("resnet"),
    "resnet50": _entry("resnet:build50"),
    "densenet121": _entry("densenet"),
    "mobilenet_v2": _entry("mobilenet_v2"),
    "mobilenet_v3_large": _entry("mobile:build_mobilenet_v3"),
    "efficientnet_b0": _entry("mobile:build_efficientnet_b0"),
    "squeezenet1_1": _entry("squeezenet"),
    "shufflenet_v2": _entry("shufflenet"),
    "se_resnet50": _entry("senet"),
    "inception_v3": _entry("inception", (1, 3, 299, 299)),
    "convnext_tiny": _entry("convnext"),
    "vit_b_16": _entry("vit"),
    "swin_t": _entry("swin"),
    "ensemble": _entry("lenet:build_ensemble", (1, 3, 32, 32)),
    "unet": _entry("segmentation:build_unet", (1, 1, 256, 256)),
    "fcn8s": _entry("segmentation:build_fcn"),
    "deeplab_v3": _entry("segmentation:build_deeplab"),
    "yolo_v8n": _entry("yolo", (1, 3, 640, 640), _FOUND),
    "ssd300": _entry("ssd", (1, 3, 300, 300), _FOUND),
    "faster_rcnn": _entry("rcnn", (1, 3, 256, 256), _FOUND),
    "mask_rcnn": _entry("rcnn:build_mask", (1, 3, 256, 256), (*_FOUND, "masks")),
    "unet3d": _entry("volume:build_unet3d", (1, 3, 16, 16, 16)),
    "vnet": _entry("volume:build_vnet", (1, 1, 16, 16, 16)),
    "deepmedic": _inputs("volume:build_deepmedic", near=(1, 4, 25, 25, 25), far=(1, 4, 19, 19, 19)),
    "voxresnet": _entry("volume:build_voxresnet", (1, 1, 32, 32, 32)),
    "siamese": _inputs("spatial:build_siamese", template=(1, 3, 127, 127), search=(1, 3, 255, 255)),
    "spatial_transformer": _entry("spatial:build_transformer", (1, 1, 28, 28)),
    "autoencoder": _entry("spatial:build_autoencoder", (1, 3, 32, 32)),
    "embedding": _entry("senet:build_embedding", (1, 3, 112, 112)),
    "crnn": _entry("sequence:build_crnn", (1, 1, 32, 100)),
    "textcnn": _inputs("sequence:build_textcnn", tokens=_TEXT),
    "lstm": _inputs("sequence:build_lstm", tokens=_TEXT),
    "gru": _inputs("sequence:build_gru", tokens=_TEXT),
    "fusion": _inputs("sequence:build_fusion", image=(1, 3, 64, 64), tokens=Tokens((1, 16), 8000)),
    "bert_small": _inputs(
        "transformer:build_bert",
        ("states", "pooled"),
        input_ids=Tokens((1, 128), 30522),
        attention_mask=Tokens((1, 128), 2),
        token_type_ids=Tokens((1, 128), 2),
    ),
    "gpt_block": _inputs(
        "transformer:build_gpt",
        ("output", "key", "value"),
        x=(1, 1, 768),
        past_key=(1, 12, 63, 64),
        past_value=(1, 12, 63, 64),
    ),
}
_CELLS = ("boxes", "scores")
BATCHES = {
    "yolo_v8n_dense": _entry("yolo:build_dense", (1, 3, 640, 640), _CELLS),
    "yolo_tiny_dense": _entry("yolo:build_dense_tiny", (1, 3, 64, 64), _CELLS),
}
"""Detectors of images in batches, without suppression; the table of the documentation has them with it."""
TINY = {
    "vit_tiny": _entry("vit:build_tiny", (1, 3, 32, 32)),
    "swin_tiny": _entry("swin:build_tiny", (1, 3, 32, 32)),
    "unet_tiny": _entry("segmentation:build_unet_tiny", (1, 1, 32, 32)),
    "yolo_tiny": _entry("yolo:build_tiny", (1, 3, 64, 64), _FOUND),
    "bert_tiny": _inputs(
        "transformer:build_bert_tiny",
        ("states", "pooled"),
        input_ids=Tokens((1, 16), 100),
        attention_mask=Tokens((1, 16), 2),
        token_type_ids=Tokens((1, 16), 2),
    ),
}
"""Small relatives for tests; the table of the documentation leaves them out."""
ZOO = FULL | TINY | BATCHES


def export_model(
    name: str,
    path: str | Path,
    *,
    dynamic_batch: bool = False,
    dynamic_size: bool = False,
    dynamic_length: bool = False,
    seed: int = 0,
) -> Path:
    """Write model `name` of the zoo as ONNX to `path`, with inputs and outputs named as in its entry.

    Args:
        dynamic_batch: leave the first axis of every input open, as "batch".
        dynamic_size: leave the last two axes of images open, as "height" and "width".
        dynamic_length: leave the second axis of tokens open, as "length".

    Raises:
        UsageError: the zoo has no such model, or torch is not installed.
        ModelError: the model fixes an axis that was to stay open.
    """
    if name not in ZOO:
        raise UsageError(f"no model {name!r} in the zoo: {nearest(name, ZOO)}")
    import torch

    from benchmarks.zoo.detection import TRANSLATIONS
    from optkit.torch import export

    entry = ZOO[name]
    samples = entry.samples(1, seed)
    axes: dict[str, dict[int, str]] = {key: {0: "batch"} if dynamic_batch else {} for key in entry.inputs}
    for key, given in entry.inputs.items():
        if isinstance(given, Tokens):
            axes[key] |= {1: "length"} if dynamic_length else {}
        elif len(given) == 4:
            axes[key] |= {2: "height", 3: "width"} if dynamic_size else {}
            samples[key] = samples[key][..., :OPEN_SIDE, :OPEN_SIDE] if dynamic_size else samples[key]
    return export(
        entry.build(seed),
        [torch.from_numpy(array) for array in samples.values()],
        path,
        input_names=list(entry.inputs),
        output_names=list(entry.outputs),
        dynamic={key: open_axes for key, open_axes in axes.items() if open_axes} or None,
        translations=TRANSLATIONS,
    )
