"""The performance gate: slower, not slower, and nobody can tell."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from optkit.errors import IndeterminateError, OptkitError, UsageError
from optkit.measure.gate import check_baseline, parse_percent


def report(time: float, rival: float | None = 1.0, noise: float = 0.005, seed: int = 0, **other: Any) -> dict:
    """A report with 20 rounds around the given times; the machine's own speed varies much between reports."""
    rng = np.random.default_rng(seed)
    machine = np.exp(rng.normal(0, 0.2, 20))
    lanes = [{"name": "optkit", "threads": 1, "rounds": list(time * machine * np.exp(rng.normal(0, noise, 20)))}]
    if rival:
        rounds = list(rival * machine * np.exp(rng.normal(0, noise, 20)))
        lanes.append({"name": "onnxruntime", "threads": 1, "rounds": rounds})
    environment = {"cpu": "C", "cores_usable": 2}
    return {"subject": "optkit", "lanes": lanes, "environment": environment} | other


def test_not_slower() -> None:
    verdict = check_baseline(report(1.01, seed=1), report(1.0), 0.05)
    assert verdict.against == "onnxruntime"
    assert verdict.slowdown.value == pytest.approx(1.01, abs=0.01)
    check_baseline(report(0.5, seed=1), report(1.0), 0.0)


def test_slower() -> None:
    with pytest.raises(OptkitError, match="slower than the baseline") as caught:
        check_baseline(report(1.2, seed=1), report(1.0), 0.05)
    assert caught.value.exit_code == 1


def test_cannot_tell() -> None:
    with pytest.raises(IndeterminateError, match="cannot tell") as caught:
        check_baseline(report(1.05, noise=0.1, seed=1), report(1.0, noise=0.1), 0.05)
    assert caught.value.exit_code == 3


def test_a_slower_machine_is_no_slower_model() -> None:
    check_baseline(report(3.0, 3.0, seed=1), report(1.0, 1.0), 0.05)


def test_without_a_common_rival_the_machine_must_be_the_same() -> None:
    alone = report(1.0, None, environment={"cpu": "D", "cores_usable": 2})
    with pytest.raises(IndeterminateError, match="another machine"):
        check_baseline(alone, report(1.0), 0.05)
    with pytest.raises(OptkitError, match="in plain time"):
        check_baseline(report(5.0, None), report(1.0, None), 0.05)


def test_other_threads() -> None:
    before = report(1.0)
    before["lanes"][0]["threads"] = 2
    with pytest.raises(IndeterminateError, match="2 threads"):
        check_baseline(report(1.0), before, 0.05)


@pytest.mark.parametrize("baseline", [{}, {"lanes": [], "subject": "x"}, {"lanes": 3}])
def test_baselines_that_are_none(baseline: dict) -> None:
    with pytest.raises(IndeterminateError, match="no benchmark report"):
        check_baseline(report(1.0), baseline, 0.05)


@pytest.mark.parametrize(("text", "value"), [("5%", 0.05), ("0.05", 0.05), ("0%", 0.0), ("12.5 %", 0.125)])
def test_limits(text: str, value: float) -> None:
    assert parse_percent(text) == value


@pytest.mark.parametrize("text", ["five", "-5%", "", "5%%"])
def test_limits_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="write it as 5%"):
        parse_percent(text)
