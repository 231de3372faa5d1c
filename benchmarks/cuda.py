"""`python -m benchmarks.cuda`: optkit and torch side by side on an NVIDIA GPU, checked and timed within minutes.

Needs torch with CUDA, nvcc and TVM, no network. Models are exported and compiled by several processes first. Then,
model by model: answers against ONNX Runtime on the CPU (float16: the error's norm over the output's; INT8: against
optkit's own CPU artifact of the same quantized model), and times by CUDA events, contestants in rotation: optkit as it
is called and replayed as one graph, torch eager and replayed, torch.compile. What does not finish within --minutes is
left out and named. At the end: what failures look like, and that nothing passes through the host.

Everything is written to --output after every case; a short table comes last.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

import optkit
from benchmarks import cuda_peers as peers
from benchmarks.cuda_builds import MODELS
from benchmarks.zoo import ZOO, export_model
from optkit.errors import OptkitError
from optkit.files import write_whole
from optkit.measure.environment import environment
from optkit.model import load_model, save_model
from optkit.shapes import bind_shapes

CHECKED = 8
"""Samples of a batch that are checked."""
FP16_ERROR = 2e-2
INT8_ERROR = 2e-2
UNMATCHED = 0.05
"""Share of boxes that may come or go: with random weights many scores are at the threshold."""
ONE_BATCH = frozenset({"yolo_v8n"})
"""Models that take one image."""


@dataclass(frozen=True)
class Case:
    """One model at one batch."""

    model: str
    batch: int

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.model}.b{self.batch}"

    def feed(self, count: int | None = None) -> dict[str, np.ndarray]:
        """Inputs; of the first `count` samples."""
        samples = ZOO[self.model].samples(self.batch)
        return {name: rows[:count] for name, rows in samples.items()}


def build(case: Case, precision: str, folder: Path) -> dict[str, Any]:
    """Compile for the GPU, and what INT8 is compared with for the CPU; runs in a process of its own."""
    os.environ.setdefault("TVM_NUM_THREADS", "1")
    stem, passes = f"{case.name}.{precision}", precision
    source = bound = folder / f"{case.name}.onnx"
    if precision == "int8":
        quantized = optkit.quantize(folder / f"{case.name}.open.onnx", calib_data=ZOO[case.model].samples(CHECKED))
        source, bound = folder / f"{stem}.onnx", folder / f"{stem}.few.onnx"
        for path, count in ((source, case.batch), (bound, min(case.batch, CHECKED))):
            save_model(fixed(quantized.clone(), case.feed(count)) if case.batch > 1 else quantized, path)
        passes = "fold,fuse,fold"
    began = time.perf_counter()
    made = optkit.compile(source, target="cuda", passes=passes, output=folder / f"{stem}.optk", verify=False)
    seconds = time.perf_counter() - began
    if precision == "int8":
        optkit.compile(bound, passes=passes, output=folder / f"{stem}.cpu.optk", verify=False)
    return {"seconds": seconds, "arch": made.manifest.target["tvm"]["arch"]}


def fixed(model: ir.Model, feed: Mapping[str, np.ndarray]) -> ir.Model:
    """The model for inputs of just these shapes."""
    return bind_shapes(model, {name: list(array.shape) for name, array in feed.items()})


def prepare(cases: list[Case], precisions: list[str], folder: Path, workers: int) -> dict[str, dict[str, Any]]:
    """Every model exported and compiled, as many at a time as there are workers; what failed says why."""
    found: dict[str, dict[str, Any]] = {}
    with ProcessPoolExecutor(workers) as pool:
        exports = {case: pool.submit(export, case, folder) for case in cases}
        builds = {}
        for case, exported in exports.items():
            try:
                exported.result()
            except Exception as error:
                found[case.name] = {"error": one_line(error)}
                continue
            for precision in precisions:
                builds[f"{case.name}.{precision}"] = pool.submit(build, case, precision, folder)
        for name, future in builds.items():
            try:
                found[name] = future.result()
            except Exception as error:
                found[name] = {"error": one_line(error)}
            print(f"built {name}: {found[name]}", flush=True)
    return found


def export(case: Case, folder: Path) -> None:
    """The model as ONNX, its batch fixed."""
    source = export_model(case.model, folder / f"{case.name}.open.onnx", dynamic_batch=case.batch > 1)
    model = load_model(source)
    save_model(fixed(model, case.feed()) if case.batch > 1 else model, folder / f"{case.name}.onnx")


def one_line(error: BaseException) -> str:
    """An error as one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


def relative(found: np.ndarray, want: np.ndarray) -> float:
    """Norm of the difference over the norm of what is wanted; infinite for other shapes or what is no number."""
    if found.shape != want.shape or not np.isfinite(found.astype(np.float64)).all():
        return float("inf")
    a, b = found.astype(np.float64), want.astype(np.float64)
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30))


