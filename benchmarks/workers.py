"""Processes that build, and go on where one of them is ended from outside."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any


class Workers:
    """So many processes; where one is ended, as when memory runs out, all are, and half as many begin anew."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._begin()

    def _begin(self) -> None:
        self._pool = ProcessPoolExecutor(self.count, get_context("spawn"), os.nice, (10,))

    def submit(self, step: Step) -> Future[Any]:
        """Have a step done."""
        try:
            return self._pool.submit(step.function, *step.arguments)
        except BrokenProcessPool:
            self.end(kill=True)
            self.count = max(1, self.count // 2)
            self._begin()
            return self._pool.submit(step.function, *step.arguments)

    def end(self, kill: bool) -> None:
        """Begin nothing more; with `kill`, end what runs."""
        processes = list((self._pool._processes or {}).values())
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in processes if kill else ():
            process.kill()


@dataclass(frozen=True)
class Step:
    """What workers do.

    Attributes:
        again: whether it is done for the second time, because they ended with it.
    """

    pool: Workers
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    again: bool = False
