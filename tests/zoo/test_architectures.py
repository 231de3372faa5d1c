"""The zoo's networks are the published ones: their numbers of parameters say so."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from benchmarks.zoo import BATCHES, FULL, TINY, ZOO, Tokens

# trainable parameters as published, or as counted by the reference implementations (torchvision, timm, Ultralytics,
# ssd.pytorch); Faster and Mask R-CNN with the 53,120 of batch norms that torchvision freezes
PARAMETERS = {
    "lenet": 61_706,
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "densenet121": 7_978_856,
    "mobilenet_v2": 3_504_872,
    "mobilenet_v3_large": 5_483_032,
    "efficientnet_b0": 5_288_548,
    "squeezenet1_1": 1_235_496,
    "shufflenet_v2": 2_278_604,
    "se_resnet50": 28_088_024,
    "inception_v3": 23_834_568,
    "convnext_tiny": 28_589_128,
    "vit_b_16": 86_567_656,
    "swin_t": 28_288_354,
    "deeplab_v3": 39_638_869,
    "yolo_v8n": 3_157_184,
    "ssd300": 26_285_486,
    "faster_rcnn": 41_755_286 + 53_120,
    "mask_rcnn": 44_401_393 + 53_120,
    "bert_small": 28_763_648,
}


@pytest.mark.needs_torch
@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_the_published_ones(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    module = importlib.import_module(ZOO[name].module)
    for helper in ("seeded", "standardize"):  # there are no numbers on the meta device
        monkeypatch.setattr(module, helper, lambda model, *_: model, raising=False)
    with torch.device("meta"):
        model = ZOO[name].build()
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", ZOO)
def test_samples_fit_the_inputs(name: str) -> None:
    entry = ZOO[name]
    samples = entry.samples(3, seed=1)
    assert {key: array.shape[1:] for key, array in samples.items()} == {k: s[1:] for k, s in entry.shapes.items()}
    for key, given in entry.inputs.items():
        if isinstance(given, Tokens):
            assert samples[key].dtype == np.int64 and 0 <= samples[key].min() <= samples[key].max() < given.count
        assert (samples[key] == entry.samples(3, seed=1)[key]).all()


def test_relatives_are_apart() -> None:
    assert list(ZOO) == [*FULL, *TINY, *BATCHES] and len(ZOO) == len(FULL) + len(TINY) + len(BATCHES)
