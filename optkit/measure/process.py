"""A child process that is told things and answers, one JSON object a line."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optkit.errors import OptkitError

_PR_SET_PDEATHSIG = 1


class NoAnswerError(OptkitError):
    """A child did not answer in time; it may still be at work."""


class EndedError(OptkitError):
    """A child has ended by itself."""


class Child:
    """A Python module as a child process.

    Attributes:
        pid: of the process.
    """

    def __init__(self, name: str, module: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self.name = name
        self._errors = tempfile.TemporaryFile("w+b")  # noqa: SIM115 - lives as long as the child
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**environment, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
        self.pid = self._process.pid

    def send(self, message: Mapping[str, Any]) -> None:
        """Tell it something; EndedError where it cannot hear."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as e:
            raise self._died() from e

    def receive(self, seconds: float) -> dict[str, Any]:
        """Its answer.

        Raises:
            NoAnswerError: there was none in that time.
            EndedError: it has ended.
            OptkitError: it said that something failed.
        """
        stream = self._process.stdout
        assert stream is not None
        deadline = time.monotonic() + seconds
        data = b""
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            while not data.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise NoAnswerError(f"{self.name}: no answer for {seconds:.0f} s")
                chunk = os.read(stream.fileno(), 1 << 20)
                if not chunk:
                    raise self._died()
                data += chunk
        answer: dict[str, Any] = json.loads(data)
        if "error" in answer:
            raise OptkitError(f"{self.name}: {answer['error']}")
        return answer

    def signal(self, number: int) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def close(self) -> None:
        """End the process; it may be stopped or at work, so it is killed."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self._errors.close()

    def _died(self) -> EndedError:
        code = self._process.wait()
        self._errors.seek(0)
        words = self._errors.read().decode(errors="replace").strip().splitlines()
        said = words[-1] if words else "no message"
        return EndedError(f"{self.name}: its worker ended with status {code}: {said}")


def die_with_parent() -> None:
    """A child that is stopped would outlive a parent that was killed, for ever."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def answers() -> Callable[[Mapping[str, Any]], None]:
    """What a child answers with; what libraries print then no longer gets between the answers."""
    stream = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(message: Mapping[str, Any]) -> None:
        stream.write(json.dumps(message) + "\n")
        stream.flush()

    return answer


def reason(error: Exception) -> str:
    """An error in one line."""
    return " ".join(str(error).split()) or type(error).__name__
