"""From a model to an artifact for a GPU that is not here, and what loading it says."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import onnx
import pytest

import optkit
from optkit.errors import ArtifactError, UsageError
from optkit.model import to_proto
from optkit.runtime.gpu import compute_capabilities
from tests.targets.cuda.models import cnn, tokens

pytestmark = [pytest.mark.needs_nvcc, pytest.mark.needs_compiler]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> optkit.Artifact:
    """The CNN in INT8 for Hopper."""
    folder = tmp_path_factory.mktemp("cuda")
    onnx.save(to_proto(cnn()), folder / "cnn.onnx")
    return optkit.compile(folder / "cnn.onnx", target="cuda:sm_90", passes="int8", output=folder / "cnn.optk")


@pytest.mark.skipif(bool(compute_capabilities()), reason="there is a GPU here")
def test_it_is_verified_on_the_cpu_and_says_so(artifact: optkit.Artifact) -> None:
    verification = artifact.manifest.verification
    assert verification["status"] == "not_run"
    assert verification["reason"] == "needs an NVIDIA GPU with compute capability >= 9.0; none found here"


def test_it_lists_its_cuda_kernels(artifact: optkit.Artifact) -> None:
    with zipfile.ZipFile(artifact.path) as archive:
        kernels = json.loads(archive.read("kernels.json"))
        library = archive.read("lib.so")
    rules = {kernel["rule"] for kernel in kernels}
    assert {"cuda.conv", "cuda.depthwise", "cuda.matmul", "cuda.pool", "cuda.injective"} <= rules
    assert all(rule.startswith("cuda.") for rule in rules)
    assert {kernel["compute"] for kernel in kernels if kernel["rule"] == "cuda.conv"} == {"int8"}
    assert all(kernel["name"].encode() in library for kernel in kernels)
    assert artifact.manifest.device == "cuda"
    assert "runtime/libtvm_runtime_cuda.so" in artifact.manifest.runtime


@pytest.mark.skipif(bool(compute_capabilities()), reason="there is a GPU here")
def test_loading_it_names_the_missing_device_in_one_line(artifact: optkit.Artifact) -> None:
    with pytest.raises(ArtifactError, match=r"needs an NVIDIA GPU .*9\.0.*none found here") as caught:
        optkit.load(artifact.path)
    assert "\n" not in str(caught.value)


def test_its_kernels_are_written_when_asked_for(tmp_path: Path) -> None:
    onnx.save(to_proto(tokens()), tmp_path / "tokens.onnx")
    made = optkit.compile(
        tmp_path / "tokens.onnx", target="a100", passes="fp16", output=tmp_path / "t.optk", emit=["cuda"], verify=False
    )
    text = made.emitted["cuda"].read_text()
    assert "OptkitMatmul<OptkitHalves" in text
    assert "mma.sync" in text
    with pytest.raises(UsageError, match="has no CUDA kernels"):
        optkit.compile(tmp_path / "tokens.onnx", output=tmp_path / "c.optk", emit=["cuda"])


@pytest.mark.needs_gpu
def test_it_answers_like_the_cpu_on_a_gpu(artifact: optkit.Artifact, tmp_path: Path) -> None:
    import numpy as np

    if not compute_capabilities() or compute_capabilities()[0] < (9, 0):
        pytest.skip("needs an NVIDIA GPU of compute capability 9.0")
    onnx.save(to_proto(cnn()), tmp_path / "cnn.onnx")
    here = optkit.compile(tmp_path / "cnn.onnx", target="cpu", passes="int8", output=tmp_path / "cpu.optk")
    data = np.random.default_rng(0).standard_normal((1, 3, 19, 23)).astype(np.float32)
    found, expected = (a.runner().run({"x": data})["y"] for a in (artifact, here))
    # The last product is rescaled in float32 on both; everything before it is the same integers.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
