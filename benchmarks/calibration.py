"""What does calibration cost? Time a sample against plain inference and ONNX Runtime's calibrators, and memory.

    python -m benchmarks.zoo resnet50 -o resnet50.onnx
    python -m benchmarks.calibration resnet50.onnx --samples 64 --many 2000 -o benchmarks/results/calibration.json

Time: one process a contender, in turn, one sample at a time; medians of wall and of processor time (of all threads;
where others use the machine, the latter is what tells). Everybody runs the same model after `fold,fuse,fold`, in
sessions with the same options, and observes the same tensors; ONNX Runtime's calibrators, which by themselves make a
session without optimization, get an optimized one too. Memory: one process a method and number of samples; the most
that was resident.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from optkit_passes.quantize import Quantize
from optkit_passes.quantize.calibrators import METHODS
from rich.console import Console
from rich.table import Table

from optkit.data import input_specs
from optkit.model import load_model, save_model
from optkit.pipeline import Pipeline
from optkit.transform import PassContext, Sample

PEERS = {"minmax": "MinMaxCalibrater", "percentile": "PercentileCalibrater", "entropy": "EntropyCalibrater"}
_DISTINCT = 8
_WARM = 3


def samples(model: ir.Model) -> list[Sample]:
    """A few different inputs; their number is what memory must not depend on."""
    rng = np.random.default_rng(0)
    specs = input_specs(model.graph.inputs)
    shapes = {s.name: tuple(d if isinstance(d, int) else 1 for d in s.shape) for s in specs}
    return [{n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()} for _ in range(_DISTINCT)]


def ours(path: Path, method: str, turn: Callable[[], bool], done: Callable[[], None]) -> None:
    """The quantize pass; `turn` waits for the next sample's turn, `done` ends it."""
    model = load_model(path)
    rows = samples(model)
    opened = 0

    def data() -> Iterator[Sample]:
        nonlocal opened
        opened += 1
        if opened == 1:  # the first look at a sample's shapes
            yield rows[0]
            return
        for row in cycle(rows):
            if not turn():
                return
            yield row

    Quantize(method=method).run(model, PassContext(calibration=data, progress=lambda *_: done()))


def plain(path: Path, _method: str, turn: Callable[[], bool], done: Callable[[], None]) -> None:
    """ONNX Runtime, as it is."""
    rows = samples(load_model(path))
    run = session(path).run
    for row in cycle(rows):
        if not turn():
            return
        run(None, row)
        done()


def session(path: Path) -> ort.InferenceSession:
    """As the quantize pass opens it: optimized, and with threads that do not wait busily between runs."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class _One:
    """A calibration reader of one sample."""

    def __init__(self, row: Sample) -> None:
        self.rows = iter([row])

    def get_next(self) -> Sample | None:
        return next(self.rows, None)


def peer(path: Path, method: str, turn: Callable[[], bool], done: Callable[[], None]) -> None:
    """ONNX Runtime's calibrator of that method, on the tensors that the quantize pass observes."""
    from onnxruntime.quantization import calibrate

    names = tensors(path)
    rows = samples(load_model(path))
    with tempfile.TemporaryDirectory() as folder:
        augmented = Path(folder) / "augmented.onnx"
        own = Path(folder) / path.name  # it writes files of its own beside the model
        shutil.copy(path, own)
        calibrator: Any = getattr(calibrate, PEERS[method])(own, augmented_model_path=str(augmented))
        infos = {n: onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names}
        calibrator.select_tensors_to_calibrate = lambda _model: (set(names), infos)
        calibrator.augment_graph()
        calibrator.infer_session = session(augmented)
    for row in cycle(rows):
        if not turn():
            return
        calibrator.collect_data(_One(row))
        done()


def tensors(path: Path) -> list[str]:
    """Names of the tensors whose ranges the quantize pass asks for."""
    model, options = load_model(path), Quantize()
    anchors, _ = options._anchors(model)
    return [v.name or "" for g in options._place(model, anchors).groups for v in g.sources]


def worker(contender: str, path: Path, method: str, pipe: Connection) -> None:
    """Runs in a process of its own: a sample for every True, until False."""
    began = (0.0, 0.0)

    def turn() -> bool:
        nonlocal began
        go = bool(pipe.recv())
        began = (time.perf_counter(), time.process_time())
        return go

    def done() -> None:
        pipe.send((time.perf_counter() - began[0], time.process_time() - began[1]))

    {"optkit": ours, "plain": plain, "onnxruntime": peer}[contender](path, method, turn, done)


