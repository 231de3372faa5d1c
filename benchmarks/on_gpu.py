"""Steps on a GPU in a process of their own: one that fails, hangs or loses the GPU costs no other step."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from optkit.measure.process import die_with_parent

LIMIT = 180.0
"""Seconds that a step may take; a kernel that waits for what never comes would wait forever."""
_LEAST = 10.0


def one_line(error: BaseException) -> str:
    """An error as one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


def said(command: list[str], seconds: float) -> str:
    """What a program prints; it is ended, with all that it started, where it takes longer."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as started:
        try:
            out, error = started.communicate(timeout=max(1.0, seconds))
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            return f"not done within {seconds:.0f} s"
    return out or error


def _serve(requests: Connection) -> None:
    die_with_parent()
    os.setsid()  # what a step starts ends with it
    with contextlib.suppress(EOFError):
        while True:
            step, arguments = requests.recv()
            try:
                found = step(*arguments)
            except Exception as error:
                found = {"why": one_line(error)}
            requests.send(found)


class OnGpu:
    """A process that works on the GPU; another one takes its place when it fails, which may have cost it the GPU.

    Attributes:
        limit: seconds that a step may take.
        until: on `time.monotonic`'s clock, when the last one has to be done; each gets a few seconds all the same.
    """

    def __init__(self) -> None:
        self.limit, self.until = LIMIT, float("inf")
        self._start()

    def _start(self) -> None:
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=False)
        self._process.start()
        theirs.close()

    def __call__(self, step: Callable[..., Any], *arguments: Any) -> Any:
        """What the step returns, or {"why": ...}."""
        seconds = min(self.limit, max(_LEAST, self.until - time.monotonic()))
        try:
            self._pipe.send((step, arguments))
            late = {"why": f"it did not end within {seconds:.0f} s"}
            found = self._pipe.recv() if self._pipe.poll(seconds) else late
        except (EOFError, OSError):
            self._process.join(10)
            found = {"why": f"the process ended with {self._process.exitcode}"}
        if isinstance(found, dict) and found.get("why"):
            self.renew()
        return found

    def renew(self) -> None:
        """Another process, which has nothing of what this one may have left on the GPU or in torch."""
        self.close()
        self._start()

    def close(self) -> None:
        """End the process, whatever it does."""
        self._pipe.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.join(10)

    def __enter__(self) -> OnGpu:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def visible(devices: str | None) -> dict[str, str]:
    """The environment of a program that sees just these GPUs; None: all."""
    return {**os.environ, **({} if devices is None else {"CUDA_VISIBLE_DEVICES": devices})}
