"""A sample of the random models; `python -m tests.random_models.run` tries any number."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from tests.random_models.models import random_model


def test_a_number_gives_the_same_model() -> None:
    assert [random_model(seed) for seed in range(8)] == [random_model(seed) for seed in range(8)]


@pytest.mark.parametrize("open_axes", [False, True])
def test_models_are_valid_and_of_many_kinds(open_axes: bool) -> None:
    models = [random_model(seed, open_axes) for seed in range(60)]
    for model in models:
        onnx.checker.check_model(model, full_check=True)
    assert len({node.op_type for model in models for node in model.graph.node}) > 50
    for model in models:
        axes = [d for v in model.graph.input for d in v.type.tensor_type.shape.dim if d.dim_param]
        assert bool(axes) == open_axes


@pytest.mark.parametrize(
    "options",
    [
        ["--count", "20"],
        ["--count", "15", "--open"],
        ["--count", "15", "--passes", "int8"],
        ["--count", "10", "--passes", "bf16", "--target", "sapphirerapids"],
        ["--count", "4", "--passes", "fp16", "--target", "cuda:sm_90"],
    ],
    ids=" ".join,
)
def test_each_is_compiled_and_right(options: list[str]) -> None:
    command = [sys.executable, "-m", "tests.random_models.run", "--jobs", "1", *options]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    found = re.search(r"(\d+) models, 0 problems, (\d+) left out", done.stdout)
    assert done.returncode == 0 and found is not None, done.stdout + done.stderr
    count, left_out = map(int, found.groups())
    assert count == int(options[1]) and 5 * left_out <= count
