"""Whole artifacts on an emulated GPU: answers, CUDA graphs, and what failures say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.targets.cuda import emulator
from tests.targets.cuda.host import EMULATED

pytestmark = EMULATED
# Most open batches are in `test_kernels.py`; here kernels are launched as they are on a GPU.
ROUNDED = dict.fromkeys(("deep:bf16", "heads:bf16", "encoder:bf16"), 2**-9) | dict.fromkeys(
    ("deep:tf32", "tokens:tf32", "heads:tf32"), 2**-12
)
"""What is multiplied in bfloat16 or TF32 alone, with half the distance of two such numbers next to 1."""
SHARED = ("summed:fp16", "summed:int8", "summed:tf32", "summed:fp16:sm_80", "summed:int8:sm_80")
"""Where thread blocks share tiles: as clusters, and in two kernels."""
OPEN = ("open_tokens:fp16", "open_tokens:int8", "open_taps:fp16", "open_gates:default")
"""What is of open extents is not captured."""
ENDS = ("heads:bf16", "forks:int8", "forks:int8-fp16")
"""Where every kernel reads an input or writes an output, and none is left to capture."""
SEVERAL = {"states:": 2, "gates:": 2, "volumes:": 2, "beside:bf16": 3}
"""Where inputs are read or outputs written on the way too: how many graphs lie between."""
DETECTION, BY_HAND, REDUCED = "boxes:default", "regions:default", "reductions:default"
EMPTY = "nothing:default", "nothing:fp16"
PARTED = "halves:fp16", "halves:int8"
BULK = {"taps:fp16:bulk": 1, "taps:int8:bulk": 1, "projection:fp16:bulk": 1, "skip:fp16:bulk": 4, "blocks:int8:bulk": 5}
"""Where weights come in bulk, to two thread blocks each: in how many kernels."""
JOINED = ("blocks:fp16", "blocks:int8", "blocks:fp16:sm_80", "skip:fp16", "skip:int8")
"""What is written and read where it lies in larger tensors, of several images."""
CASES = (
    *("cnn:default", "cnn:int8", "cnn:fp16", "deep:int8", "deep:fp16", "tokens:fp16", "heads:fp16", "rows:int8"),
    *("mixed:int8", "encoder:fp16", "encoder:int8-fp16", "memory:fp16", "memory:int8-fp16", "wide:fp16", "wide:int8"),
    *("taps:fp16", "taps:int8"),
    *(
        "single:default",
        "single:fp16",
        "lengths:default",
        "lengths:fp16",
        "twice:int8-fp16",
        "forks:int8",
        "forks:int8-fp16",
    ),
    *("beside:fp16", "beside:bf16", "beside:int8-fp16"),
    *("states:default", "gates:default", "gates:default:sm_80", "volumes:default", "volumes:fp16"),
    *("levels:default", "levels:fp16", "pairs:fp16", "pairs:int8", "groups:fp16", "groups:int8"),
    *("shuffled:fp16", "shuffled:int8"),
    *ROUNDED,
    *SHARED,
    *BULK,
    *OPEN,
    *JOINED,
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
    return folder, {
        found["case"]: found
        for found in session(environment, "compile", folder, *CASES, DETECTION, BY_HAND, REDUCED, *EMPTY, *PARTED)
    }


@pytest.mark.parametrize("case", CASES)
def test_artifacts_answer_as_the_reference_does(case: str, compiled: tuple[Path, dict[str, Any]]) -> None:
    found = compiled[1][case]
    assert found["verification"]["status"] == "passed"
    assert found["arch"] == ("sm_80" if case.endswith(":sm_80") else "sm_90")
    assert found["repeats"]
    assert not {"cuda.fallback"} & set(found["rules"])


@pytest.mark.parametrize("case", ROUNDED)
def test_operands_are_rounded_as_told(case: str, compiled: tuple[Path, dict[str, Any]]) -> None:
    """In float32 the error would be some 1e-7."""
    (output,) = compiled[1][case]["outputs"]
    error = output["to_original"]["relative"]
    assert ROUNDED[case] / 8 < error < ROUNDED[case] * 4


@pytest.mark.parametrize("case", [case for case in CASES if case not in OPEN])
def test_later_runs_replay_a_graph_and_instruments_see_every_call(
    case: str, compiled: tuple[Path, dict[str, Any]]
) -> None:
    found = compiled[1][case]
    seconds = sum(parts > 1 for parts in found["parts"]) if found["arch"] == "sm_80" else 0
    assert found["launched"] == found["calls"] + seconds
    assert found["early"] == (0 if found["arch"] == "sm_80" else found["launched"])
    # What reads inputs or writes outputs, the caller's memory, is outside: of two calls both, and here the mask too.
    graphs = next((count for start, count in SEVERAL.items() if case.startswith(start)), 1)
    assert found["replayed"] == graphs * (found["calls"] > 2 and case not in ENDS)


@pytest.mark.parametrize("case", JOINED)
def test_parts_of_concatenations_are_made_in_their_places(case: str, compiled: tuple[Path, dict[str, Any]]) -> None:
    """Besides products and pools, two kernels change layouts; a transposed convolution interleaves its sums itself."""
    found = compiled[1][case]
    assert found["calls"] == (7 if case.startswith("skip") else 8)
    assert not [name for name in found["kernels"] if "concat" in name or "split" in name]


@pytest.mark.parametrize("case", BULK)
def test_thread_blocks_of_a_cluster_get_weights_together(case: str, compiled: tuple[Path, dict[str, Any]]) -> None:
    casts = compiled[1][case]["casts"]
    assert casts.count(2) == BULK[case]
    assert set(casts) == {0, 2}


def test_attention_of_an_open_batch_is_the_same_kernel(environment: dict[str, str], tmp_path: Path) -> None:
    for found in session(environment, "open", tmp_path, "fp16", "bf16"):
        assert found["verification"] == "passed"
        assert "cuda.tensor_attention" in found["rules"]
        assert found["equal"]
        assert found["differ"]


def test_thread_blocks_sort_and_suppress_as_the_reference_does(compiled: tuple[Path, dict[str, Any]]) -> None:
    found = compiled[1][DETECTION]
    assert found["verification"]["status"] == "passed"
    assert found["repeats"]
    assert {output["name"]: output["to_original"]["mismatches"] for output in found["outputs"]} == dict.fromkeys(
        ("kept", "all", "v", "i", "w", "j", "o", "t"), 0
    )
    assert "cuda.own_threads" in found["rules"]


def test_recurrent_layers_of_examples_first_are_those_of_steps_first(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (found,) = session(environment, "batchwise", tmp_path)
    assert found["equal"]
    assert "cuda.own_threads" in found["rules"]
    assert "cuda.fallback" not in found["rules"]


def test_parallel_loops_are_spread_over_threads(compiled: tuple[Path, dict[str, Any]]) -> None:
    found = compiled[1][BY_HAND]
    assert found["verification"]["status"] == "passed"
    assert found["repeats"]
    assert "cuda.fallback" in found["rules"]


@pytest.mark.parametrize("case", EMPTY)
def test_where_nothing_is_found_nothing_is_launched(case: str, compiled: tuple[Path, dict[str, Any]]) -> None:
    """A grid of no thread blocks would have one in TVM, which writes past the end of nothing."""
    found = compiled[1][case]
    assert found["verification"]["status"] == "passed"
    assert {output["name"]: output["to_original"]["elements"] for output in found["outputs"]} == {
        **dict.fromkeys(("o", "p", "q", "r", "h", "kept"), 0),
        "s": 3 * 64,
    }
    assert found["launched"] < found["calls"]


@pytest.mark.parametrize("case", PARTED)
def test_every_output_of_a_function_has_a_kernel(case: str, compiled: tuple[Path, dict[str, Any]]) -> None:
    found = compiled[1][case]
    assert found["verification"]["status"] == "passed"
    assert found["repeats"]
    assert "cuda.fallback" not in found["rules"]
    assert found["launched"] > found["calls"]


def test_warps_reduce_as_the_reference_does(compiled: tuple[Path, dict[str, Any]]) -> None:
    found = compiled[1][REDUCED]
    assert found["verification"]["status"] == "passed"
    assert found["repeats"]
    assert "cuda.reduce" in found["rules"]
    assert "cuda.fallback" not in found["rules"]


@pytest.mark.parametrize("case", SHARED)
def test_thread_blocks_share_deep_sums(case: str, compiled: tuple[Path, dict[str, Any]]) -> None:
    assert max(compiled[1][case]["parts"]) > 1


def test_outputs_stay_on_the_device(environment: dict[str, str], compiled: tuple[Path, dict[str, Any]]) -> None:
    (found,) = session(environment, "keep", compiled[0] / "deep.int8.optk")
    assert found == {"device": 2, "copies": 0, "equal": True}  # kDLCUDA


@pytest.mark.parametrize(("case", "reads"), [("deep:int8", False), (DETECTION, True), ("open_tokens:fp16", False)])
def test_any_stream_that_is_not_captured_will_do(
    case: str, reads: bool, environment: dict[str, str], compiled: tuple[Path, dict[str, Any]]
) -> None:
    """Extents that are found at run time are read on the default stream, which this one does not wait for."""
    (found,) = session(environment, "stream", compiled[0] / f"{case.replace(':', '.')}.optk")
    assert found["reads"] == reads
    assert found["before"]
    assert found["error"] == "a CUDA graph is being captured, which a model cannot be part of; run it outside"
    assert found["after"]


def test_models_on_several_streams_share_memory_in_order(
    environment: dict[str, str], compiled: tuple[Path, dict[str, Any]]
) -> None:
    """TVM's pool gives one model what another one gave back, while kernels that are queued still read it."""
    (found,) = session(environment, "several", compiled[0] / "deep.int8.optk")
    assert found["shared"]
    assert found["equal"] == [True] * 3
    assert found["addresses"] == [4, 0]


@pytest.mark.parametrize(
    ("limit", "lockable", "locked", "pageable"),
    [
        (1 << 20, 1 << 20, 2 * 5 * 24 * 4, 0),  # inputs and outputs of five rows of 24 floats
        (600, 1 << 20, 576, 9),
        (1 << 20, 0, 0, 4 * 4),
    ],
    ids=["enough", "bounded", "none"],
)
def test_arrays_pass_through_page_locked_memory(
    limit: int, lockable: int, locked: int, pageable: int, environment: dict[str, str], tmp_path: Path
) -> None:
    """Results are right and of memory of their own, whatever is page-locked; copies are part of the stream."""
    variables = {**environment, "EMULATED_LOCKED": str(lockable)}
    found, left = session(variables, "stage", tmp_path, limit)
    assert all(found["right"])
    assert all(found["kept"])
    assert found["copied"] == 4 * 3  # two inputs, and the one that is passed through
    assert found["error"] == 0
    assert (found["locked"], found["pageable"]) == (locked, pageable)
    assert left == {"left": 0}


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
