"""`python -m benchmarks.figures`: what `benchmarks.cpu` found as the table of README.md.

Reads a summary (by default benchmarks/results/cpu.json) and puts, with `--readme FILE`, the races of batch 1 on one
thread between the markers of that file.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from optkit.errors import OptkitError, UsageError
from optkit.files import write_whole

BEGIN, END = "<!-- figures: make bench-readme -->", "<!-- end of figures -->"
RESULTS = Path(__file__).with_name("results") / "cpu.json"
PRECISIONS = ("fp32", "int8", "bf16")


def table(found: dict[str, Any]) -> str:
    """The Markdown table of a summary, and below it what it is a table of."""
    rows = [row for row in found["rows"] if (row["batch"], row["threads"]) == (1, 1)]
    heads = " | ".join(f"{p.upper()}: optkit | best peer | ratio" for p in PRECISIONS)
    lines = [f"| model | {heads} |", "|---|" + "---:|" * (3 * len(PRECISIONS))]
    for model in sorted({row["model"] for row in rows}):
        cells = [model]
        for precision in PRECISIONS:
            row = next((r for r in rows if (r["model"], r["precision"]) == (model, precision)), None)
            cells += _cells(row) if row else ["", "", ""]
        lines.append(f"| {' | '.join(cells)} |")
    missing = sorted(
        f"{peer} with {row['model']} in {row['precision'].upper()}" for row in rows for peer in row["missing"]
    )
    words = [
        "\nMedian of one run, batch 1, one thread; ratio: the best peer's time over optkit's with its 95 % interval,",
        f"above 1 optkit is faster. Geometric means: {_means(found, 1, 'geometric_mean')}.",
        *_more(found),
        f"{found['environment']['cpu']}; {_peers(found['versions'])}; timed in turns, each in its own process",
        "(`make bench`, `benchmarks/results/cpu.json`).",
        *([f"Could not load or crashed: {'; '.join(missing)}."] if missing else []),
    ]
    return "\n".join([*lines, *words])


def _means(found: dict[str, Any], threads: int, key: str, form: str = ".2f") -> str:
    """One mean of every precision, at batch 1."""
    parts = []
    for precision in PRECISIONS:
        mean = found["means"].get(f"{precision} batch 1, {threads} thread(s)", {})
        if key in mean:
            parts.append(f"{mean[key]:{form}} in {precision.upper()} ({mean['models']} models)")
    return ", ".join(parts)


def _more(found: dict[str, Any]) -> list[str]:
    """The means on two threads and without tuning records, where they were measured."""
    lines = []
    if two := _means(found, 2, "geometric_mean"):
        lines.append(f"On two threads: {two}.")
    if untuned := _means(found, 1, "untuned_of_tuned", ".1%"):
        lines.append(f"Without the tuning records that optkit comes with it has, of its speed, {untuned}.")
    return lines


def _cells(row: dict[str, Any]) -> list[str]:
    ours, peer = next(iter(row["seconds"].values())), row["seconds"][row["best_peer"]]
    name, ratio = row["best_peer"].split(",")[0], row["ratio"]
    interval = f"{ratio['low']:.2f} to {ratio['high']:.2f}"
    return [f"{ours * 1e3:.2f} ms", f"{peer * 1e3:.2f} ms, {name}", f"{ratio['value']:.2f} ({interval})"]


def _peers(versions: dict[str, str]) -> str:
    names = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "torch": "torch.compile"}
    short = {key: re.split("[+-]", version)[0] for key, version in versions.items()}
    return ", ".join(f"{name} {short[key]}" for key, name in names.items() if key in short)


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
    parser.add_argument("summary", nargs="?", type=Path, default=RESULTS)
    parser.add_argument("--readme", type=Path, help="file whose table is replaced")
    options = parser.parse_args()
    try:
        figures = table(json.loads(options.summary.read_text()))
        if options.readme is not None:
            write_whole(options.readme, replace_figures(options.readme.read_text(), figures).encode())
    except OptkitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