def measure_time(path: Path, repetitions: int, peer_samples: int, methods: tuple[str, ...]) -> dict[str, Any]:
    """Median milliseconds a sample by contender, wall and processor time, measured in turn."""
    context = multiprocessing.get_context("spawn")
    jobs = [("plain", ""), *(("optkit", m) for m in methods), *(("onnxruntime", m) for m in PEERS if m in methods)]
    pipes, processes = [], []
    for contender, method in jobs:
        mine, theirs = context.Pipe()
        processes.append(context.Process(target=worker, args=(contender, path, method, theirs), daemon=True))
        processes[-1].start()
        pipes.append(mine)
    found: dict[tuple[str, str], list[tuple[float, float]]] = {job: [] for job in jobs}
    for index in range(_WARM + repetitions):
        for job, pipe in zip(jobs, pipes, strict=True):
            if job[0] == "onnxruntime" and index >= peer_samples:
                continue  # they keep what they have seen
            pipe.send(True)
            spent = pipe.recv()
            if index >= _WARM or (job[0] == "onnxruntime" and index):
                found[job].append(spent)
    for pipe, process in zip(pipes, processes, strict=True):
        pipe.send(False)
        process.join()
    return {
        " ".join(filter(None, job)): {
            "samples": len(times),
            "wall_ms": 1e3 * statistics.median(t[0] for t in times),
            "cpu_ms": 1e3 * statistics.median(t[1] for t in times),
        }
        for job, times in found.items()
    }


def memory_worker(path: Path, method: str, count: int, pipe: Connection) -> None:
    """The whole pass on `count` samples; sends the peak of resident memory in bytes."""
    model = load_model(path)
    rows = samples(model)
    Quantize(method=method).run(model, PassContext(calibration=lambda: islice(cycle(rows), count)))
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def measure_memory(path: Path, method: str, count: int) -> dict[str, float]:
    """Peak resident MiB of calibrating with `count` samples, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=memory_worker, args=(path, method, count, theirs), daemon=True)
    process.start()
    peak = mine.recv()
    process.join()
    return {"samples": count, "peak_mib": peak / 2**20}


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), default="benchmarks/results/calibration.json")
@click.option("--samples", "few", default=64, show_default=True, help="Samples of the smaller run for memory.")
@click.option("--many", default=2000, show_default=True, help="Samples of the larger run for memory; 0: none.")
@click.option("--repetitions", default=30, show_default=True, help="Timed samples a contender; 0: no timing.")
@click.option("--peer-samples", default=16, show_default=True, help="At most so many for ONNX Runtime's calibrators.")
@click.option("--method", "methods", multiple=True, type=click.Choice(METHODS), help="Only these; repeatable.")
def main(
    model: Path, output: Path, few: int, many: int, repetitions: int, peer_samples: int, methods: tuple[str, ...]
) -> None:
    """Measure calibration on MODEL; adds what is measured to OUTPUT, a JSON file."""
    methods = methods or METHODS
    found: dict[str, Any] = json.loads(output.read_text()) if output.exists() else {}
    found |= {"model": model.name, "cores": len(os.sched_getaffinity(0)), "onnxruntime": ort.__version__}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "folded.onnx"
        save_model(Pipeline.parse("fold,fuse,fold").run(load_model(model), PassContext()).model, path)
        found["tensors"] = len(tensors(path))
        if repetitions:
            found.setdefault("time", {}).update(measure_time(path, repetitions, peer_samples, methods))
        for method in methods if many else ():
            runs = [measure_memory(path, method, count) for count in (few, many)]
            found.setdefault("memory", {})[method] = runs
            output.write_text(json.dumps(found, indent=1) + "\n")
    output.write_text(json.dumps(found, indent=1) + "\n")
    show(found)


def show(found: dict[str, Any]) -> None:
    """Print the tables."""
    if "time" in found:
        table = Table("a sample", "wall, ms", "CPU, ms", "times plain inference (wall)", "(CPU)")
        base = found["time"]["plain"]
        for name, row in found["time"].items():
            shares = [f"{row[key] / base[key]:.2f}" for key in ("wall_ms", "cpu_ms")]
            table.add_row(name, f"{row['wall_ms']:.1f}", f"{row['cpu_ms']:.1f}", *shares)
        Console().print(table)
    if "memory" in found:
        table = Table("peak MiB", "samples", "MiB", "samples", "MiB", "growth")
        for method, (small, large) in found["memory"].items():
            cells = [
                str(f(run)) for run in (small, large) for f in (lambda r: r["samples"], lambda r: round(r["peak_mib"]))
            ]
            table.add_row(method, *cells, f"{100 * (large['peak_mib'] / small['peak_mib'] - 1):+.1f} %")
        Console().print(table)


if __name__ == "__main__":
    main()
