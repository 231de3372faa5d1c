"""Processes that build."""

from __future__ import annotations

import os
import signal
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from benchmarks.workers import Step, Workers


def once(flag: Path) -> str:
    """End this process the first time."""
    if not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def test_fewer_workers_go_on_where_one_was_ended(tmp_path: Path) -> None:
    workers = Workers(4)
    step = Step(workers, once, (tmp_path / "flag",))
    with pytest.raises(BrokenProcessPool):
        workers.submit(step).result(60)
    assert workers.submit(step).result(60) == "done"
    assert workers.count == 2
    workers.end(kill=True)
