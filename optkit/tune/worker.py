"""The processes that build and run candidates (python -m optkit.tune.worker build|run CORE).

They speak JSON, one object a line, and say first that they are ready. `build` is told operator, template, params,
target, out, and answers with the arguments of the library's function. `run` is told libraries, their arguments, rounds
and seconds, and answers with the times of every one. "failed" in an answer is about the candidate, "error" about the
worker.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from optkit.errors import OptkitError
from optkit.measure.process import answers, die_with_parent, reason
from optkit.runtime.failures import cause

_COLD = 64 << 20
"""Bytes of copies of the weights that calls take in turn, so that each finds its own out of the caches, as the layers
of a model do whose weights are larger than they; activations stay where the call before left them."""
_COPIES = 64
_LARGE = 1 << 12


class _GpuError(OptkitError):
    """A candidate failed on a GPU, which may have cost this process the GPU: it ends, another takes its place."""


def main() -> int:
    """Serve until the input ends."""
    die_with_parent()
    role, *cores = sys.argv[1:]
    if cores and cores[0]:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, {int(core) for core in cores[0].split(",")})
    answer = answers()
    serve = {"build": _build, "run": _run}[role]
    import optkit.tune.candidate  # noqa: F401 - TVM takes a second, which no candidate is to blame for

    answer({"ready": True})
    for line in sys.stdin:
        try:
            answer(serve(json.loads(line)))
        except _GpuError as error:
            answer({"failed": reason(error)})
            return 1
        except OptkitError as error:
            answer({"failed": reason(error)})
        except Exception as error:
            answer({"error": reason(error)})
    return 0


def _build(order: Mapping[str, Any]) -> dict[str, Any]:
    from optkit.compiler.operator import Operator, Plan
    from optkit.registry import find_target
    from optkit.tune.candidate import build_candidate

    target = find_target(order["target"]).with_threads(order["threads"])
    plan = Plan(order["template"], order["params"])
    arguments = build_candidate(Operator.parse(order["operator"]), plan, target, Path(order["out"]))
    return {"arguments": [argument.as_dict() for argument in arguments]}


def _run(order: Mapping[str, Any]) -> dict[str, Any]:
    """Times of the libraries, which have turns in every round."""
    if order["device"] != "cpu":
        from optkit.tune.gpu import time_on_gpu

        try:
            return {"seconds": time_on_gpu(order["candidates"], order["device"], order["rounds"], order["seconds"])}
        except Exception as error:
            raise _GpuError(cause(str(error))) from error
    calls = [_prepare(entry["library"], entry["arguments"]) for entry in order["candidates"]]
    times: list[list[float]] = [[] for _ in calls]
    for number in range(order["rounds"]):
        turns = range(len(calls)) if number % 2 == 0 else reversed(range(len(calls)))
        for i in turns:
            times[i] += _turn(calls[i], order["seconds"])
    return {"seconds": [typical(found) for found in times]}


def typical(times: Sequence[float]) -> float:
    """The median of the faster half: what disturbs a machine only ever adds time."""
    ordered = sorted(times)
    return float(np.median(ordered[: math.ceil(len(ordered) / 2)]))


def _turn(call: Callable[[], None], seconds: float) -> list[float]:
    """Times of at least five calls after one that does not count, and of that many seconds."""
    clock = time.perf_counter
    call()
    times: list[float] = []
    end = clock() + seconds
    while len(times) < 5 or clock() < end:
        begin = clock()
        call()
        times.append(clock() - begin)
    return times


def _prepare(library: str, arguments: Sequence[Mapping[str, Any]]) -> Callable[[], None]:
    """One call of a library's function: on the same activations, and on the next copy of the weights."""
    import tvm

    from optkit.tune.candidate import FUNCTION

    function = tvm.runtime.load_module(library)[FUNCTION]
    sets = argument_sets(arguments, _COPIES, tvm.cpu())
    place = 0

    def call() -> None:
        nonlocal place
        place = (place + 1) % len(sets)
        function(*sets[place])

    return call


def argument_sets(listed: Sequence[Mapping[str, Any]], most: int, device: Any) -> list[list[Any]]:
    """Arguments for one call after the other: the same activations, and the next copy of the weights.

    Args:
        listed: "shape", "dtype" and "constant" of each.
        most: sets.
    """
    import tvm

    generator = np.random.default_rng(0)
    given = [(numbers(a["shape"], a["dtype"], generator), bool(a["constant"])) for a in listed]
    size = sum(array.nbytes for array, constant in given if constant and array.nbytes >= _LARGE)
    copies = max(1, min(most, _COLD // size)) if size else 1
    shared = [tvm.runtime.tensor(array, device) for array, _ in given]
    return [
        [
            tvm.runtime.tensor(array, device) if number and constant and array.nbytes >= _LARGE else tensor
            for tensor, (array, constant) in zip(shared, given, strict=True)
        ]
        for number in range(copies)
    ]


def numbers(shape: Sequence[int], dtype: str, generator: np.random.Generator) -> np.ndarray:
    """Ordinary numbers of a type; bits of bfloat16 are numbers about one."""
    if dtype == "uint32":
        return np.ascontiguousarray(numbers([*shape, 2], "uint16", generator)).view("uint32")[..., 0]
    if dtype == "uint16":
        return np.asarray(generator.integers(0x3F00, 0x4000, shape, "uint16"))
    if "int" in dtype:
        low, high = (0, 255) if dtype == "uint8" else (-127, 127)
        return np.asarray(generator.integers(low, high, shape, endpoint=True).astype(dtype))
    return np.asarray(generator.standard_normal(shape, "float32").astype(dtype))


if __name__ == "__main__":
    sys.exit(main())
