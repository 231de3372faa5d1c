"""`python -m benchmarks.cuda`: optkit and torch side by side on an NVIDIA GPU, checked and timed within minutes.

Needs torch with CUDA, nvcc and TVM. Without a network, optkit is installed there from its folder by
`pip install --no-deps --no-build-isolation --no-index .`. Models are exported and compiled by several processes, by
torch.compile too. Model by model, as they are: answers against ONNX Runtime on the CPU (float16: the norm of the error
over the output's) or, in INT8, which has float16 between the layers of transformers, against optkit's own CPU artifact
of the same model. Then, the processors idle: in a second file beside --output every kernel's time inside the run, and
times by CUDA events, contestants in rotation: optkit, torch eager and replayed as one graph, torch.compile. What does
not finish within --minutes is left out and named. At the end: what failures look like, that nothing passes through the
host, with --tune-minutes what tuning takes and gains, and of the first cases that failed which feature of their
kernels, which access and which layer is at fault, as far as --fault-minutes go.

Each step is a process's own, and ended where it hangs. Everything is written to --output after every case; a short
table comes last.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import optkit
from benchmarks import cuda_peers as peers
from benchmarks.cuda_behaviour import failures, transfers
from benchmarks.cuda_builds import MODELS
from benchmarks.cuda_cases import IN_BATCHES, ONE_BATCH, Case, check, prepare
from benchmarks.cuda_faults import search
from benchmarks.cuda_kernels import kernel_times
from benchmarks.on_gpu import LIMIT, OnGpu, one_line
from optkit.files import write_whole
from optkit.measure.environment import environment
from optkit.tune.session import tune

CHECK, _LATE, _RACES = 120.0, 30.0, 5.0
"""Seconds: of a check beside builds, of the last case behind the deadline, and kept for the race of a case."""


def ours(path: Path, feed: Mapping[str, np.ndarray]) -> tuple[Any, peers.Call]:
    """A runner and a call of it on tensors that lie on the GPU."""
    import torch

    runner = optkit.load(path)
    tensors = {name: torch.from_numpy(array).cuda() for name, array in feed.items()}
    return runner, lambda: runner.run_on_device(tensors)


def race(case: Case, precisions: list[str], modes: list[str], folder: Path) -> dict[str, Any]:
    """Seconds by contestant, every round; why one is missing."""
    calls: dict[str, peers.Call] = {}
    missing: dict[str, str] = {}
    runners = []

    def enter(name: str, make: Any) -> None:
        try:
            call = make()
            call()
            calls[name] = call
        except Exception as error:
            missing[name] = one_line(error)

    for precision in precisions:
        path = folder / f"{case.name}.{precision}.optk"

        def own(path: Path = path) -> peers.Call:
            runner, call = ours(path, case.feed())
            runners.append(runner)
            return call

        enter(f"optkit {precision}", own)
    enter("torch eager", lambda: peers.eager(case.model, case.feed()))
    for mode in modes:
        enter(f"torch.compile {mode}", lambda mode=mode: peers.compiled(case.model, case.feed(), mode))
    # Last: a capture that fails leaves torch on its stream.
    if "torch eager" in calls and case.model not in ONE_BATCH:
        enter("torch eager, replayed", lambda: peers.replayed(calls["torch eager"]))
    seconds = peers.seconds(calls)
    for runner in runners:
        runner.close()
    return {"seconds": seconds, "missing": missing}


def tuning(case: Case, folder: Path, records: Path) -> dict[str, Any]:
    """What tuning a model takes, and what it gains over the defaults."""
    source = folder / f"{case.name}.onnx"
    began = time.perf_counter()
    tuned = tune(source, target="cuda", passes="fp16", tuning_db=records)
    seconds = time.perf_counter() - began
    path = folder / f"{case.name}.tuned.optk"
    optkit.compile(source, target="cuda", passes="fp16", output=path, tuning_db=records, verify=False)
    runners, calls = [], {}
    for name, artifact in (("default", folder / f"{case.name}.fp16.optk"), ("tuned", path)):
        runner, call = ours(artifact, case.feed())
        runners.append(runner)
        calls[name] = call
    times = peers.seconds(calls)
    for runner in runners:
        runner.close()
    return {
        "case": case.name,
        "seconds": seconds,
        "operators": len(tuned.outcomes),
        "kernels_speedup": tuned.speedup(),
        "speedup": float(np.median(times["default"]) / np.median(times["tuned"])),
        "times": times,
        "problems": tuned.problems,
        "records": [
            [str(o.job.operator), o.plan.template, dict(o.plan.params), o.default, o.best] for o in tuned.outcomes
        ],
    }


def table(result: Mapping[str, Any]) -> str:
    """A line a case: errors, microseconds, best peer over ours."""
    lines = [
        f"{'case':20} {'fp16 err':>9} {'int8 err':>9} {'fp16 us':>9} {'int8 us':>9} {'best peer us':>12}  peer/ours"
    ]
    ratios: dict[int, list[float]] = {}
    for name, case in result["cases"].items():
        times = {who: float(np.median(t)) * 1e6 for who, t in case.get("race", {}).get("seconds", {}).items()}
        own = {
            p: min((t for who, t in times.items() if who.startswith(f"optkit {p}")), default=0.0)
            for p in ("fp16", "int8")
        }
        peer = min((t for who, t in times.items() if who.startswith("torch")), default=0.0)
        errors = {p: max(case.get(p, {}).get("errors", {"": float("nan")}).values()) for p in ("fp16", "int8")}
        ratio = peer / own["fp16"] if own["fp16"] and peer else float("nan")
        if np.isfinite(ratio):
            ratios.setdefault(int(name.rpartition(".b")[2]), []).append(ratio)
        figures = f"{errors['fp16']:9.1e} {errors['int8']:9.1e} {own['fp16']:9.1f} {own['int8']:9.1f} {peer:12.1f}"
        lines.append(f"{name:20} {figures}  {ratio:.2f}")
    for batch, values in sorted(ratios.items()):
        lines.append(
            f"batch {batch}: geometric mean {float(np.exp(np.mean(np.log(values)))):.2f} of {len(values)} models"
        )
    return "\n".join(lines)


def answers(case: Case, precisions: list[str], folder: Path, on_gpu: OnGpu) -> dict[str, Any]:
    """What a case answers, by precision."""
    entry: dict[str, Any] = {}
    for precision in precisions:
        found = on_gpu(check, case, precision, folder)
        entry[precision] = {"errors": {"": float("inf")}, "passed": False, **found} if "why" in found else found
    return entry


def sound(entry: Mapping[str, Any], precisions: list[str]) -> list[str]:
    """The precisions of a case that ran."""
    return [precision for precision in precisions if "why" not in entry[precision]]


def shown(entry: Mapping[str, Any]) -> str:
    """Microseconds by contestant, and who is missing."""
    times = {who: round(float(np.median(t)) * 1e6, 1) for who, t in entry["race"]["seconds"].items()}
    return f"{times} {entry['race'].get('missing') or entry['race'].get('why') or ''}"


def faults(failed: list[tuple[Case, str]], folder: Path, on_gpu: OnGpu, workers: int, minutes: float) -> dict[str, Any]:
    """What is at fault in the first of the cases that failed; by case and precision."""
    deadline, found = time.monotonic() + 60 * minutes, {}
    for case, precision in failed:
        if (left := deadline - time.monotonic()) <= 0:
            break
        found[f"{case.name}.{precision}"] = search(case, precision, folder, on_gpu, workers, left)
        print(f"fault in {case.name}.{precision}: {str(found[f'{case.name}.{precision}'])[:1500]}", flush=True)
    return found


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.cuda", description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--precision", nargs="+", choices=["fp16", "int8"], default=["fp16", "int8"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 64])
    parser.add_argument("--modes", nargs="*", default=["reduce-overhead"], help="of torch.compile")
    parser.add_argument("--tune-minutes", type=float, default=0.0, help="for tuning the first model, first batch, too")
    parser.add_argument("--minutes", type=float, default=6.0, help="for builds, answers and races")
    parser.add_argument("--fault-minutes", type=float, default=1.0)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument("--output", type=Path, default=Path("build/benchmarks/cuda.json"))
    return parser.parse_args()


def _passed(result: Mapping[str, Any], case: Case, precision: str) -> bool:
    """Whether its answers are right; what was not built or not run has no fault to look for."""
    built = "error" not in result["builds"].get(f"{case.name}.{precision}", {"error": ""})
    return not built or case.name not in result["cases"] or bool(result["cases"][case.name][precision]["passed"])


def main() -> int:
    options = parse()
    began = time.monotonic()
    deadline = began + 60 * options.minutes
    cases = [
        Case(model if batch == 1 else IN_BATCHES.get(model, model), batch)
        for batch in options.batch
        for model in options.models
    ]
    result: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "environment": environment(), "cases": {}}
    query = "name,driver_version,clocks.sm,clocks.max.sm,clocks.mem"
    asked = [shutil.which("nvidia-smi") or "true", f"--query-gpu={query}", "--format=csv,noheader"]
    result["gpu"] = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    options.output.parent.mkdir(parents=True, exist_ok=True)

    def keep() -> None:
        write_whole(options.output, json.dumps(result, indent=1, default=str).encode() + b"\n")

    kernels: dict[str, Any] = {}
    with OnGpu() as on_gpu, tempfile.TemporaryDirectory(prefix="optkit-cuda-") as name:
        folder = Path(name)
        builds = result["builds"] = {}
        on_gpu.limit, on_gpu.until = CHECK, deadline + _LATE
        # Answers while others are built; times when the processors are idle.
        for case in prepare(
            cases, options.precision, options.modes, folder, options.workers, deadline - _RACES * len(cases), builds
        ):
            entry = result["cases"][case.name] = answers(case, options.precision, folder, on_gpu)
            keep()
            state = {p: entry[p].get("why") or entry[p]["errors"] for p in options.precision}
            print(f"{time.monotonic() - began:.0f} s: {case.name}: {state}", flush=True)
        on_gpu.limit = LIMIT
        result["torch"], result["ceilings"] = on_gpu(peers.version), on_gpu(peers.ceilings)
        for case in cases:
            if time.monotonic() > deadline or case.name not in result["cases"]:
                result.setdefault("left_out", []).append(case.name)
                continue
            entry = result["cases"][case.name]
            for precision in sound(entry, options.precision):
                path = folder / f"{case.name}.{precision}.optk"
                kernels[f"{case.name}.{precision}"] = on_gpu(kernel_times, path, case.feed())
            write_whole(options.output.with_suffix(".kernels.json"), json.dumps(kernels, indent=1).encode() + b"\n")
            found = on_gpu(race, case, sound(entry, options.precision), options.modes, folder)
            entry["race"] = {"seconds": {}, **found}
            if found.get("missing"):
                on_gpu.renew()
            keep()
            print(f"{time.monotonic() - began:.0f} s: {case.name}: {shown(entry)}", flush=True)
        steps: list[tuple[Any, ...]] = [(transfers,), (failures,)]
        if options.tune_minutes:
            steps.append((tuning, options.output.with_suffix(".tuning.db").absolute()))
        for step, *more in steps:
            on_gpu.limit, on_gpu.until = 60 * options.tune_minutes if more else LIMIT, float("inf")
            result[step.__name__] = on_gpu(step, cases[0], folder, *more)
            keep()
            print(f"{step.__name__}: {str(result[step.__name__])[:1500]}", flush=True)
        failed = [(c, p) for c in cases for p in options.precision if not _passed(result, c, p)]
        result["faults"] = faults(failed, folder, on_gpu, options.workers, options.fault_minutes)
        keep()
    print(table(result))
    return int(not all(entry[p]["passed"] for entry in result["cases"].values() for p in options.precision))


if __name__ == "__main__":
    sys.exit(main())
