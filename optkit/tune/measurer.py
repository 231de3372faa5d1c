"""Candidates built and timed in processes of their own, which are ended when they hang or crash."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from optkit.compiler.operator import Operator, Plan
from optkit.errors import OptkitError
from optkit.measure.process import Child, EndedError, NoAnswerError
from optkit.target import Target

_START_SECONDS = 120.0
TOO_LONG = "not done in {} s"


class CandidateError(OptkitError):
    """A candidate does not compile, crashes, or takes too long."""


@dataclass(frozen=True)
class Built:
    """A candidate's library, and its function's parameters as `candidate.Argument` has them."""

    library: Path
    arguments: Sequence[Mapping[str, Any]]


class Runner(Protocol):
    """What times libraries: on this machine, or on a board elsewhere."""

    def run(self, candidates: Sequence[Built], rounds: int, seconds: float, timeout: float) -> list[float]:
        """Seconds of one call of each; in every round each has a turn of `seconds`.

        Raises:
            CandidateError: a call crashed or did not end in time.
        """
        ...

    def close(self) -> None:
        """Let go of the machine."""
        ...


class _Worker:
    """A child process that is started when needed, and again after it had to be ended."""

    def __init__(self, role: str, cores: Sequence[int], threads: int) -> None:
        self._role, self._cores, self._threads = role, cores, threads
        self._child: Child | None = None

    def start(self, order: Mapping[str, Any]) -> None:
        """Give an order, to a worker that has loaded what it needs; `finish` waits for what comes of it."""
        if self._child is None:
            threads = str(self._threads)
            environment = {**os.environ, "TVM_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
            arguments = (self._role, ",".join(map(str, self._cores)))
            self._child = Child(f"tuning ({self._role})", "optkit.tune.worker", arguments, environment)
            self._child.receive(_START_SECONDS)
        try:
            self._child.send(order)
        except EndedError:  # after its last answer; once more with a fresh one
            self.close()
            self.start(order)

    def finish(self, timeout: float) -> dict[str, Any]:
        """The answer; a worker that crashed or did not answer in time is ended."""
        assert self._child is not None
        try:
            answer = self._child.receive(timeout)
        except NoAnswerError as error:
            self.close()
            raise CandidateError(TOO_LONG.format(f"{timeout:g}")) from error
        except EndedError as error:
            self.close()
            raise CandidateError(str(error)) from error
        if "failed" in answer:
            raise CandidateError(answer["failed"])
        return answer

    def close(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None


class LocalRunner:
    """Times libraries on this machine, in a process pinned to its first cores; those of a GPU on that."""

    def __init__(self, threads: int, cores: Sequence[int], device: str) -> None:
        self._worker, self._device = _Worker("run", cores, threads), device

    def run(self, candidates: Sequence[Built], rounds: int, seconds: float, timeout: float) -> list[float]:
        """See `Runner`."""
        entries = [{"library": str(c.library), "arguments": list(c.arguments)} for c in candidates]
        order = {"candidates": entries, "rounds": rounds, "seconds": seconds, "device": self._device}
        self._worker.start(order)
        found: list[float] = self._worker.finish(timeout)["seconds"]
        return found

    def close(self) -> None:
        """End the process."""
        self._worker.close()


class Measurer:
    """Builds candidates, in processes of their own, and has them timed.

    Attributes:
        ahead: candidates that may be built while one is timed. What runs on a GPU leaves all cores but one to that.

    Args:
        timeout: seconds that building or timing a candidate may take.
        runner: what times them; by default this machine.
    """

    def __init__(self, target: Target, threads: int, timeout: float, runner: Runner | None = None) -> None:
        self.target, self.threads, self.timeout = target, threads, timeout
        cores = sorted(os.sched_getaffinity(0))
        on_cpu = target.device == "cpu"
        self.ahead = min(1, max(0, len(cores) - threads)) if on_cpu else max(1, len(cores) - 1)
        building = (cores[threads:] or cores) if on_cpu else cores
        self._builders = [_Worker("build", building, 1) for _ in range(max(1, self.ahead))]
        self._free = list(self._builders)
        self._begun: dict[Path, _Worker] = {}
        self._runner: Runner = runner or LocalRunner(threads, cores[:threads], target.device)
        self._folder = Path(tempfile.mkdtemp(prefix="optkit-tune-"))
        self._count = 0

    def __enter__(self) -> Measurer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for builder in self._builders:
            builder.close()
        self._runner.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start_build(self, operator: Operator, plan: Plan) -> Path:
        """Begin to build a candidate; `finish_build` waits for it. At most `ahead` are under way, or one."""
        self._count += 1
        out = self._folder / f"{self._count}.so"
        builder = self._begun[out] = self._free.pop()
        builder.start(
            {
                "operator": str(operator),
                "template": plan.template,
                "params": dict(plan.params),
                "target": self.target.name,
                "threads": self.threads,
                "out": str(out),
            }
        )
        return out

    def finish_build(self, out: Path) -> Built:
        """A candidate that was begun; CandidateError where it does not compile, or not in time."""
        builder = self._begun.pop(out)
        try:
            return Built(out, builder.finish(self.timeout)["arguments"])
        finally:
            self._free.append(builder)

    def time(self, candidates: Sequence[Built], rounds: int = 1, seconds: float = 0.05) -> list[float]:
        """Seconds of one call of each candidate; CandidateError where one of them fails."""
        return self._runner.run(candidates, rounds, seconds, self.timeout * len(candidates) * rounds)
