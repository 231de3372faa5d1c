"""Candidates timed on a GPU: many calls as one CUDA graph, so that what the host does between them does not count."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tvm
import tvm_ffi

from optkit.errors import OptkitError
from optkit.runtime.gpu import CUDART, load_cuda_runtime
from optkit.tune.candidate import FUNCTION
from optkit.tune.worker import argument_sets, typical

_CALLS = 20
"""Of a graph."""
_WARM = 0.05
"""Seconds of launches that do not count: a GPU that has nothing to do runs at a fraction of its clock."""
_GLOBAL = 0  # cudaStreamCaptureModeGlobal


class _Runtime:
    """The functions of the CUDA runtime that TVM has loaded, which raise where they fail."""

    def __init__(self) -> None:
        load_cuda_runtime()
        self._library = ctypes.CDLL(CUDART)
        self._library.cudaGetErrorString.restype = ctypes.c_char_p

    def __call__(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            text = self._library.cudaGetErrorString(status)
            raise OptkitError(f"CUDA: {name}: {text.decode() if text else status}")


def _capture(runtime: _Runtime, call: Callable[[int], None], device: Any, stream: ctypes.c_void_p) -> ctypes.c_void_p:
    """A graph of so many calls, told their numbers, ready to be launched; the first one outside loads the code."""
    graph, ready = ctypes.c_void_p(), ctypes.c_void_p()
    with tvm_ffi.use_raw_stream(device, stream.value or 0):
        call(0)
        runtime("cudaStreamSynchronize", stream)
        runtime("cudaStreamBeginCapture", stream, _GLOBAL)
        for number in range(_CALLS):
            call(number)
        runtime("cudaStreamEndCapture", stream, ctypes.byref(graph))
    runtime("cudaGraphInstantiate", ctypes.byref(ready), graph, ctypes.c_ulonglong(0))
    runtime("cudaGraphDestroy", graph)
    return ready


def time_on_gpu(candidates: Sequence[Mapping[str, Any]], device: str, rounds: int, seconds: float) -> list[float]:
    """Seconds of one call of each candidate; in every round each has a turn of `seconds`.

    What fails is left as it is: the process ends, and what it has on the GPU with it.

    Raises:
        OptkitError, RuntimeError: a candidate cannot be loaded, launched or captured.
    """
    runtime, place = _Runtime(), tvm.runtime.device(device, 0)
    stream = ctypes.c_void_p()
    runtime("cudaStreamCreate", ctypes.byref(stream))
    begin, end = ctypes.c_void_p(), ctypes.c_void_p()
    for event in (begin, end):
        runtime("cudaEventCreate", ctypes.byref(event))
    made: list[tuple[ctypes.c_void_p, Any]] = []

    def turn(graph: ctypes.c_void_p) -> list[float]:
        found: list[float] = []
        until = time.perf_counter() + seconds
        while len(found) < 5 or time.perf_counter() < until:
            runtime("cudaEventRecord", begin, stream)
            runtime("cudaGraphLaunch", graph, stream)
            runtime("cudaEventRecord", end, stream)
            runtime("cudaEventSynchronize", end)
            elapsed = ctypes.c_float()
            runtime("cudaEventElapsedTime", ctypes.byref(elapsed), begin, end)
            found.append(elapsed.value * 1e-3 / _CALLS)
        return found

    for entry in candidates:
        function = tvm.runtime.load_module(entry["library"])[FUNCTION]
        sets = argument_sets(entry["arguments"], _CALLS, place)

        def call(number: int, function: Any = function, sets: Sequence[Sequence[Any]] = sets) -> None:
            function(*sets[number % len(sets)])

        made.append((_capture(runtime, call, place, stream), sets))
    warm = time.perf_counter() + _WARM
    while time.perf_counter() < warm:
        for graph, _ in made:
            runtime("cudaGraphLaunch", graph, stream)
        runtime("cudaStreamSynchronize", stream)
    times: list[list[float]] = [[] for _ in made]
    for number in range(rounds):
        turns = range(len(made)) if number % 2 == 0 else reversed(range(len(made)))
        for i in turns:
            times[i] += turn(made[i][0])
    for graph, _ in made:
        runtime("cudaGraphExecDestroy", graph)
    for event in (begin, end):
        runtime("cudaEventDestroy", event)
    runtime("cudaStreamDestroy", stream)
    return [typical(found) for found in times]
