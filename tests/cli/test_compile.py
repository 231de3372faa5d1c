"""`optkit compile` on a small model, from the file to an artifact that runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import optkit as package
from optkit.artifact import read_manifest
from optkit.model import model_sha256, to_proto
from tests.cli.conftest import Done, Optkit, small
from tests.graphs import session
from tests.targets.cuda.transformers import encoder

pytestmark = pytest.mark.needs_compiler


def _compile(optkit: Optkit, *args: object) -> Done:
    done = optkit("compile", *args)
    assert done.code == 0, done.err
    return done


def test_artifact_answers_like_the_model(optkit: Optkit, model: Path, tmp_path: Path) -> None:
    done = _compile(optkit, model)
    assert "verified" in done.err
    x = np.random.default_rng(5).standard_normal((3, 3, 8, 8), dtype=np.float32)
    (want,) = session(small()).run(None, {"x": x})
    with package.load(tmp_path / "small.optk", threads=1) as runner:
        np.testing.assert_allclose(runner.run({"x": x})["y"], want, rtol=1e-4, atol=1e-5)


def test_manifest_and_report(optkit: Optkit, model: Path, tmp_path: Path) -> None:
    done = _compile(optkit, model, "-o", "out.optk", "--json", "--threads", "2", "--input-shape", "x:1x3x8x8")
    report = json.loads(done.out)
    manifest = read_manifest(tmp_path / "out.optk")
    assert manifest.source_sha256 == model_sha256(model)
    assert manifest.verification["status"] == "passed"
    assert manifest.options["threads"] == 2 and manifest.options["precision"] == "fp32"
    assert manifest.inputs[0].shape == (1, 3, 8, 8)
    assert report == json.loads((tmp_path / "out.report.json").read_text()) | {"emitted": {}}
    assert report["macs"]["total"] == 4 * 8 * 8 * 3 * 9
    assert {p.name for p in tmp_path.iterdir()} == {"small.onnx", "out.optk", "out.report.json"}


def test_same_bytes_and_no_path(optkit: Optkit, model: Path, samples: Path, tmp_path: Path) -> None:
    for name in ("a.optk", "b.optk"):
        _compile(optkit, model, "-o", name, "--int8", "--calib-data", samples)
    first = (tmp_path / "a.optk").read_bytes()
    assert first == (tmp_path / "b.optk").read_bytes()
    assert str(tmp_path).encode() not in first
    described = json.loads(optkit("inspect", tmp_path / "a.optk", "--json").out)
    assert str(tmp_path) not in json.dumps({**described, "path": ""})


def test_int8_computes_in_int8_and_emits(optkit: Optkit, model: Path, samples: Path, tmp_path: Path) -> None:
    done = _compile(optkit, model, "--int8", "--calib-data", samples, "--emit", "all", "--json")
    report = json.loads(done.out)
    assert report["macs"]["by_compute"].keys() == {"int8"}
    found = json.loads(optkit("inspect", "small.optk", "--json").out)
    assert found["macs"] == report["macs"]["total"] and found["macs_by_compute"].keys() == {"int8"}
    assert any(kernel["template"] for kernel in found["kernels"])
    assert "kernels, 6.91 k MACs (int8 6.91 k)" in optkit("inspect", "small.optk").out
    assert set(report["emitted"]) == {"onnx", "relax", "tir", "asm"}
    assert "QuantizeLinear" in {node.op_type for node in onnx.load(report["emitted"]["onnx"]).graph.node}
    for path in report["emitted"].values():
        assert (tmp_path / path).stat().st_size > 0


def test_int8_without_data_warns(optkit: Optkit, model: Path) -> None:
    assert "warning:" in _compile(optkit, model, "--int8").err


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_reduced_precision(optkit: Optkit, model: Path, samples: Path, tmp_path: Path, precision: str) -> None:
    _compile(optkit, model, f"--{precision}", "--calib-data", samples)
    assert read_manifest(tmp_path / "small.optk").options["precision"] == precision


def test_tf32_is_float32_on_a_cpu_and_says_so(optkit: Optkit, model: Path, tmp_path: Path) -> None:
    plain = json.loads(_compile(optkit, model, "--json").out)
    done = _compile(optkit, model, "--tf32", "--json")
    report = json.loads(done.out)
    assert "warning: cpu has no TF32: products stay float32" in done.err
    assert read_manifest(tmp_path / "small.optk").options["precision"] == "fp32"
    assert report["macs"] == plain["macs"]
    assert report["verification"]["outputs"] == plain["verification"]["outputs"]


@pytest.mark.needs_nvcc
def test_tf32_for_a_gpu(optkit: Optkit, model: Path, tmp_path: Path) -> None:
    done = _compile(optkit, model, "--tf32", "--target", "cuda:sm_80", "--json")
    report = json.loads(done.out)
    assert read_manifest(tmp_path / "small.optk").options["precision"] == "tf32"
    assert report["macs"]["by_compute"].keys() == {"tensorfloat32"}
    assert "tensorfloat32" in optkit("inspect", "small.optk").out
    assert "exclude each other" in optkit("compile", model, "--tf32", "--bf16").err


def test_int8_with_float16_between(optkit: Optkit, tmp_path: Path) -> None:
    """Layers with weights in integers, attention's products in float16; named and judged like INT8."""
    path = tmp_path / "encoder.onnx"
    onnx.save(to_proto(encoder()), path)
    done = _compile(optkit, path, "-o", "e.optk", "--int8", "--fp16", "--json")
    report, manifest = json.loads(done.out), read_manifest(tmp_path / "e.optk")
    assert report["macs"]["by_compute"] == {"int8": 19 * 48 * (4 * 48 + 2 * 96), "float16": 2 * 3 * 19 * 19 * 16}
    assert manifest.pipeline == "recognize,fold,fuse,fold,quantize{products=false},fp16"
    assert manifest.options["precision"] == "int8"
    assert manifest.verification["status"] == "passed"
    assert optkit("inspect", "e.optk").code == 0
    checked = json.loads(optkit("verify", path, "e.optk", "--json").out)
    assert (checked["precision"], checked["status"]) == ("int8", "passed")
    dry = optkit("compile", path, "--int8", "--fp16", "--dry-run")
    assert manifest.pipeline in dry.out


