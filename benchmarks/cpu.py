"""`python -m benchmarks.cpu`: optkit and its peers on the CPU, side by side, model by model.

One persistent process a contestant, turns in rotation, all others stopped (`optkit.measure.timing.race`). Every
combination of model, precision, batch and threads leaves one JSON file in --output; one that is there is not run
again unless --again. The summary over all files, with geometric means and shares of the machine's measured limit, is
written as `summary.json` and `summary.png`.

optkit uses the tuning records it comes with; with --untuned a second artifact, made without records, takes part too.

Peers: ONNX Runtime (all optimizations), OpenVINO (latency hint, one stream; f32 or bf16 hint), torch.compile (Inductor,
default mode, frozen weights, channels-last), and with --plain TVM as it comes. In INT8 ONNX Runtime and OpenVINO both
run two files, optkit's Q/DQ model and the one of ONNX Runtime's quantizer (U8S8, per channel), in BF16 their FP32
selves run too; the fastest counts. A peer that cannot load a model is left out, and the report says why.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner

import optkit
from benchmarks import peers
from benchmarks.limits import measure_limits
from benchmarks.quantizer import peer_quantized
from benchmarks.summary import UNTUNED, summarize, to_text, write_picture
from benchmarks.zoo import ZOO, export_model
from optkit.errors import UsageError
from optkit.files import write_whole
from optkit.measure.contestant import Contestant
from optkit.measure.inputs import random_samples
from optkit.measure.reference import Reference
from optkit.measure.report import make_report
from optkit.measure.timing import race
from optkit.model import load_model, save_model
from optkit.shapes import bind_shapes

MODELS = (
    "resnet18",
    "resnet50",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "densenet121",
    "efficientnet_b0",
    "squeezenet1_1",
    "convnext_tiny",
    "vit_b_16",
    "ultraface",
    "unet",
    "bert_small",
)
FILES = {"ultraface": "ultraface-rfb-320.onnx"}
"""Models that are files in the folder --models-folder, and not of the zoo."""
PASSES = {"fp32": None, "bf16": "bf16", "int8": "int8"}
HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
SUBJECT = "optkit"
CALIBRATION_SAMPLES = 8


@dataclass(frozen=True)
class Case:
    """One race."""

    model: str
    precision: str
    batch: int
    threads: int

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.model}.{self.precision}.b{self.batch}.t{self.threads}"


@dataclass(frozen=True)
class Subject:
    """A model with fixed shapes, one sample to run and some to calibrate with."""

    path: Path
    feed: dict[str, np.ndarray]
    samples: dict[str, np.ndarray]


def subject(model: str, batch: int, folder: Path, models: Path | None) -> Subject:
    """Export or find the model, fix its batch, draw its inputs.

    Raises:
        UsageError: the model is a file, and the folder of models is not given or has it not.
    """
    path = folder / f"{model}.b{batch}.onnx"
    if not path.is_file():
        if model in FILES:
            source = (models or Path()) / FILES[model]
            if models is None or not source.is_file():
                raise UsageError(
                    f"{model} is the file {FILES[model]}: name the folder that has it with --models-folder"
                )
        else:
            source = export_model(model, folder / f"{model}.onnx", dynamic_batch=batch > 1)
        bound = load_model(source)
        if batch > 1:
            shapes = {v.name or "": [batch, *list(v.shape or ())[1:]] for v in bound.graph.inputs}
            bound = bind_shapes(bound, shapes)
        save_model(bound, path)
    if model in ZOO:
        samples = ZOO[model].samples(CALIBRATION_SAMPLES * batch)
        return Subject(path, {name: rows[:batch] for name, rows in samples.items()}, samples)
    specs = Reference(path).inputs
    drawn = random_samples(specs, CALIBRATION_SAMPLES)
    samples = {spec.name: np.concatenate([sample[spec.name] for sample in drawn]) for spec in specs}
    return Subject(path, {name: rows[:batch] for name, rows in samples.items()}, samples)


def contestants(case: Case, given: Subject, folder: Path, untuned: bool) -> tuple[list[Contestant], int]:
    """Compile for the case and line up optkit, first, and its peers; and the multiply-accumulates of a run.

    Args:
        untuned: line up optkit without tuning records too.

    Raises:
        OptkitError: optkit cannot compile the model.
    """
    made = optkit.compile(
        given.path,
        passes=PASSES[case.precision],
        calib_data=given.samples if case.precision == "int8" else None,
        output=folder / f"{case.name}.optk",
        emit=["onnx"] if case.precision == "int8" else (),
        threads=case.threads,
    )
    lanes = [Contestant(SUBJECT, "optk", made.path, case.threads)]
    if untuned:
        plain = optkit.compile(
            given.path if case.precision != "int8" else made.emitted["onnx"],
            passes=PASSES[case.precision] if case.precision != "int8" else None,
            output=folder / f"{case.name}.untuned.optk",
            threads=case.threads,
            tuning_db="none",
        )
        lanes.append(Contestant(UNTUNED, "optk", plain.path, case.threads))

    def add(name: str, kind: str, path: Path, **options: str) -> None:
        lanes.append(Contestant(name, kind, path, case.threads, options))

    files = {"": given.path}
    if case.precision == "bf16":  # ONNX Runtime's CPU provider has no bfloat16 convolution
        add("onnxruntime, fp32", "onnx", given.path)
        add("openvino, fp32", "benchmarks.peers:openvino", given.path, precision="f32")
    if case.precision == "int8":
        own = folder / f"{case.model}.b{case.batch}.quantized.onnx"
        if not own.is_file():
            peer_quantized(given.path, given.samples, own, case.batch)
        inlined = folder / f"{case.name}.inlined.onnx"
        onnx.save(onnx.inliner.inline_local_functions(onnx.load(made.emitted["onnx"])), inlined)
        files = {", optkit's file": inlined, ", own file": own}
    for label, path in files.items():
        if case.precision != "bf16":
            add(f"onnxruntime{label}", "onnx", path)
        add(f"openvino{label}", "benchmarks.peers:openvino", path, precision=HINTS[case.precision])
    if case.precision != "int8" and case.model in ZOO:
        add("torch", "benchmarks.peers:torch_compile", given.path, model=case.model, precision=HINTS[case.precision])
    return lanes, int(made.report["macs"]["total"])


def measure(case: Case, folder: Path, options: argparse.Namespace, limits: Mapping[str, float]) -> dict[str, Any]:
    """Race one case and return its report, with multiply-accumulates and the machine's limits."""
    given = subject(case.model, case.batch, folder, options.models_folder)
    lanes, macs = contestants(case, given, folder, options.untuned)
    if options.plain and case.precision == "fp32":
        lanes.append(Contestant("tvm", "benchmarks.peers:tvm", given.path, case.threads))
    result = race(
        lanes, given.feed, rounds=options.rounds, min_seconds=0.1, iterations=3, warmup_seconds=0.3, tolerant=True
    )
    return make_report(result, case=vars(case), macs=macs, limits=dict(limits), missing=dict(result.missing))


