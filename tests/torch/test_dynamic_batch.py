"""A dynamic batch from PyTorch to the artifact: one file, any batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import optkit

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.needs_torch, pytest.mark.needs_compiler]


def test_one_artifact_runs_at_1_3_and_17(tmp_path: Path) -> None:
    from optkit.torch import export

    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
    module = torch.nn.Sequential(*layers, torch.nn.Linear(8, 5)).eval()
    example = (torch.randn(1, 3, 8, 8),)
    path = export(module, example, tmp_path / "m.onnx", input_names=["x"], dynamic={"x": {0: "batch"}})
    artifact = optkit.compile(path, output=tmp_path / "m.optk")
    assert artifact.manifest.inputs[0].shape == ("batch", 3, 8, 8)
    assert str(tmp_path).encode() not in artifact.path.read_bytes()
    with artifact.runner(threads=1) as runner:
        for batch in (1, 3, 17):
            x = torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(batch))
            with torch.no_grad():
                want = module(x).numpy()
            (got,) = runner.run({"x": x}).values()
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
