"""The zoo's models: seeded, exportable, and with activations in a sane range."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.zoo import ZOO, export_model
from benchmarks.zoo.light import LIGHT, load_light
from optkit.errors import UsageError
from optkit.macs import count_macs, count_parameters
from optkit.model import load_model
from tests.graphs import session

# multiply-accumulates in millions as published for 224x224 (ViT: with attention's two products)
PUBLISHED = {"resnet18": 1814, "mobilenet_v2": 301, "squeezenet1_1": 349}


@pytest.mark.needs_torch
@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_macs_are_the_published_ones(name: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    model = load_model(export_model(name, tmp_path / "model.onnx"))
    assert sum(c.macs or 0 for c in count_macs(model)) / 1e6 == pytest.approx(PUBLISHED[name], rel=0.005)
    (answer,) = session(str(tmp_path / "model.onnx")).run(None, {"input": _image()})
    assert 0.1 < answer.std() < 10


@pytest.mark.needs_torch
def test_seed_decides_the_weights() -> None:
    torch = pytest.importorskip("torch")
    before = torch.random.get_rng_state()
    first, again, other = (ZOO["vit_tiny"].build(seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])
    assert len(before) == len(torch.random.get_rng_state())


def test_unknown_model(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'resnet50'"):
        export_model("resnet5", tmp_path / "x.onnx")
    with pytest.raises(UsageError, match="did you mean 'squeezenet'"):
        load_light("squezenet")


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet", "resnet50", "inception_v2"])
def test_light_models_answer_differently_to_different_images(name: str) -> None:
    model = load_light(name)
    run = session(model)
    (image,) = run.get_inputs()
    answers = [run.run(None, {image.name: _image(seed)})[0].ravel() for seed in (0, 1)]
    assert all(np.isfinite(a).all() and a.std() > 1e-4 for a in answers)
    assert np.linalg.norm(answers[0] - answers[1]) > 1e-3 * np.linalg.norm(answers[0])


def test_light_weights_are_seeded_and_not_filler() -> None:
    first, again, other = (load_light("shufflenet", seed) for seed in (0, 0, 1))
    assert first.SerializeToString() == again.SerializeToString()
    assert first.SerializeToString() != other.SerializeToString()
    floats = [onnx.numpy_helper.to_array(t) for t in first.graph.initializer if t.data_type == 1]
    assert floats and all(array.std() > 0 for array in floats if array.size > 1)


def test_there_are_nine_light_models() -> None:
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    assert sorted(LIGHT) == sorted(p.stem.removeprefix("light_") for p in folder.glob("light_*.onnx"))


def test_parameters_count_weights_alone() -> None:
    import onnx_ir as ir

    model = ir.from_proto(load_light("squeezenet"))
    assert count_parameters(model) == pytest.approx(1.2355e6, rel=1e-3)


def _image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((1, 3, 224, 224), dtype=np.float32)


@pytest.mark.needs_torch
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "given", "dims"),
    [
        ("yolo_tiny", {"dynamic_size": True}, [1, 3, "height", "width"]),
        ("bert_tiny", {"dynamic_batch": True, "dynamic_length": True}, ["batch", "length"]),
    ],
)
def test_open_axes(name: str, given: dict[str, bool], dims: list[int | str], tmp_path: Path) -> None:
    """The exporter has compared another size and length with PyTorch."""
    pytest.importorskip("torch")
    run = session(str(export_model(name, tmp_path / "model.onnx", **given)))
    assert run.get_inputs()[0].shape == dims
