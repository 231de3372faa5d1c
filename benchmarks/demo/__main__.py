"""`python -m benchmarks.demo`: train, compile in FP32 and INT8, verify, race against ONNX Runtime, one table."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from rich.console import Console
from rich.table import Table

import optkit
from benchmarks.demo.model import to_onnx
from benchmarks.demo.train import Digits, accuracy, load_digits, train
from optkit.errors import OptkitError
from optkit.measure.contestant import Contestant
from optkit.measure.reference import Reference
from optkit.measure.report import make_report, to_markdown
from optkit.measure.timing import RaceResult, race

CALIBRATION_IMAGES = 256


@dataclass(frozen=True)
class Row:
    """One line of the table: a model, who runs it, and how well."""

    name: str
    lane: str
    accuracy: float
    file: Path


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.demo", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("build/demo"), help="folder for what is made")
    parser.add_argument("--rounds", type=int, default=20, help="turns of each contestant in the race")
    options = parser.parse_args()
    console = Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else 110)
    try:
        _demo(options.output, options.rounds, console)
    except OptkitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _demo(folder: Path, rounds: int, console: Console) -> None:
    start = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    console.print("1. training a small convolutional network on scikit-learn's handwritten digits")
    digits = load_digits()
    weights = train(digits, report=lambda line: console.print(f"   {line}"))
    source = folder / "digits.onnx"
    onnx.save(to_onnx(weights), source)

    console.print("2. compiling it for this CPU in FP32 and, calibrated on training images, in INT8")
    images = digits.train_images[:CALIBRATION_IMAGES]
    fp32 = optkit.compile(source, output=folder / "digits.optk")
    int8 = optkit.compile(source, passes="int8", calib_data=images, output=folder / "digits.int8.optk", emit=["onnx"])
    for artifact in (fp32, int8):
        console.print(f"   {artifact.path}: {artifact.report['verification']['summary']}")

    console.print("3. counting right answers on images it has not seen, and racing ONNX Runtime on one thread")
    qdq = int8.emitted["onnx"]
    rows = [
        Row("FP32, optkit", "optkit fp32", _artifact_accuracy(fp32, digits), fp32.path),
        Row("FP32, ONNX Runtime", "onnxruntime fp32", _onnx_accuracy(source, digits), source),
        Row("INT8, optkit", "optkit int8", _artifact_accuracy(int8, digits), int8.path),
        Row("INT8, ONNX Runtime", "onnxruntime int8", _onnx_accuracy(qdq, digits), qdq),
    ]
    lanes = [Contestant(row.lane, "optk" if row.file.suffix == ".optk" else "onnx", row.file) for row in rows]
    result = race(lanes, {"image": digits.test_images[:1]}, rounds=rounds, min_seconds=0.1)
    report = make_report(result, accuracy={row.lane: row.accuracy for row in rows})
    (folder / "benchmark.json").write_text(json.dumps(report, indent=1) + "\n")
    (folder / "benchmark.md").write_text(to_markdown(report))
    console.print(_table(rows, result))
    console.print(f"artifacts: {fp32.path} and {int8.path}")
    console.print(f"reports: {fp32.report_path}, {int8.report_path}, {folder / 'benchmark.md'}")
    console.print(
        f"done in {time.perf_counter() - start:.0f} s; look closer: optkit inspect {int8.path}", highlight=False
    )


def _artifact_accuracy(artifact: optkit.Artifact, digits: Digits) -> float:
    with artifact.runner(threads=1) as runner:
        return accuracy(lambda image: runner.run({"image": image})["logits"], digits)


def _onnx_accuracy(path: Path, digits: Digits) -> float:
    reference = Reference(path, optimized=True)
    return accuracy(lambda image: reference.run({"image": np.asarray(image)})["logits"], digits)


def _table(rows: list[Row], result: RaceResult) -> Table:
    table = Table(title="digits, 16x16, batch 1, one thread", title_justify="left")
    for column in ("", "accuracy", "latency p50", "speed against ONNX Runtime FP32", "file"):
        table.add_column(column, justify="left" if not column else "right")
    base = rows[1].lane
    for row in rows:
        ratio = result.speedup(row.lane, base) if row.lane != base else None
        table.add_row(
            row.name,
            f"{row.accuracy:.2%}",
            f"{1e6 * float(np.median(result[row.lane].rounds)):.1f} us",
            f"{ratio.value:.2f}x ({ratio.low:.2f} to {ratio.high:.2f})" if ratio else "1",
            f"{row.file.stat().st_size / 2**20:.2f} MB",
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
