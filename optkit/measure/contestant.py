"""A rival in a race: one worker process, stopped whenever it is not its turn."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from optkit.measure.process import Child

_START_SECONDS = 600.0
_SLACK_SECONDS = 300.0


@dataclass(frozen=True)
class Contestant:
    """What races.

    Attributes:
        name: shown in the report; unique in a race.
        kind: "optk" for an artifact, "onnx" for a model in ONNX Runtime's CPU provider, or "module:function" for
            anything else: a `optkit.measure.worker.Loader` that the worker imports.
        threads: that one run may use.
        options: what its loader is told besides.
    """

    name: str
    kind: str
    path: Path
    threads: int = 1
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ready:
    """What a worker says once it has loaded and run: seconds of loading and of the first run."""

    load: float
    first: float
    versions: dict[str, str]


class Worker:
    """The process of one contestant. Between `run`s it is stopped by a signal: nothing of it can spin."""

    def __init__(self, contestant: Contestant, inputs: Path) -> None:
        self.contestant = contestant
        environment = {
            **os.environ,
            # Whatever else a library starts must not outnumber what was asked for.
            "OMP_NUM_THREADS": str(contestant.threads),
            "OPENBLAS_NUM_THREADS": str(contestant.threads),
            "MKL_NUM_THREADS": str(contestant.threads),
        }
        environment.pop("TVM_NUM_THREADS", None)
        self._child = Child(contestant.name, "optkit.measure.worker", (), environment)
        try:
            self._child.send(
                {
                    "kind": contestant.kind,
                    "path": str(contestant.path),
                    "threads": contestant.threads,
                    "inputs": str(inputs),
                    "options": dict(contestant.options),
                }
            )
            answer = self._child.receive(_START_SECONDS)
        except BaseException:
            self.close()
            raise
        self.ready = Ready(answer["load"], answer["first"], answer["versions"])
        self._child.signal(signal.SIGSTOP)

    def run(self, seconds: float, iterations: int, settle: int = 2) -> list[float]:
        """One turn: at least `iterations` runs and at least `seconds`, after `settle` runs that do not count.

        Returns the seconds of every run.
        """
        self._child.signal(signal.SIGCONT)
        self._child.send({"seconds": seconds, "iterations": iterations, "settle": settle})
        times: list[float] = self._child.receive(seconds + _SLACK_SECONDS)["times"]
        self._child.signal(signal.SIGSTOP)
        return times

    def peak_bytes(self) -> int:
        """Peak resident memory so far; 0 where the system does not tell.

        From /proc: ru_maxrss would start at the size of the process that forked.
        """
        return _status(self._child.pid, "VmHWM") * 1024

    def processor_seconds(self) -> float:
        """Processor time used so far by all threads."""
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{self._child.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return 0.0

    def close(self) -> None:
        """End the process."""
        self._child.close()


def _status(pid: int, key: str) -> int:
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1])
    return 0