def check(case: Case, precision: str, folder: Path) -> dict[str, Any]:
    """Answers on the GPU against the CPU's."""
    import onnxruntime as ort

    with optkit.load(folder / f"{case.name}.{precision}.optk") as runner:
        found = runner.run(case.feed())
        again = runner.run(case.feed())
    few = case.feed(CHECKED)
    if precision == "int8":
        with optkit.load(folder / f"{case.name}.{precision}.cpu.optk") as other:
            want, limit = other.run(few), INT8_ERROR
    else:
        session = ort.InferenceSession(str(_few(case, folder)), providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_outputs()]
        want, limit = dict(zip(names, session.run(None, few), strict=True)), FP16_ERROR
    if case.model in ONE_BATCH:
        missing = unmatched(found, want)
        return {"errors": {"boxes without their like": missing}, "passed": missing <= UNMATCHED}
    rows = {name: found[name][:CHECKED] for name in want}
    errors = {name: relative(rows[name], array) for name, array in want.items()}
    equal = {
        name: float(np.mean(rows[name] == array)) if rows[name].shape == array.shape else 0.0
        for name, array in want.items()
    }
    return {
        "errors": errors,
        "equal": equal,
        "repeats": all(np.array_equal(found[name], again[name], equal_nan=True) for name in found),
        "passed": all(error <= limit for error in errors.values()),
    }


def unmatched(found: Mapping[str, np.ndarray], want: Mapping[str, np.ndarray]) -> float:
    """Share of a detector's boxes with no box of the same label within two pixels and two hundredths of score."""
    left = list(range(len(found["boxes"])))
    missing = 0
    for box, score, label in zip(want["boxes"], want["scores"], want["labels"], strict=True):
        for i in left:
            near = np.abs(found["boxes"][i] - box).max() <= 2 and abs(float(found["scores"][i]) - float(score)) <= 0.02
            if near and found["labels"][i] == label:
                left.remove(i)
                break
        else:
            missing += 1
    return max(missing, len(left)) / max(1, len(want["boxes"]))


def _few(case: Case, folder: Path) -> Path:
    """The float model for the samples that are checked."""
    source, few = folder / f"{case.name}.onnx", folder / f"{case.name}.few.onnx"
    if case.batch <= CHECKED:
        return source
    save_model(fixed(load_model(folder / f"{case.name}.open.onnx"), case.feed(CHECKED)), few)
    return few


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


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.cuda", description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--precision", nargs="+", choices=["fp16", "int8"], default=["fp16", "int8"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 64])
    parser.add_argument("--modes", nargs="*", default=["reduce-overhead"], help="of torch.compile")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument("--output", type=Path, default=Path("build/benchmarks/cuda.json"))
    options = parser.parse_args()
    import torch

    deadline = time.monotonic() + 60 * options.minutes
    cases = [
        Case(model, batch)
        for batch in options.batch
        for model in options.models
        if batch == 1 or model not in ONE_BATCH
    ]
    result: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "environment": environment(), "cases": {}}
    result["gpu"] = subprocess.run(
        ["nvidia-smi", "--query-gpu=name,driver_version,clocks.sm,clocks.max.sm,clocks.mem", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    result["torch"] = torch.__version__
    options.output.parent.mkdir(parents=True, exist_ok=True)

    def keep() -> None:
        write_whole(options.output, json.dumps(result, indent=1, default=str).encode() + b"\n")

    with tempfile.TemporaryDirectory(prefix="optkit-cuda-") as name:
        folder = Path(name)
        result["builds"] = prepare(cases, options.precision, folder, options.workers)
        keep()
        result["ceilings"] = peers.ceilings()
        for case in cases:
            if time.monotonic() > deadline:
                result.setdefault("left_out", []).append(case.name)
                continue
            entry = result["cases"].setdefault(case.name, {})
            for precision in options.precision:
                try:
                    entry[precision] = check(case, precision, folder)
                except Exception as error:
                    entry[precision] = {"errors": {"": float("inf")}, "passed": False, "why": one_line(error)}
            try:
                entry["race"] = race(case, options.precision, options.modes, folder)
            except Exception as error:
                entry["race"] = {"seconds": {}, "why": one_line(error)}
            keep()
            print(
                f"{case.name}: {[(p, entry[p].get('errors'), entry[p].get('why')) for p in options.precision]}",
                flush=True,
            )
        for step in (transfers, failures):
            try:
                result[step.__name__] = step(cases[0], folder)
            except Exception as error:
                result[step.__name__] = {"why": one_line(error)}
            print(f"{step.__name__}: {result[step.__name__]}", flush=True)
        keep()
    print(table(result))
    return int(not all(entry[p]["passed"] for entry in result["cases"].values() for p in options.precision))


if __name__ == "__main__":
    sys.exit(main())
