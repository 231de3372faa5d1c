"""What is at fault where a model fails on a GPU: the feature of its kernels, the access, the layer."""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import optkit
from benchmarks.cuda_cases import Case, check, source_and_passes
from benchmarks.on_gpu import OnGpu, one_line, said
from optkit import registry

FEATURES = ("early_launch", "cluster", "warpgroup", "row_threads", "half_attention", "tensor_fours")
"""What kernels use of newer GPUs and can do without, each by itself."""
ALL = "+".join(FEATURES)
_CHECK = 60.0
"""Seconds that a check may take."""
_RUN = "import sys,numpy as np,optkit\nwith optkit.load(sys.argv[1]) as r: r.run(dict(np.load(sys.argv[2])))"
_ACCESS = re.compile(r"=========\s+((?:Invalid|Misaligned|Program hit|.*\bat\b .*_kernel).*)")


def compile_without(case: Case, precision: str, left_out: str, folder: Path) -> Path:
    """The case compiled without these features ("cluster+warpgroup")."""
    source, passes = source_and_passes(case, precision, folder)
    target = registry.find_target("cuda")
    target = replace(target, features=target.features - set(left_out.split("+")))
    path = folder / f"{case.name}.{precision}.without.{left_out}.optk"
    optkit.compile(source, target=target, passes=passes, output=path, verify=False)
    return path


def search(case: Case, precision: str, folder: Path, on_gpu: OnGpu, workers: int, seconds: float) -> dict[str, Any]:
    """What a failing case does without each feature; what the sanitizer says; where bisection ends.

    Args:
        seconds: at most, about; bisection takes what the others leave.
    """
    deadline = time.monotonic() + seconds
    on_gpu.limit, on_gpu.until = _CHECK, deadline
    found: dict[str, Any] = {"without": {}}
    pool = ProcessPoolExecutor(workers, get_context("spawn"))
    builds = {name: pool.submit(compile_without, case, precision, name, folder) for name in (*FEATURES, ALL)}
    for name, build in builds.items():
        if time.monotonic() > deadline:
            break
        try:
            path = build.result(max(1.0, deadline - time.monotonic()))
        except Exception as error:
            found["without"][name] = {"why": one_line(error)}
            continue
        found["without"][name] = on_gpu(check, case, precision, folder, path)
    pool.shutdown(wait=False, cancel_futures=True)
    found["sanitizer"] = sanitized(case, precision, folder, deadline - time.monotonic())
    found["bisection"] = bisected(case, precision, folder, deadline - time.monotonic())
    return found


def sanitized(case: Case, precision: str, folder: Path, seconds: float) -> list[str]:
    """What compute-sanitizer finds wrong with the accesses of a run."""
    import numpy as np

    program = shutil.which("compute-sanitizer")
    if program is None:
        return ["there is no compute-sanitizer"]
    inputs = folder / f"{case.name}.npz"
    np.savez(inputs, **case.feed())
    command = [program, "--tool", "memcheck", "--print-limit", "5", sys.executable, "-c", _RUN]
    text = said([*command, str(folder / f"{case.name}.{precision}.optk"), str(inputs)], seconds)
    return _ACCESS.findall(text)[:30] or text.splitlines()[-3:]


def bisected(case: Case, precision: str, folder: Path, seconds: float) -> Any:
    """What `optkit debug bisect` finds."""
    source, passes = source_and_passes(case, precision, folder)
    program = "import sys; from optkit.cli import main; sys.exit(main())"
    verb = ["debug", "bisect", str(source), "--target", "cuda", "--passes", passes, "--samples", "1", "--json"]
    text = said([sys.executable, "-c", program, *verb], seconds)
    try:
        return json.loads(text[text.index("{") :])
    except ValueError:
        return text.splitlines()[-3:]
