"""`python -m benchmarks.figures`: the zoo against ONNX Runtime, as JSON a model and one Markdown table.

Batch 1, one thread, FP32 and INT8. ONNX Runtime runs INT8 twice, on the Q/DQ model that optkit compiled and on
the one its own quantizer makes (quantize_static, U8S8, per channel, the same samples); the table shows the
faster. `--readme FILE` puts the table between the markers of that file.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import optkit
from benchmarks.quantizer import peer_quantized
from benchmarks.zoo import ZOO, export_model
from optkit.errors import OptkitError, UsageError
from optkit.files import write_whole
from optkit.measure.contestant import Contestant
from optkit.measure.environment import environment
from optkit.measure.report import make_report, to_markdown
from optkit.measure.timing import race

MODELS = ("resnet18", "resnet50", "mobilenet_v2", "squeezenet1_1", "vit_b_16")
CALIBRATION_SAMPLES = 8
BEGIN, END = "<!-- figures: make bench-readme -->", "<!-- end of figures -->"
HEAD = (
    "| model, 224x224 | FP32: optkit | ONNX Runtime | ratio | INT8: optkit | ONNX Runtime | ratio |\n"
    "|---|---:|---:|---:|---:|---:|---:|"
)
PEERS = ("onnxruntime int8", "onnxruntime int8, own quantizer")


def measure(name: str, folder: Path, threads: int, rounds: int) -> dict[str, Any]:
    """Export, compile and race one model of the zoo; writes its report into `folder` and returns it."""
    source = export_model(name, folder / f"{name}.onnx")
    generator = np.random.default_rng(0)
    shape = ZOO[name].input_shape
    samples = generator.standard_normal((CALIBRATION_SAMPLES, *shape[1:]), dtype=np.float32)
    fp32 = optkit.compile(source, output=folder / f"{name}.optk", threads=threads)
    int8 = optkit.compile(
        source,
        passes="int8",
        calib_data=samples,
        output=folder / f"{name}.int8.optk",
        emit=["onnx"],
        threads=threads,
    )
    lanes = [
        Contestant("optkit fp32", "optk", fp32.path, threads),
        Contestant("onnxruntime fp32", "onnx", source, threads),
        Contestant("optkit int8", "optk", int8.path, threads),
        Contestant(PEERS[0], "onnx", int8.emitted["onnx"], threads),
        Contestant(PEERS[1], "onnx", peer_quantized(source, {"input": samples}, folder / f"{name}.peer.onnx"), threads),
    ]
    result = race(lanes, {"input": samples[:1]}, rounds=rounds)
    ratios = {}
    for precision, rivals in (("fp32", ["onnxruntime fp32"]), ("int8", PEERS)):
        ratio = min((result.speedup(f"optkit {precision}", rival) for rival in rivals), key=lambda r: r.value)
        ratios[precision] = {"value": ratio.value, "low": ratio.low, "high": ratio.high}
    report = make_report(result, model=name, ratios=ratios)
    (folder / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
    (folder / f"{name}.md").write_text(f"## {name}\n\n{to_markdown(report)}")
    return report


def table(reports: Sequence[dict[str, Any]]) -> str:
    """The table of medians in milliseconds with ratios above 1 where optkit is faster, and the machine."""
    lines = [HEAD]
    for report in reports:
        medians = {lane["name"]: float(np.median(lane["rounds"])) * 1e3 for lane in report["lanes"]}
        cells = [report["model"]]
        for precision in ("fp32", "int8"):
            ratio = report["ratios"][precision]
            rival = min(t for lane, t in medians.items() if lane.startswith(f"onnxruntime {precision}"))
            cells += [f"{t:.2f} ms" for t in (medians[f"optkit {precision}"], rival)]
            cells.append(f"{ratio['value']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})")
        lines.append(f"| {' | '.join(cells)} |")
    machine = environment()
    threads = reports[0]["lanes"][0]["threads"] if reports else 1
    lines.append(
        f"\nMedian of one run, batch 1, {threads} thread(s), untuned; ratio: ONNX Runtime's time over optkit's, its "
        f"95 % interval, above 1 optkit is faster. {machine['cpu']}; ONNX Runtime "
        f"{machine['versions']['onnxruntime']}, timed in turns, each in its own process; its INT8 is the "
        "faster of optkit's Q/DQ model and the one of its own quantizer."
    )
    return "\n".join(lines)


def replace_figures(text: str, figures: str) -> str:
    """`text` with what stands between the markers replaced.

    >>> replace_figures(f"a {BEGIN} old {END} b", "new") == f"a {BEGIN}\\nnew\\n{END} b"
    True
    """
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise UsageError(f"the file has no markers {BEGIN} and {END}")
    return f"{head}{BEGIN}\n{figures}\n{END}{tail}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.figures", description=__doc__)
    parser.add_argument("models", nargs="*", help=f"models of the zoo (default: {' '.join(MODELS)})")
    parser.add_argument("--output", type=Path, default=Path("build/benchmarks"))
    parser.add_argument("--readme", type=Path, help="file whose table is replaced")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    try:
        reports = []
        for name in options.models or MODELS:
            print(f"measuring {name}", file=sys.stderr)
            reports.append(measure(name, options.output, options.threads, options.rounds))
        figures = table(reports)
        if options.readme is not None:
            write_whole(options.readme, replace_figures(options.readme.read_text(), figures).encode())
    except OptkitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
