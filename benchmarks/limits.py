"""`python -m benchmarks.limits`: what this machine can do at most, measured: arithmetic and memory bandwidth.

Arithmetic is a loop over vector registers alone (`limits.c`, built with the system's C compiler for this very CPU).
A kernel above it means that the probe is wrong. Bandwidth is a sum over an array far larger than the caches. With
several threads every one runs the same loop at the same time.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from optkit.artifact.link import find_linker
from optkit.errors import CompileError, OptkitError
from optkit.measure.environment import environment

KINDS = ("float32", "int8", "bfloat16")
STEPS = 1 << 22
STREAM_BYTES = 256 << 20
REPEATS = 15


@functools.cache
def _library() -> ctypes.CDLL:
    source = Path(__file__).with_name("limits.c")
    with tempfile.TemporaryDirectory(prefix="optkit-limits-") as folder:
        path = Path(folder) / "limits.so"
        command = [*find_linker(None, None), "-O2", "-march=native", "-shared", "-fPIC", str(source), "-o", str(path)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise CompileError(f"{source.name} does not compile: {(done.stderr.splitlines() or ['no message'])[0]}")
        library = ctypes.CDLL(str(path))
    for kind in KINDS:
        probe = getattr(library, f"probe_{kind}")
        probe.restype, probe.argtypes = ctypes.c_double, [ctypes.c_long]
    library.probe_bandwidth.restype = ctypes.c_double
    library.probe_bandwidth.argtypes = [ctypes.c_void_p, ctypes.c_long]
    return library


def _rate(probe: Callable[[], float], threads: int) -> float:
    """The best rate of `REPEATS` rounds in which every thread runs `probe` once; calls leave the interpreter."""
    best = 0.0
    for _ in range(REPEATS):
        done = [0.0] * threads
        gate = threading.Barrier(threads + 1)

        def work(number: int, done: list[float] = done, gate: threading.Barrier = gate) -> None:
            gate.wait()
            done[number] = probe()
            gate.wait()

        crew = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
        for thread in crew:
            thread.start()
        gate.wait()
        begin = time.perf_counter()
        gate.wait()
        best = max(best, sum(done) / (time.perf_counter() - begin))
        for thread in crew:
            thread.join()
    return best


def measure_limits(threads: int = 1) -> dict[str, float]:
    """Operations a second by arithmetic (0 where the CPU has no instruction for it), and bytes read a second.

    Raises:
        UsageError, CompileError: there is no C compiler, or it cannot build the probe.
    """
    library = _library()
    found = {kind: _rate(functools.partial(getattr(library, f"probe_{kind}"), STEPS), threads) for kind in KINDS}
    arrays = [np.ones(STREAM_BYTES // 4, np.float32) for _ in range(threads)]
    mine = iter(arrays * REPEATS)
    return found | {
        "bandwidth": _rate(lambda: float(library.probe_bandwidth(next(mine).ctypes.data, STREAM_BYTES)), threads)
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.limits", description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    try:
        found = measure_limits(options.threads)
    except OptkitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if options.json:
        print(json.dumps({"threads": options.threads, "limits": found, "environment": environment()}, indent=1))
        return 0
    for kind, rate in found.items():
        print(f"{kind:10} {rate / 1e9:8.1f} {'GB/s' if kind == 'bandwidth' else 'Gop/s'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
