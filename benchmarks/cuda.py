"""`python -m benchmarks.cuda`: optkit and torch side by side on an NVIDIA GPU, checked and timed within minutes.

Needs torch with CUDA, nvcc and TVM. Without a network, optkit is installed there from its folder by
`pip install --no-deps --no-build-isolation --no-index .`. Models are exported and compiled by several processes first.
Then, model by model: answers against ONNX Runtime on the CPU (float16: the norm of the error over the output's) or, in
INT8, which has float16 between the layers of transformers, against optkit's own CPU artifact of the same model; and
times by CUDA events, contestants in rotation: optkit as it is called and replayed as one graph, torch eager and
replayed, torch.compile. What does not finish within --minutes is left out and named. At the end: what failures look
like, that nothing passes through the host, and with --tune what tuning takes and gains.

Everything is written to --output after every case; a short table comes last.
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
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

import optkit
from benchmarks import cuda_peers as peers
from benchmarks.cuda_builds import MODELS
from benchmarks.cuda_cases import ONE_BATCH, Case, check, one_line, prepare
from optkit.errors import OptkitError
from optkit.files import write_whole
from optkit.measure.environment import environment
from optkit.tune.session import tune


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
        if not path.is_file():
            continue
        runner, call = ours(path, case.feed())
        runners.append(runner)
        enter(f"optkit {precision}", lambda call=call: call)
        enter(f"optkit {precision}, replayed", lambda call=call: peers.replayed(call))
    enter("torch eager", lambda: peers.eager(case.model, case.feed()))
    if "torch eager" in calls and case.model not in ONE_BATCH:
        enter("torch eager, replayed", lambda: peers.replayed(calls["torch eager"]))
    for mode in modes:
        enter(f"torch.compile {mode}", lambda mode=mode: peers.compiled(case.model, case.feed(), mode))
    seconds = peers.seconds(calls)
    for runner in runners:
        runner.close()
    return {"seconds": seconds, "missing": missing}


def transfers(case: Case, folder: Path) -> dict[str, Any]:
    """What a run with tensors of torch copies between host and GPU, by the profiler; and whether inputs are shared."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    runner, call = ours(folder / f"{case.name}.fp16.optk", case.feed())
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        outputs = call()
        torch.cuda.synchronize()
    copies = [event.name for event in found.events() if "memcpy" in event.name.lower()]
    result = {name: torch.from_dlpack(value) for name, value in outputs.items()}
    runner.close()
    return {
        "between_host_and_gpu": [name for name in copies if "HtoD" in name or "DtoH" in name],
        "on_gpu": len(copies),
        "outputs": {name: [str(value.device), list(value.shape)] for name, value in result.items()},
    }


def tuning(case: Case, folder: Path) -> dict[str, Any]:
    """What tuning a model takes, and what it gains over the defaults, replayed as one graph."""
    source, records = folder / f"{case.name}.onnx", folder / "tuning.db"
    began = time.perf_counter()
    tuned = tune(source, target="cuda", passes="fp16", tuning_db=records)
    seconds = time.perf_counter() - began
    path = folder / f"{case.name}.tuned.optk"
    optkit.compile(source, target="cuda", passes="fp16", output=path, tuning_db=records, verify=False)
    runners, calls = [], {}
    for name, artifact in (("default", folder / f"{case.name}.fp16.optk"), ("tuned", path)):
        runner, call = ours(artifact, case.feed())
        runners.append(runner)
        calls[name] = peers.replayed(call)
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


_FAILURES = {
    "no device": ("", "import optkit,sys; optkit.load(sys.argv[1])"),
    "out of memory": (
        None,
        "import torch,optkit,sys,json,numpy as np\n"
        "feed={k:np.zeros(s,d) for k,(s,d) in json.loads(sys.argv[2]).items()}\n"
        "free,_=torch.cuda.mem_get_info(); keep=torch.empty(free-(192<<20),dtype=torch.uint8,device='cuda')\n"
        "r=optkit.load(sys.argv[1]); r.run(feed); raise SystemExit('it had enough')",
    ),
    "lost device": (
        None,
        "import torch,optkit,sys,json,numpy as np\n"
        "feed={k:np.zeros(s,d) for k,(s,d) in json.loads(sys.argv[2]).items()}\n"
        "r=optkit.load(sys.argv[1]); r.run(feed)\n"
        "t=torch.zeros(4,device='cuda'); t[torch.tensor([99],device='cuda')]=1\n"
        "r.run(feed); raise SystemExit('it went on')",
    ),
}


