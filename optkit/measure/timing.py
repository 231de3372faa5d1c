"""Rivals timed in one sitting: round-robin, one at a time, all others stopped."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from optkit.errors import OptkitError, UsageError
from optkit.measure.contestant import Contestant, Ready, Worker
from optkit.measure.statistics import Ratio, TimingSummary, paired_ratio, summarize

DEFAULT_PERCENTILES = (50.0, 90.0, 95.0, 99.0)


@dataclass(frozen=True)
class Lane:
    """One contestant's outcome.

    Attributes:
        seconds: of every run, round by round.
        peak_bytes: resident memory of its process at its highest.
        idle_seconds: processor time it used while the others ran; 0 unless stopping it failed.
    """

    contestant: Contestant
    ready: Ready
    seconds: tuple[tuple[float, ...], ...]
    peak_bytes: int
    idle_seconds: float

    @property
    def rounds(self) -> list[float]:
        """Median of every round, seconds."""
        return [float(np.median(times)) for times in self.seconds]

    def summary(self, percents: Sequence[float] = DEFAULT_PERCENTILES) -> TimingSummary:
        """Statistics over all runs."""
        return summarize(np.concatenate([np.asarray(t) for t in self.seconds]), percents)


@dataclass(frozen=True)
class RaceResult:
    """All lanes, in the order the contestants were given."""

    lanes: tuple[Lane, ...]
    missing: Mapping[str, str] = field(default_factory=dict)
    """Contestants that could not load, with what they said; only where the race tolerates it."""

    def __getitem__(self, name: str) -> Lane:
        return next(lane for lane in self.lanes if lane.contestant.name == name)

    def speedup(self, subject: str, rival: str) -> Ratio:
        """The rival's time over the subject's, over paired rounds: above 1 the subject is faster."""
        return paired_ratio(self[rival].rounds, self[subject].rounds)


def race(
    contestants: Sequence[Contestant],
    inputs: Mapping[str, np.ndarray],
    *,
    rounds: int = 20,
    min_seconds: float = 0.2,
    iterations: int = 5,
    warmup_seconds: float = 0.5,
    tolerant: bool = False,
    progress: Callable[[str, int, int | None], None] = lambda _what, _done, _total: None,
) -> RaceResult:
    """Time contestants against each other on the same inputs.

    In every round each contestant has one turn of at least `min_seconds` and `iterations` runs; every other
    round goes in reverse order, so that drift (temperature, neighbours) favours nobody.

    Args:
        tolerant: leave out whoever cannot load, but for the first; the result names them.

    Raises:
        UsageError: no contestant, names that occur twice, fewer than two rounds.
        OptkitError: a worker failed; names it.
    """
    names = [c.name for c in contestants]
    if not names or len(set(names)) != len(names):
        raise UsageError("a race needs contestants with different names")
    if rounds < 2 or iterations < 1 or min_seconds < 0:
        raise UsageError("a race needs at least 2 rounds and 1 iteration a turn")
    workers: list[Worker] = []
    missing: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="optkit-race-") as folder:
        path = Path(folder) / "inputs.npz"
        np.savez(path, **inputs)  # type: ignore[arg-type]
        try:
            for contestant in contestants:
                progress(f"loading {contestant.name}", len(workers), len(names))
                try:
                    workers.append(Worker(contestant, path))
                except OptkitError as error:
                    if not (tolerant and workers):
                        raise
                    missing[contestant.name] = str(error)
            idle = [0.0] * len(workers)
            seconds: list[list[tuple[float, ...]]] = [[] for _ in workers]
            for worker in workers:
                progress(f"warming up {worker.contestant.name}", 0, None)
                worker.run(warmup_seconds, 1)
            used = [w.processor_seconds() for w in workers]
            for number in range(rounds):
                order = range(len(workers)) if number % 2 == 0 else reversed(range(len(workers)))
                for i in order:
                    progress(f"timing {workers[i].contestant.name}", number, rounds)
                    idle[i] += workers[i].processor_seconds() - used[i]
                    seconds[i].append(tuple(workers[i].run(min_seconds, iterations)))
                    time.sleep(0.002)  # the signal that stops it has to arrive
                    used[i] = workers[i].processor_seconds()
            return RaceResult(
                tuple(
                    Lane(w.contestant, w.ready, tuple(s), w.peak_bytes(), u)
                    for w, s, u in zip(workers, seconds, idle, strict=True)
                ),
                missing,
            )
        finally:
            for worker in workers:
                worker.close()
