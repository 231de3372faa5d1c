"""Whole artifacts on an emulated GPU: answers, CUDA graphs, and what failures say."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.targets.cuda import emulator

pytestmark = [
    pytest.mark.needs_nvcc,
    pytest.mark.needs_compiler,
    pytest.mark.skipif(shutil.which("g++") is None, reason="g++ compiles the kernels"),
]
# Open batches are in `test_kernels.py`; here kernels are launched as they are on a GPU.
ROUNDED = {"deep:bf16": 2**-9, "deep:tf32": 2**-12, "tokens:tf32": 2**-12, "heads:tf32": 2**-12}
"""What is multiplied in bfloat16 or TF32 alone, with half the distance of two such numbers next to 1."""
CASES = (
    *("cnn:default", "cnn:int8", "cnn:fp16", "deep:int8", "deep:fp16", "tokens:fp16", "heads:fp16", "rows:int8"),
    *("encoder:fp16", "encoder:int8-fp16", "memory:fp16", "memory:int8-fp16", "wide:fp16", "wide:int8"),
    *ROUNDED,
)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables of a process with an emulated GPU."""
    return emulator.environment(tmp_path_factory.mktemp("emulator"))


def session(environment: dict[str, str], *arguments: object) -> list[dict[str, Any]]:
    """What a process says."""
    command = [sys.executable, "-m", "tests.targets.cuda.emulator.session", *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def compiled(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """All cases, compiled and run; by case."""
    folder = tmp_path_factory.mktemp("compiled")
    return folder, {found["case"]: found for found in session(environment, "compile", folder, *CASES)}


@pytest.mark.parametrize("case", CASES)
def test_artifacts_answer_as_the_reference_does(case: str, compiled: tuple[Path, dict[str, Any]]) -> None:
    found = compiled[1][case]
    assert found["verification"]["status"] == "passed"
    assert found["arch"] == "sm_90"
    assert found["repeats"]
    assert not {"cuda.fallback"} & set(found["rules"])


@pytest.mark.parametrize("case", ROUNDED)
def test_operands_are_rounded_as_told(case: str, compiled: tuple[Path, dict[str, Any]]) -> None:
    """In float32 the error would be some 1e-7."""
    (output,) = compiled[1][case]["outputs"]
    error = output["to_original"]["relative"]
    assert ROUNDED[case] / 8 < error < ROUNDED[case] * 4


@pytest.mark.parametrize("case", CASES)
def test_later_runs_replay_a_graph_and_instruments_see_every_call(
    case: str, compiled: tuple[Path, dict[str, Any]]
) -> None:
    found = compiled[1][case]
    assert found["launched"] == found["calls"]
    assert found["replayed"] == (found["calls"] > 2)  # the first and the last call are the caller's memory


def test_outputs_stay_on_the_device(environment: dict[str, str], compiled: tuple[Path, dict[str, Any]]) -> None:
    (found,) = session(environment, "keep", compiled[0] / "deep.int8.optk")
    assert found == {"device": 2, "copies": 0, "equal": True}  # kDLCUDA


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"EMULATED_MEMORY": "20000"}, r"GPU is out of memory \(\d+ of 0 MiB free\)"),
        ({"EMULATED_FAILURE": "launch"}, "a kernel failed on the GPU"),
        ({"EMULATED_FAILURE": "after:3"}, "a kernel failed on the GPU"),
    ],
    ids=["memory", "launch", "lost on the way"],
)
def test_failures_are_one_line(
    variables: dict[str, str], says: str, environment: dict[str, str], compiled: tuple[Path, dict[str, Any]]
) -> None:
    (found,) = session({**environment, **variables}, "run", compiled[0] / "deep.int8.optk")
    assert found["error"] is not None
    assert "\n" not in found["error"]
    assert re.search(says, found["error"]), found["error"]


def test_tuning_measures_on_the_gpu_and_its_records_are_used(environment: dict[str, str], tmp_path: Path) -> None:
    (found,) = session(environment, "tune", tmp_path)
    assert found["problems"] == []
    assert (found["measured"], found["failed"]) == (3, 0)
    assert 0 < found["best"] <= found["default"]
    assert found["params"] == [found["plan"]]
    assert [record["params"] for record in found["records"]] == [found["plan"]]
    assert found["verification"] == "passed"


def test_candidates_that_fail_on_the_gpu_are_left(environment: dict[str, str], tmp_path: Path) -> None:
    (found,) = session({**environment, "EMULATED_FAILURE": "launch"}, "tune", tmp_path)
    assert found["outcomes"] == 0
    (problem,) = found["problems"]
    assert "a kernel failed on the GPU" in problem
    assert "\n" not in problem
