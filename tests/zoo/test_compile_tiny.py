"""Small models of the zoo, compiled and run beside ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import optkit
from benchmarks.zoo import ZOO, export_model
from tests.graphs import session

pytestmark = pytest.mark.needs_torch


@pytest.fixture(autouse=True)
def _needs_torch() -> None:
    pytest.importorskip("torch")


@pytest.mark.slow
def test_detector_finds_the_boxes_that_onnxruntime_finds(tmp_path: Path) -> None:
    """Another number of boxes for every image, from one artifact."""
    path = export_model("yolo_tiny", tmp_path / "yolo.onnx")
    samples = ZOO["yolo_tiny"].samples(6, seed=7)["input"]
    reference = session(str(path))
    counts = set()
    with optkit.compile(path, output=tmp_path / "yolo.optk").runner() as runner:
        for sample in samples:
            image = sample[None]
            expected = dict(zip(("boxes", "scores", "labels"), reference.run(None, {"input": image}), strict=True))
            found = runner.run({"input": image})
            counts.add(len(found["boxes"]))
            assert found["labels"].tolist() == expected["labels"].tolist()
            np.testing.assert_allclose(found["boxes"], expected["boxes"], rtol=1e-4, atol=1e-3)
            np.testing.assert_allclose(found["scores"], expected["scores"], rtol=1e-4, atol=1e-5)
    assert len(counts) > 1 and max(counts) > 3


@pytest.mark.slow
def test_transformer_in_both_precisions(tmp_path: Path) -> None:
    path = export_model("bert_tiny", tmp_path / "model.onnx")
    samples = ZOO["bert_tiny"].samples(4)
    for passes in (None, "int8"):
        report = optkit.compile(path, passes=passes, calib_data=samples, output=tmp_path / "model.optk").report
        assert report["verification"]["status"] == "passed"
    assert report["macs"]["by_compute"].get("int8", 0) > 0
