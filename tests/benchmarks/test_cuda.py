"""What `benchmarks.cuda` can do before it meets a GPU."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from benchmarks.on_gpu import OnGpu, said


def double(x: int) -> dict[str, int]:
    return {"double": 2 * x, "process": os.getpid()}


def fail(x: int) -> None:
    raise ValueError(f"{x}\nis wrong")


@pytest.fixture(scope="module")
def on_gpu() -> Iterator[OnGpu]:
    with OnGpu() as process:
        assert process(double, 2)["double"] == 4
        yield process


def test_one_process_takes_step_after_step(on_gpu: OnGpu) -> None:
    on_gpu.limit = 60
    assert on_gpu(double, 3)["process"] == on_gpu(double, 4)["process"] != os.getpid()


@pytest.mark.parametrize(
    ("step", "argument", "why"),
    [
        (fail, 3, "ValueError: 3 is wrong"),
        (os._exit, 7, "the process ended with 7"),
        (time.sleep, 60, "it did not end within 1 s"),
    ],
)
def test_what_fails_costs_no_other_step(on_gpu: OnGpu, step: object, argument: int, why: str) -> None:
    on_gpu.limit = 60
    before = on_gpu(double, 1)["process"]
    on_gpu.limit = 1
    assert on_gpu(step, argument) == {"why": why}
    on_gpu.limit = 60
    after = on_gpu(double, 5)
    assert after["double"] == 10
    assert after["process"] != before


def test_steps_end_when_all_have_to(on_gpu: OnGpu) -> None:
    on_gpu.limit, on_gpu.until = 60, time.monotonic() - 1
    assert on_gpu(time.sleep, 60) == {"why": "it did not end within 10 s"}
    on_gpu.until = float("inf")
    assert on_gpu(double, 6)["double"] == 12


def test_programs_are_ended_with_what_they_started() -> None:
    assert said(["echo", "yes"], 10) == "yes\n"
    began = time.monotonic()
    assert said(["sh", "-c", "sleep 30 & wait"], 1) == "not done within 1 s"
    assert time.monotonic() - began < 20


def test_time_that_two_kernels_overlap_counts_once() -> None:
    """One that is launched early waits for the one before, and CUPTI counts its waiting."""
    from benchmarks.cuda_kernels import RUNS, listed_times  # not where steps are: they need none of it
    from optkit import registry

    listed = {"first": {"rule": "cuda.injective", "params": {}, "operator": ""}}
    spans = [
        (at, end, name)
        for run in range(RUNS)
        for at, end, name in (
            (100.0 * run, 100.0 * run + 10, "first_kernel"),
            (100.0 * run + 2, 100.0 * run + 15, "memset"),
            (100.0 * run + 20, 100.0 * run + 26, "first_kernel"),
        )
    ]
    first, other = listed_times(spans, listed, registry.find_target("cuda:sm_90"))
    assert first == {
        "kernel": "first_kernel",
        "rule": "cuda.injective",
        "params": {},
        "operator": "",
        "launches": pytest.approx(2),
        "microseconds": pytest.approx(16),
        "cycles": None,
    }
    assert (other["kernel"], other["rule"], other["microseconds"]) == ("memset", "", pytest.approx(5))
