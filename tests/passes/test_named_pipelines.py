"""The named pipelines on real models, and what they look like as text."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from optkit import registry
from optkit.model import load_model
from optkit.pipeline import PipelineResult
from optkit.transform import PassContext
from tests.graphs import feeds, ops, session

MODELS = ("ultraface-rfb-320", "mnist-12", "resnet20_cifar10", "mobilenetv2_cifar10", "vit_cifar10")


def run(shared_dir: Path, name: str, pipeline: str) -> tuple[Path, PipelineResult]:
    path = shared_dir / "models" / f"{name}.onnx"
    if not path.is_file():
        pytest.skip(f"no {path.name} in the shared models")
    return path, registry.get_pipeline(pipeline).run(load_model(path), PassContext())


def error(path: Path, model: ir.Model, batch: int) -> float:
    """Largest relative error of an output's norm against the file in ONNX Runtime."""
    first, second = session(str(path)), session(model)
    inputs = feeds(second, batch)
    pairs = zip(first.run(None, inputs), second.run(None, inputs), strict=True)
    return max(float(np.linalg.norm(a - b) / np.linalg.norm(a)) for a, b in pairs)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("batch", [1, 3])
def test_default_keeps_the_numbers(shared_dir: Path, name: str, batch: int) -> None:
    path, result = run(shared_dir, name, "default")
    assert error(path, result.model, batch) < 1e-6
    left = Counter(ops(result.model))
    assert not left.keys() & {"BatchNormalization", "Identity", "Dropout", "Constant", "Pad"}


@pytest.mark.parametrize("name", MODELS)
def test_fp16_runs_and_is_close(shared_dir: Path, name: str) -> None:
    path, result = run(shared_dir, name, "fp16")
    assert error(path, result.model, 1) < 2e-3
    kinds = Counter(
        str(node.outputs[0].dtype) for node in result.model.graph if node.op_type in ("Conv", "MatMul", "Gemm")
    )
    assert set(kinds) == {"FLOAT16"}
    assert {str(v.dtype) for v in (*result.model.graph.inputs, *result.model.graph.outputs)} == {"FLOAT"}


def test_bf16_marks_every_convolution(shared_dir: Path) -> None:
    path, result = run(shared_dir, "mobilenetv2_cifar10", "bf16")
    marked = [n.op_type for n in result.model.graph if n.metadata_props.get("optkit.compute_type") == "bfloat16"]
    assert Counter(marked) == {"Conv": 23, "Gemm": 1}
    assert error(path, result.model, 2) < 1e-6


def test_mnist_golden(shared_dir: Path) -> None:
    _, result = run(shared_dir, "mnist-12", "default")
    assert ops(result.model) == ["Conv", "Relu", "MaxPool", "Conv", "Relu", "MaxPool", "Reshape", "Gemm"]
    assert [(report.text, report.modified) for report in result.reports] == [
        ("recognize", False),
        ("fold", True),
        ("fuse", True),
        ("fold", False),
    ]
    assert [(f.where, f.reason) for f in result.reports[2].findings] == [
        ("Convolution28", "absorbed Plus30"),
        ("Convolution110", "absorbed Plus112"),
        ("Times212", "absorbed Plus214"),
    ]
