"""Races: rivals take turns, nothing runs beside them, and reports say what happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from optkit.errors import OptkitError, UsageError
from optkit.measure import Contestant, RaceResult, make_report, race, to_markdown
from tests.measure.onnx_models import mlp_onnx, save

FEED = {"x": np.ones((64, 8), np.float32)}


@pytest.fixture(scope="module")
def result(mlp_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> RaceResult:
    model = save(mlp_onnx(), tmp_path_factory.mktemp("race") / "mlp.onnx")
    lanes = [Contestant("optkit", "optk", mlp_artifact, 2), Contestant("onnxruntime", "onnx", model, 2)]
    return race(lanes, FEED, rounds=4, min_seconds=0.05, iterations=7, warmup_seconds=0.05)


def test_every_turn_is_counted(result: RaceResult) -> None:
    for lane in result.lanes:
        assert len(lane.seconds) == 4
        assert all(len(times) >= 7 and sum(times) >= 0.04 for times in lane.seconds)
        assert all(t > 0 for times in lane.seconds for t in times)
        assert lane.ready.load > 0
        assert lane.ready.first > 0
        assert 10e6 < lane.peak_bytes < 2e9


def test_nobody_works_while_the_others_run(result: RaceResult) -> None:
    """Two threads each, whose pools spin after a run: stopped processes use no processor time."""
    for lane in result.lanes:
        assert lane.idle_seconds <= 0.02


def test_ratio(result: RaceResult) -> None:
    there, back = result.speedup("optkit", "onnxruntime"), result.speedup("onnxruntime", "optkit")
    assert there.low <= there.value <= there.high
    assert there.value == pytest.approx(1 / back.value)


def test_report(result: RaceResult) -> None:
    report = make_report(result, (50, 99.9), inputs={"x": [64, 8]})
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["subject"] == "optkit"
    assert report["lanes"][0]["percentiles"]["p99.9"] is None or report["lanes"][0]["samples"] >= 10_000
    assert len(report["lanes"][0]["rounds"]) == 4
    assert report["environment"]["cores_usable"] >= 1
    text = to_markdown(report)
    assert "| optkit |" in text
    assert "n/a" in text or report["lanes"][0]["samples"] >= 10_000
    assert "95 % interval" in text
    assert report["environment"]["cpu"] in text


def test_a_worker_that_cannot_load(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"nonsense")
    with pytest.raises(OptkitError, match=r"rival: .*bad\.onnx"):
        race([Contestant("rival", "onnx", tmp_path / "bad.onnx")], FEED, rounds=2)


def test_a_tolerant_race_goes_on_without_a_rival(mlp_artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"nonsense")
    good, bad = Contestant("good", "optk", mlp_artifact), Contestant("bad", "onnx", tmp_path / "bad.onnx")
    found = race([good, bad], FEED, rounds=2, min_seconds=0.01, tolerant=True)
    assert [lane.contestant.name for lane in found.lanes] == ["good"]
    assert "bad.onnx" in found.missing["bad"]
    with pytest.raises(OptkitError, match="bad"):
        race([bad, good], FEED, rounds=2, tolerant=True)


def test_a_loader_of_any_module(mlp_artifact: Path) -> None:
    """ "module:function" names what loads a contestant; it is told its options."""
    lanes = [
        Contestant("optkit", "optk", mlp_artifact),
        Contestant("other", "tests.measure.loaders:sleeper", mlp_artifact, options={"seconds": "0.002"}),
    ]
    found = race(lanes, FEED, rounds=2, min_seconds=0.01, warmup_seconds=0.01)
    assert found["other"].summary().minimum >= 0.002
    assert found["other"].ready.versions == {"sleeper": "1"}


def test_wrong_inputs_are_reported_by_name(mlp_artifact: Path) -> None:
    with pytest.raises(OptkitError, match="optkit: input 'x' must be float32, got float64"):
        race([Contestant("optkit", "optk", mlp_artifact)], {"x": np.ones((2, 8))}, rounds=2)


def test_a_worker_that_dies(mlp_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from optkit.measure.contestant import Worker

    real = Worker.run

    def killed(self: Worker, seconds: float, iterations: int, settle: int = 2) -> list[float]:
        os.kill(self._child.pid, signal.SIGKILL)
        return real(self, seconds, iterations, settle)

    monkeypatch.setattr(Worker, "run", killed)
    with pytest.raises(OptkitError, match="optkit: its worker ended with status -9"):
        race([Contestant("optkit", "optk", mlp_artifact)], FEED, rounds=2)


@pytest.mark.parametrize("rounds", [0, 1])
def test_races_that_make_no_sense(mlp_artifact: Path, rounds: int) -> None:
    lane = Contestant("a", "optk", mlp_artifact)
    with pytest.raises(UsageError, match="at least 2 rounds"):
        race([lane], FEED, rounds=rounds)
    with pytest.raises(UsageError, match="different names"):
        race([lane, lane], FEED)


def test_stopped_workers_end_with_their_parent(mlp_artifact: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", **FEED)
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "from optkit.measure.contestant import Contestant, Worker\n"
        "w = Worker(Contestant('a', 'optk', Path(sys.argv[1])), Path(sys.argv[2]))\n"
        "print(w._child.pid, flush=True)\ntime.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(mlp_artifact), str(tmp_path / "in.npz")],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(100):
        status = Path(f"/proc/{pid}/status")
        if not status.exists() or "State:\tZ" in status.read_text():
            break
        time.sleep(0.05)
    else:
        pytest.fail("the stopped worker is still there")
