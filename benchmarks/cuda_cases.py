"""The models of `benchmarks.cuda`: exported, compiled by several processes, and compared with what CPUs answer."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

import optkit
from benchmarks import cuda_integers as integers
from benchmarks import cuda_peers as peers
from benchmarks.on_gpu import one_line
from benchmarks.workers import Step, Workers
from benchmarks.zoo import ZOO, export_model
from optkit.model import load_model, save_model
from optkit.shapes import bind_shapes

CHECKED = 8
"""Samples of a batch that are checked."""
FP16_ERROR = 2e-2
INT8_ERROR = 2e-2
LOST_MORE = 1.25
"""How much farther than the CPU's artifact one with float16 between INT8 layers may be from the model in float32."""
UNMATCHED = 0.05
"""Share of boxes that may come or go, or one: with random weights many scores are at the threshold."""
FOREIGN = "foreign"
"""Of an artifact for another GPU."""
IN_BATCHES = {"yolo_v8n": "yolo_v8n_dense", "yolo_tiny": "yolo_tiny_dense"}
"""Detectors that take one image, and what stands for them where there are more: without suppression."""
ONE_BATCH = frozenset(IN_BATCHES)
MIXED = frozenset({"vit_b_16", "vit_tiny", "swin_t", "swin_tiny", "bert_small", "bert_tiny"})
"""Transformers, whose INT8 has attention and what else is real between layers in float16 (`--int8 --fp16`)."""


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


def source_and_passes(case: Case, precision: str, folder: Path) -> tuple[Path, str]:
    """What is compiled, and by which passes; in INT8 they start from the quantized model."""
    if precision != "int8":
        return folder / f"{case.name}.onnx", precision
    return folder / f"{case.name}.int8.onnx", "fold,fuse,fold,fp16" if case.model in MIXED else "fold,fuse,fold"


def build(case: Case, precision: str, folder: Path) -> dict[str, Any]:
    """Compile for the GPU, and what INT8 is compared with for the CPU; runs in a process of its own."""
    os.environ.setdefault("TVM_NUM_THREADS", "1")
    stem = f"{case.name}.{precision}"
    source, passes = source_and_passes(case, precision, folder)
    bound = folder / f"{stem}.few.onnx"
    if precision == "int8":
        recipe = "recognize,fold,fuse,fold,quantize{products=false}" if case.model in MIXED else "int8"
        data, model = ZOO[case.model].samples(CHECKED), folder / f"{case.name}.open.onnx"
        quantized = optkit.quantize(model, passes=recipe, calib_data=data)
        whole, few = (_of_samples(quantized, case, count) for count in (case.batch, min(case.batch, CHECKED)))
        save_model(whole, source)
        save_model(few, bound)
    began = time.perf_counter()
    made = optkit.compile(source, target="cuda", passes=passes, output=folder / f"{stem}.optk", verify=False)
    seconds = time.perf_counter() - began
    if precision == "int8":
        optkit.compile(bound, passes=passes, output=folder / f"{stem}.cpu.optk", verify=False)
    if precision == "int8" and case.model in MIXED:
        save_model(integers.told(few), folder / f"{stem}.told.onnx")
        for model, target in ((whole, "cuda"), (few, "cpu")):
            cut = folder / f"{stem}.cut.{target}.onnx"
            save_model(integers.cut(model), cut)
            optkit.compile(cut, target=target, passes=passes, output=cut.with_suffix(".optk"), verify=False)
    return {"seconds": seconds, "arch": made.manifest.target["tvm"]["arch"]}


def _of_samples(model: ir.Model, case: Case, count: int) -> ir.Model:
    """A copy for so many samples; a case of one has no batch that could be fixed."""
    return fixed(model.clone(), case.feed(count)) if case.batch > 1 else model.clone()


def fixed(model: ir.Model, feed: Mapping[str, np.ndarray]) -> ir.Model:
    """The model for inputs of just these shapes."""
    return bind_shapes(model, {name: list(array.shape) for name, array in feed.items()})


