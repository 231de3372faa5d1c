"""The process of one contestant: loads once, then runs whenever it is told to (python -m optkit.measure.worker).

Speaks JSON, one object a line. First line in: kind, path, threads, inputs (an .npz), options. Answer: load, first,
versions. Every further line in: seconds, iterations, settle. Answer: times, the seconds of every run.
"""

from __future__ import annotations

import gc
import importlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata

import numpy as np

from optkit.measure.process import answers, die_with_parent, reason

Feed = Mapping[str, np.ndarray]
Loaded = tuple[Callable[[], object], dict[str, str]]
Loader = Callable[[str, int, Feed, Mapping[str, str]], Loaded]
"""loader(path, threads, inputs, options) -> what runs once on these inputs, and the versions it is made of."""

_ALIGNMENT = 64


def main() -> int:
    """Serve until the input ends."""
    die_with_parent()
    answer = answers()
    try:
        setup = json.loads(sys.stdin.readline())
        with np.load(setup["inputs"]) as file:
            feed = {name: _aligned(file[name]) for name in file.files}
        begin = time.perf_counter()
        run, versions = loader(setup["kind"])(setup["path"], setup["threads"], feed, setup["options"])
        loaded = time.perf_counter()
        run()
        answer({"load": loaded - begin, "first": time.perf_counter() - loaded, "versions": versions})
        gc.collect()
        gc.disable()
        for line in sys.stdin:
            order = json.loads(line)
            answer({"times": _turn(run, order["seconds"], order["iterations"], order["settle"])})
            gc.collect()
    except Exception as e:
        answer({"error": reason(e)})
        return 1
    return 0


def _turn(run: Callable[[], object], seconds: float, iterations: int, settle: int) -> list[float]:
    for _ in range(settle):
        run()
    clock = time.perf_counter
    times: list[float] = []
    end = clock() + seconds
    while True:
        begin = clock()
        run()
        now = clock()
        times.append(now - begin)
        if now >= end and len(times) >= iterations:
            return times


def loader(kind: str) -> Loader:
    """What loads a contestant of that kind; "module:function" is imported."""
    module, _, function = kind.partition(":")
    if not function:
        return _LOADERS[kind]
    found: Loader = getattr(importlib.import_module(module), function)
    return found


def _load_artifact(path: str, threads: int, feed: Feed, options: Mapping[str, str]) -> Loaded:
    from optkit.runtime import load

    runner = load(path, threads=threads)
    versions = {k: v for k, v in runner.manifest.versions.items() if k in ("optkit", "tvm", "llvm")}
    return lambda: runner.run(feed), versions


def _load_onnx(path: str, threads: int, feed: Feed, options: Mapping[str, str]) -> Loaded:
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    # Its threads may spin during its own turn, as they do by default; between turns the process is stopped.
    session = ort.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, feed), {"onnxruntime": metadata.version("onnxruntime")}


_LOADERS: dict[str, Loader] = {"optk": _load_artifact, "onnx": _load_onnx}


def _aligned(array: np.ndarray) -> np.ndarray:
    """Inputs aligned for vector loads: the same for every contestant, and none has to copy them."""
    memory = np.empty(array.nbytes + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


if __name__ == "__main__":
    sys.exit(main())