def _cases(options: argparse.Namespace) -> list[Case]:
    return [
        Case(model, precision, batch, threads)
        for threads in options.threads
        for batch in options.batch
        for model in options.models or [m for m in MODELS if m not in FILES or options.models_folder]
        for precision in options.precision
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.cpu", description=__doc__)
    parser.add_argument("models", nargs="*", help=f"default: {' '.join(MODELS)}")
    parser.add_argument("--precision", nargs="+", choices=[*PASSES], default=[*PASSES])
    parser.add_argument("--batch", nargs="+", type=int, default=[1])
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--models-folder", type=Path, help=f"folder of {', '.join(FILES.values())}")
    parser.add_argument("--output", type=Path, default=Path("build/benchmarks/cpu"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--plain", action="store_true", help=f"TVM as it comes too ({peers.TVM_SETTINGS}): slow")
    parser.add_argument("--untuned", action="store_true", help="optkit without tuning records too")
    parser.add_argument("--again", action="store_true", help="also what was measured before")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    limits: dict[int, dict[str, float]] = {}
    failed = False
    for case in _cases(options):
        path = options.output / f"{case.name}.json"
        if path.is_file() and not options.again:
            continue
        try:
            if case.threads not in limits:
                limits[case.threads] = measure_limits(case.threads)
            report = measure(case, options.output, options, limits[case.threads])
        except Exception as error:  # exporters and quantizers of others raise what they like
            print(f"{case.name}: {' '.join(str(error).split())}", file=sys.stderr)
            failed = True
            continue
        write_whole(path, json.dumps(report, indent=1).encode() + b"\n")
        rivals = ", ".join(f"{name} {ratio['value']:.2f}" for name, ratio in report["speedup"].items())
        print(f"{case.name}: {np.median(report['lanes'][0]['rounds']) * 1e3:.2f} ms; {rivals}", file=sys.stderr)
    reports = [
        json.loads(path.read_bytes())
        for path in sorted(options.output.glob("*.b*.t*.json"))
        if "report" not in path.name
    ]
    if not reports:
        return 1
    found = summarize(reports)
    write_whole(options.output / "summary.json", json.dumps(found, indent=1).encode() + b"\n")
    write_picture(found, options.output / "summary.png")
    print(to_text(found))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
