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
    log: list[tuple[str, float]] = []

    def note(_function: Any, name: str, _before: bool, _result: Any, *_arguments: Any) -> int:
        log.append((name, clock()))
        return 0

    runner.instrument(note)
    try:
        runner.run(feed)
        found: list[tuple[list[str], list[float]]] = []
        for _ in range(runs):
            log.clear()
            runner.run(feed)
            names = [name for name, _ in log[::2]]
            found.append((names, [end - begin for (_, begin), (_, end) in zip(log[::2], log[1::2], strict=True)]))
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