def failures(case: Case, folder: Path) -> dict[str, list[str]]:
    """The last lines that a program prints when it meets each failure."""
    path = folder / f"{case.name}.fp16.optk"
    feed = json.dumps({name: [array.shape, array.dtype.name] for name, array in case.feed().items()})
    found = {}
    for name, (visible, program) in _FAILURES.items():
        wrapped = (
            f"import optkit.errors\ntry:\n    exec({program!r})\nexcept optkit.errors.OptkitError as e:\n    print(e)"
        )
        hidden = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
        done = subprocess.run(
            [sys.executable, "-c", wrapped, str(path), feed],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **hidden},
            timeout=120,
        )
        found[name] = [*done.stdout.strip().splitlines(), *done.stderr.strip().splitlines()[-1:]]
    foreign = folder / f"{case.name}.sm_120.optk"
    optkit.compile(folder / f"{case.name}.onnx", target="cuda:sm_120", passes="fp16", output=foreign, verify=False)
    try:
        optkit.load(foreign)
        found["wrong architecture"] = ["it was loaded"]
    except OptkitError as error:
        found["wrong architecture"] = [str(error)]
    return found


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


class OnGpu:
    """A process that works on the GPU; another one takes its place when it fails, which may have cost it the GPU."""

    def __init__(self) -> None:
        self._pool = self._start()

    @staticmethod
    def _start() -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, get_context("spawn"))

    def __call__(self, step: Callable[..., Any], *arguments: Any) -> Any:
        """What the step returns, or {"why": ...}."""
        try:
            found = self._pool.submit(step, *arguments).result()
        except Exception as error:
            found = {"why": one_line(error)}
        if isinstance(found, dict) and found.get("why"):
            self.close()
            self._pool = self._start()
        return found

    def close(self) -> None:
        """End the process."""
        self._pool.shutdown(cancel_futures=True)


def results(case: Case, precisions: list[str], modes: list[str], folder: Path, on_gpu: OnGpu) -> dict[str, Any]:
    """Answers and times of a case."""
    entry: dict[str, Any] = {}
    for precision in precisions:
        found = on_gpu(check, case, precision, folder)
        entry[precision] = {"errors": {"": float("inf")}, "passed": False, **found} if "why" in found else found
    sound = [precision for precision in precisions if "why" not in entry[precision]]
    entry["race"] = {"seconds": {}, **on_gpu(race, case, sound, modes, folder)}
    return entry


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.cuda", description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--precision", nargs="+", choices=["fp16", "int8"], default=["fp16", "int8"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 64])
    parser.add_argument("--modes", nargs="*", default=["reduce-overhead"], help="of torch.compile")
    parser.add_argument("--tune", action="store_true", help="also tune the first model, at the first batch")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument("--output", type=Path, default=Path("build/benchmarks/cuda.json"))
    return parser.parse_args()


def main() -> int:
    options = parse()
    deadline = time.monotonic() + 60 * options.minutes
    cases = [
        Case(model, batch)
        for batch in options.batch
        for model in options.models
        if batch == 1 or model not in ONE_BATCH
    ]
    result: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "environment": environment(), "cases": {}}
    query = "name,driver_version,clocks.sm,clocks.max.sm,clocks.mem"
    asked = [shutil.which("nvidia-smi") or "true", f"--query-gpu={query}", "--format=csv,noheader"]
    result["gpu"] = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    options.output.parent.mkdir(parents=True, exist_ok=True)

    def keep() -> None:
        write_whole(options.output, json.dumps(result, indent=1, default=str).encode() + b"\n")

    on_gpu = OnGpu()
    with tempfile.TemporaryDirectory(prefix="optkit-cuda-") as name:
        folder = Path(name)
        result["builds"] = prepare(cases, options.precision, folder, options.workers)
        result["torch"], result["ceilings"] = on_gpu(peers.version), on_gpu(peers.ceilings)
        keep()
        for case in cases:
            if time.monotonic() > deadline:
                result.setdefault("left_out", []).append(case.name)
                continue
            entry = result["cases"][case.name] = results(case, options.precision, options.modes, folder, on_gpu)
            keep()
            state = {p: entry[p].get("why") or entry[p]["errors"] for p in options.precision}
            print(f"{case.name}: {state} {entry['race'].get('why', '')}", flush=True)
        steps = (transfers, failures, tuning) if options.tune else (transfers, failures)
        for step in steps:
            result[step.__name__] = on_gpu(step, cases[0], folder)
            keep()
            print(f"{step.__name__}: {str(result[step.__name__])[:1500]}", flush=True)
        on_gpu.close()
    print(table(result))
    return int(not all(entry[p]["passed"] for entry in result["cases"].values() for p in options.precision))


if __name__ == "__main__":
    sys.exit(main())
