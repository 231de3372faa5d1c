"""Times of the kernels of a run, taken inside it: caches are as they are when the model runs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from optkit.errors import OptkitError
from optkit.runtime.runner import Runner

_BUILTIN = "vm.builtin."


@dataclass(frozen=True)
class CallTime:
    """One kernel call of a run.

    Attributes:
        seconds: median over the runs, without what asking for the time costs.
    """

    kernel: str
    seconds: float


def profile(runner: Runner, feed: Mapping[str, Any], runs: int = 30) -> list[CallTime]:
    """Every kernel call of a run, in order.

    Raises:
        DataError: the inputs do not fit.
        OptkitError: the model failed, or ran different kernels every time.
    """
    clock = time.perf_counter
    calls: list[tuple[str, float]] = []
    open_: list[list[Any]] = []

    wait = runner.synchronize if runner.manifest.device != "cpu" else None

    def note(_function: Any, name: str, before: bool, _result: Any, *_arguments: Any) -> int:
        if wait is not None:
            wait()
        # Branches and loop bodies are functions that are called too: their own calls are what counts.
        if before:
            if open_:
                open_[-1][2] = True
            open_.append([name, clock(), False])
        else:
            _, begin, nested = open_.pop()
            if not nested:
                calls.append((name, clock() - begin))
        return 0

    runner.instrument(note)
    try:
        runner.run(feed)
        found: list[tuple[list[str], list[float]]] = []
        for _ in range(runs):
            calls.clear()
            runner.run(feed)
            found.append(([name for name, _ in calls], [seconds for _, seconds in calls]))
    finally:
        runner.instrument(None)
    names = found[0][0]
    times = [seconds for other, seconds in found if other == names]
    if len(times) * 2 < runs:
        raise OptkitError("the model runs other kernels every time; its calls cannot be lined up")
    medians = np.median(np.array(times), axis=0) if names else np.zeros(0)
    cost = float(medians.min()) if names else 0.0  # of a call that does next to nothing
    return [
        CallTime(name, float(seconds) - cost)
        for name, seconds in zip(names, medians, strict=True)
        if not name.startswith(_BUILTIN)
    ]
