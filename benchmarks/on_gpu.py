"""Steps on a GPU in a process of their own: one that fails, hangs or loses the GPU costs no other step."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

LIMIT = 180.0
"""Seconds that a step may take; a kernel that waits for what never comes would wait forever."""


def one_line(error: BaseException) -> str:
    """An error as one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


def _serve(requests: Connection) -> None:
    with contextlib.suppress(EOFError):
        while True:
            step, arguments = requests.recv()
            try:
                found = step(*arguments)
            except Exception as error:
                found = {"why": one_line(error)}
            requests.send(found)


class OnGpu:
    """A process that works on the GPU; another one takes its place when it fails, which may have cost it the GPU."""

    def __init__(self, limit: float = LIMIT) -> None:
        self.limit = limit
        self._start()

    def _start(self) -> None:
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=False)
        self._process.start()
        theirs.close()

    def __call__(self, step: Callable[..., Any], *arguments: Any) -> Any:
        """What the step returns, or {"why": ...}."""
        try:
            self._pipe.send((step, arguments))
            if self._pipe.poll(self.limit):
                found = self._pipe.recv()
            else:
                found = {"why": f"it did not end within {self.limit:.0f} s"}
        except (EOFError, OSError):
            self._process.join(10)
            found = {"why": f"the process ended with {self._process.exitcode}"}
        if isinstance(found, dict) and found.get("why"):
            self.close()
            self._start()
        return found

    def close(self) -> None:
        """End the process, whatever it does."""
        self._pipe.close()
        self._process.kill()
        self._process.join(10)

    def __enter__(self) -> OnGpu:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def visible(devices: str | None) -> dict[str, str]:
    """The environment of a program that sees just these GPUs; None: all."""
    return {**os.environ, **({} if devices is None else {"CUDA_VISIBLE_DEVICES": devices})}
