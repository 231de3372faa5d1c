"""`python -m tests.robustness.run --count 10000`: is every malformed model refused in one clear line?

Every mutant is compiled in a process of its own, forked from one that has everything imported. It must be
compiled, or refused by an error of optkit's own in one line, within 10 s and 2 GB, and leave nothing behind.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import onnx

import optkit
import optkit.api
from optkit.errors import OptkitError
from tests.robustness.corpus import corpus
from tests.robustness.mutate import mutant

SECONDS, BYTES = 10.0, 2 << 30


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant; `problem` is empty where it is as it should be."""

    seed: int
    status: str
    text: str
    seconds: float
    problem: str


def _compile(path: Path) -> tuple[str, str]:
    try:
        optkit.compile(path, output=path.with_suffix(".optk"))
    except OptkitError as error:
        return "refused", str(error)
    except MemoryError:
        return "bug", "MemoryError"
    except Exception as error:
        return "bug", f"{type(error).__name__}: {error}"
    return "compiled", ""


def _child(path: Path, answer: int) -> None:
    """Compile in a forked process; does not return."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    os.chdir(path.parent)
    warnings.simplefilter("ignore")
    os.write(answer, json.dumps(_compile(path)).encode())
    os._exit(0)


def import_everything(model: onnx.ModelProto) -> None:
    """Import what compiling `model` imports, so that no child has to; a compilation would start threads here."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
            path = Path(folder) / "m.onnx"
            path.write_bytes(model.SerializeToString())
            _compile(path)
        with os.fdopen(write, "w") as names:
            names.write("\n".join(sys.modules))
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as names:
        for name in names.read().splitlines():
            if name != "__main__":
                importlib.import_module(name)
    os.waitpid(child, 0)


def try_mutant(seed: int, models: list[onnx.ModelProto]) -> Outcome:
    """Compile mutant number `seed` in a fork."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        path = Path(folder) / "work" / "m.onnx"
        path.parent.mkdir()
        path.write_bytes(mutant(seed, models))
        read, write = os.pipe()
        start = time.monotonic()
        child = os.fork()
        if child == 0:
            os.close(read)
            _child(path, write)
        os.close(write)
        status, peak = _wait(child, start)
        seconds = time.monotonic() - start
        answer = b""
        while chunk := os.read(read, 1 << 16):
            answer += chunk
        os.close(read)
        left = {p.name for p in path.parent.iterdir()} - {"m.onnx", "m.optk", "m.report.json"}
        strays = {p.name for p in Path(folder).iterdir()} - {"work"}
    kind, text = json.loads(answer) if answer else ("crashed", f"status {status}")
    return Outcome(seed, kind, text, seconds, _problem(kind, text, seconds, peak, left | strays))


def _wait(child: int, start: float) -> tuple[int, int]:
    """Exit status and peak resident bytes; a child that takes twice its time is killed."""
    while True:
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            return status, usage.ru_maxrss * 1024
        if time.monotonic() - start > 2 * SECONDS:
            os.kill(child, signal.SIGKILL)
            _, status, usage = os.wait4(child, 0)
            return status, usage.ru_maxrss * 1024
        time.sleep(0.002)


def _problem(kind: str, text: str, seconds: float, peak: int, left: set[str]) -> str:
    if kind in ("bug", "crashed"):
        return f"{kind}: {text}"
    if seconds > SECONDS:
        return f"took {seconds:.1f} s"
    if peak > BYTES:
        return f"took {peak >> 20} MB"
    if kind == "refused" and ("\n" in text or len(text) > 2000 or not text):
        return f"no clear line: {text[:200]!r}"
    return f"left {sorted(left)}" if left else ""


def valid(seed: int, models: list[onnx.ModelProto]) -> bool:
    """Whether ONNX's own checker accepts the mutant."""
    try:
        onnx.checker.check_model(onnx.ModelProto.FromString(mutant(seed, models)), full_check=True)
    except Exception:
        return False
    return True


def main() -> int:
    """Run and report; 1 where any mutant is a problem."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    models = corpus()
    start = time.monotonic()
    import_everything(models[0])
    seeds = range(options.first, options.first + options.count)
    problems = 0
    counts: Counter[str] = Counter()
    slowest = 0.0
    # Processes and no threads: a fork of a process with threads may wait for a lock for ever.
    with multiprocessing.get_context("fork").Pool(options.jobs) as pool:
        for outcome in pool.imap_unordered(functools.partial(try_mutant, models=models), seeds):
            counts[outcome.status] += 1
            slowest = max(slowest, outcome.seconds)
            if outcome.problem:
                problems += 1
                print(f"{outcome.seed}: {outcome.problem}", flush=True)
    share = sum(valid(seed, models) for seed in seeds) / len(seeds)
    minutes = (time.monotonic() - start) / 60
    print(f"{dict(counts)}, {problems} problems, {share:.0%} valid, slowest {slowest:.1f} s, {minutes:.1f} min")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
