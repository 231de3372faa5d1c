"""A rival in a race: one worker process, stopped whenever it is not its turn."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optkit.errors import OptkitError

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
        self._errors = tempfile.TemporaryFile("w+b")  # noqa: SIM115 - lives as long as the worker
        environment = {
            **os.environ,
            # Whatever else a library starts must not outnumber what was asked for.
            "OMP_NUM_THREADS": str(contestant.threads),
            "OPENBLAS_NUM_THREADS": str(contestant.threads),
            "MKL_NUM_THREADS": str(contestant.threads),
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        }
        environment.pop("TVM_NUM_THREADS", None)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "optkit.measure.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
        )
        try:
            self._send(
                {
                    "kind": contestant.kind,
                    "path": str(contestant.path),
                    "threads": contestant.threads,
                    "inputs": str(inputs),
                    "options": dict(contestant.options),
                }
            )
            answer = self._receive(_START_SECONDS)
        except BaseException:
            self.close()
            raise
        self.ready = Ready(answer["load"], answer["first"], answer["versions"])
        self._stop()

    def run(self, seconds: float, iterations: int, settle: int = 2) -> list[float]:
        """One turn: at least `iterations` runs and at least `seconds`, after `settle` runs that do not count.

        Returns the seconds of every run.
        """
        self._process.send_signal(signal.SIGCONT)
        self._send({"seconds": seconds, "iterations": iterations, "settle": settle})
        times: list[float] = self._receive(seconds + _SLACK_SECONDS)["times"]
        self._stop()
        return times

    def peak_bytes(self) -> int:
        """Peak resident memory so far; 0 where the system does not tell.

        From /proc: ru_maxrss would start at the size of the process that forked.
        """
        return _status(self._process.pid, "VmHWM") * 1024

    def processor_seconds(self) -> float:
        """Processor time used so far by all threads."""
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return 0.0

    def close(self) -> None:
        """End the process; it may be stopped, so it is killed."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self._errors.close()

    def _stop(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def _send(self, message: dict[str, Any]) -> None:
        if self._process.stdin is None:
            raise RuntimeError("the worker has no input pipe")
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as e:
            raise self._died() from e

    def _receive(self, seconds: float) -> dict[str, Any]:
        stream = self._process.stdout
        if stream is None:
            raise RuntimeError("the worker has no output pipe")
        deadline = time.monotonic() + seconds
        data = b""
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            while not data.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise OptkitError(f"{self.contestant.name}: no answer for {seconds:.0f} s")
                chunk = os.read(stream.fileno(), 1 << 20)
                if not chunk:
                    raise self._died()
                data += chunk
        answer: dict[str, Any] = json.loads(data)
        if "error" in answer:
            raise OptkitError(f"{self.contestant.name}: {answer['error']}")
        return answer

    def _died(self) -> OptkitError:
        code = self._process.wait()
        self._errors.seek(0)
        words = self._errors.read().decode(errors="replace").strip().splitlines()
        return OptkitError(
            f"{self.contestant.name}: its worker ended with status {code}: {words[-1] if words else 'no message'}"
        )


def _status(pid: int, key: str) -> int:
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1])
    return 0