def prepare(
    cases: list[Case],
    precisions: list[str],
    modes: list[str],
    folder: Path,
    workers: int,
    until: float,
    found: dict[str, Any],
) -> Iterator[Case]:
    """Every model exported and compiled, as many at a time as there are workers; one case after the other when it is.

    Args:
        modes: that torch.compile compiles in too, so that its caches have it.
        until: on `time.monotonic`'s clock; what is not done then is left.
        found: gets what each build says, or why it failed.
    """
    # What torch.compile does to its process costs no build.
    pool, other = Workers(workers), Workers(max(1, workers // 4))
    steps: dict[Future[Any], Step] = {}
    left = {case: len(precisions) for case in cases}

    def start(step: Step) -> None:
        steps[step.pool.submit(step)] = step

    def follow(case: Case) -> None:
        for precision in precisions:
            start(Step(pool, build, (case, precision, folder)))
        for mode in modes:
            start(Step(other, warm, (case, mode, folder)))
        if case is cases[0]:
            start(Step(other, build_foreign, (case, FOREIGN, folder)))

    def tell(case: Case, name: str, outcome: Any) -> None:
        stem = f"{case.name}.{name}".rstrip(".")
        print(f"built {stem}: {outcome}", flush=True)
        if name in precisions or not name:
            found[stem] = outcome
            left[case] -= 1 if name else left[case]

    # Detectors take longest.
    for case in sorted(cases, key=lambda case: case.model not in ONE_BATCH):
        start(Step(pool, export, (case, "", folder)))
    try:
        while steps and (seconds := until - time.monotonic()) > 0:
            done, _ = wait(steps, seconds, FIRST_COMPLETED)
            for future in done:
                step = steps.pop(future)
                case, name, _ = step.arguments
                try:
                    outcome = future.result()
                except BrokenProcessPool as error:
                    if not step.again:
                        start(replace(step, again=True))
                        continue
                    outcome = {"error": one_line(error)}
                except Exception as error:
                    outcome = {"error": one_line(error)}
                if outcome is None and not name:
                    follow(case)
                    continue
                tell(case, name, outcome)
                if not left[case] and name in ("", *precisions):
                    yield case
    finally:
        for each in (pool, other):
            each.end(kill=bool(steps))
    late = (f"{step.arguments[0].name}.{step.arguments[1]}".rstrip(".") for step in steps.values())
    found.update({stem: {"error": "not done in time"} for stem in late})


def build_foreign(case: Case, name: str, folder: Path) -> None:
    """The case for a GPU that is not this one."""
    source, path = folder / f"{case.name}.onnx", folder / f"{case.name}.{name}.optk"
    optkit.compile(source, target="cuda:sm_120", passes="fp16", output=path, verify=False)


def warm(case: Case, mode: str, _folder: Path) -> float:
    """Compile by torch what a race will have; returns seconds."""
    import torch

    began = time.perf_counter()
    call = peers.compiled(case.model, case.feed(), mode)
    call()
    call()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    return time.perf_counter() - began


def export(case: Case, _: str, folder: Path) -> None:
    """The model as ONNX, its batch fixed."""
    source = export_model(case.model, folder / f"{case.name}.open.onnx", dynamic_batch=case.batch > 1)
    model = load_model(source)
    save_model(fixed(model, case.feed()) if case.batch > 1 else model, folder / f"{case.name}.onnx")


def relative(found: np.ndarray, want: np.ndarray) -> float:
    """Norm of the difference over the norm of what is wanted; infinite for other shapes or what is no number."""
    if found.shape != want.shape or not np.isfinite(found.astype(np.float64)).all():
        return float("inf")
    a, b = found.astype(np.float64), want.astype(np.float64)
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30))


def check(case: Case, precision: str, folder: Path, path: Path | None = None) -> dict[str, Any]:
    """Answers on the GPU against the CPU's; of another artifact of the case where `path` is given."""
    stem = f"{case.name}.{precision}"
    with optkit.load(path or folder / f"{stem}.optk") as runner:
        found = runner.run(case.feed())
        again = runner.run(case.feed())
    few = case.feed(CHECKED)
    if precision == "int8":
        with optkit.load(folder / f"{stem}.cpu.optk") as other:
            want, limit = other.run(few), INT8_ERROR
    else:
        want, limit = _reference(case, folder), FP16_ERROR
    if case.model in ONE_BATCH:
        missing = unmatched(found, want)
        return {
            "errors": {"boxes without their like": missing},
            "passed": missing <= max(UNMATCHED, 1.5 / len(want["boxes"])),
        }
    rows = {name: found[name][:CHECKED] for name in want}
    errors = {name: relative(rows[name], array) for name, array in want.items()}
    equal = {
        name: float(np.mean(rows[name] == array)) if rows[name].shape == array.shape else 0.0
        for name, array in want.items()
    }
    entry = {
        "errors": errors,
        "equal": equal,
        "repeats": all(np.array_equal(found[name], again[name], equal_nan=True) for name in found),
        "passed": all(error <= limit for error in errors.values()),
    }
    if precision == "int8" and case.model in MIXED:
        entry |= _mixed(stem, few, folder, rows, want, _reference(case, folder))
    return entry


def _mixed(
    stem: str,
    few: dict[str, np.ndarray],
    folder: Path,
    rows: Mapping[str, np.ndarray],
    want: Mapping[str, np.ndarray],
    real: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    """Of INT8 with float16 between layers: integers where it is cut, and how far both artifacts are from the model."""
    feed = integers.given(folder / f"{stem}.told.onnx", few)
    own, other = (integers.outputs(folder / f"{stem}.cut.{target}.optk", feed) for target in ("cuda", "cpu"))
    found = integers.compare(own, other)
    ends = {name: relative(own[name][: len(array)], other[name]) for name, array in want.items()}
    lost = {
        name: {"gpu": relative(rows[name], array), "cpu": relative(want[name], array)} for name, array in real.items()
    }
    return {
        "integers": {**found, "ends": ends},
        "lost": lost,
        "passed": not found["outside"]
        and all(error <= FP16_ERROR for error in ends.values())
        and all(error["gpu"] <= LOST_MORE * error["cpu"] for error in lost.values()),
    }


def _reference(case: Case, folder: Path) -> dict[str, np.ndarray]:
    """What ONNX Runtime answers on the CPU, of the samples that are checked."""
    import onnxruntime as ort

    session = ort.InferenceSession(str(_few(case, folder)), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(None, case.feed(CHECKED)), strict=True))


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