def test_passes_replace_the_default(optkit: Optkit, model: Path, tmp_path: Path) -> None:
    _compile(optkit, model, "--passes", "fold")
    assert read_manifest(tmp_path / "small.optk").pipeline == "fold"


def test_disagreement_writes_nothing(optkit: Optkit, model: Path, tmp_path: Path) -> None:
    done = optkit("compile", model, "--bf16", "--rtol", "0")
    assert done.code == 1
    assert "does not agree with ONNX Runtime" in done.error and "'y'" in done.error
    assert [p.name for p in tmp_path.iterdir()] == ["small.onnx"]


def test_no_verify_is_recorded(optkit: Optkit, model: Path, tmp_path: Path) -> None:
    _compile(optkit, model, "--bf16", "--rtol", "0", "--no-verify")
    assert read_manifest(tmp_path / "small.optk").verification == {"status": "skipped", "reason": "--no-verify"}


def test_dry_run_writes_nothing(optkit: Optkit, model: Path, tmp_path: Path) -> None:
    done = optkit("compile", model, "--int8", "--calib-method", "entropy", "--dry-run", "--json")
    plan = json.loads(done.out)
    assert plan["pipeline"] == "recognize,fold,fuse,fold,quantize{method=entropy}"
    assert [issue["op_type"] for issue in plan["preflight"]] == ["Conv", "Relu"]
    assert [p.name for p in tmp_path.iterdir()] == ["small.onnx"]


def test_target_that_does_not_run_here(optkit: Optkit, model: Path, tmp_path: Path) -> None:
    from optkit.registry import find_target, target_family
    from optkit.steps import foreign_triple

    targets = (find_target(name) for name in target_family("cpu").names())
    foreign = next((t for t in targets if t.runs_here() and foreign_triple(t) is None), None)
    if foreign is None:
        pytest.skip("this machine runs every target of its architecture")
    done = _compile(optkit, model, "--target", foreign.name)
    assert done.err.count("warning:") == 1
    verification = read_manifest(tmp_path / "small.optk").verification
    assert verification["status"] == "not_run" and verification["reason"] == foreign.runs_here()


def test_ranges_and_optimum(optkit: Optkit, model: Path, tmp_path: Path) -> None:
    _compile(optkit, model, "-o", "r.optk", "--max-shape", "x:4x3x8x8", "--opt-shape", "x:2x3x8x8")
    with package.load(tmp_path / "r.optk") as runner:
        (limits,) = runner.manifest.ranges.values()
        assert limits == (1, 4)
        assert runner.manifest.variants[0].shapes == ((2, 3, 8, 8),)


def test_a_range_upside_down(optkit: Optkit, model: Path) -> None:
    done = optkit("compile", model, "--min-shape", "x:4x3x8x8", "--max-shape", "x:2x3x8x8")
    assert done.code == 2 and "--min-shape has 4, more than --max-shape with 2" in done.error
