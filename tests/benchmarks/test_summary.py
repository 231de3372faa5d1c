"""What many races amount to, and the machine's limits they are held against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.limits import KINDS, measure_limits
from benchmarks.summary import summarize, to_text, write_picture


def _report(model: str, precision: str, ours: float, peers: dict[str, float]) -> dict[str, Any]:
    lanes = [{"name": name, "rounds": [t, t], "versions": {name: "1"}} for name, t in {"optkit": ours, **peers}.items()]
    return {
        "case": {"model": model, "precision": precision, "batch": 1, "threads": 1},
        "lanes": lanes,
        "macs": 1_000_000,
        "limits": {"float32": 1e9, "int8": 4e9, "bfloat16": 0.0},
        "speedup": {n: {"value": t / ours, "low": t / ours, "high": t / ours} for n, t in peers.items()},
        "environment": {"cpu": "this one"},
    }


@pytest.fixture
def found() -> dict[str, Any]:
    return summarize(
        [
            _report("a", "fp32", 4e-3, {"onnxruntime": 10e-3, "openvino": 8e-3}),
            _report("b", "fp32", 4e-3, {"onnxruntime": 2e-3, "openvino": 3e-3}),
            _report("a", "bf16", 2e-3, {"openvino": 2e-3}),
        ]
    )


def test_every_model_is_held_against_its_best_peer(found: dict[str, Any]) -> None:
    best = [(row["best_peer"], row["ratio"]["value"]) for row in found["rows"]]
    assert best == [("openvino", 2.0), ("onnxruntime", 0.5), ("openvino", 1.0)]
    mean = found["means"]["fp32 batch 1, 1 thread(s)"]
    assert mean == {"geometric_mean": pytest.approx(1.0), "least": 0.5, "models": 2}


def test_optkit_without_records_is_no_rival() -> None:
    """It is slower or faster than optkit, and never the best peer."""
    peers = {"optkit, untuned": 5e-3, "openvino": 8e-3}
    found = summarize([_report("a", "fp32", 4e-3, peers), _report("b", "fp32", 4e-3, {"openvino": 4e-3})])
    assert [row["best_peer"] for row in found["rows"]] == ["openvino", "openvino"]
    mean = found["means"]["fp32 batch 1, 1 thread(s)"]
    assert mean["untuned_of_tuned"] == pytest.approx(0.8)
    assert mean["untuned_geometric_mean"] == pytest.approx(8 / 5)
    assert "untuned 1.600, 80.0% of the tuned speed" in to_text(found)


def test_shares_of_the_limit(found: dict[str, Any]) -> None:
    """Two operations a multiply-accumulate; none where the machine has no such instruction."""
    assert found["rows"][0]["share_of_limit"] == pytest.approx(2e6 / 4e-3 / 1e9)
    assert found["rows"][2]["share_of_limit"] is None


def test_text_holds_every_row(found: dict[str, Any]) -> None:
    lines = to_text(found).splitlines()
    assert len([line for line in lines if line.startswith(("| a |", "| b |"))]) == 3
    assert lines[0].count("|") == lines[2].count("|")


def test_picture(found: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write_picture(found, tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.needs_compiler
def test_limits_are_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe compiles and runs; integers are at least as fast as floats wherever there is an instruction."""
    monkeypatch.setattr("benchmarks.limits.REPEATS", 2)
    monkeypatch.setattr("benchmarks.limits.STREAM_BYTES", 8 << 20)
    found = measure_limits()
    assert set(found) == {*KINDS, "bandwidth"}
    assert found["float32"] > 1e8 and found["bandwidth"] > 1e8
