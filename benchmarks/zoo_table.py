"""`python -m benchmarks.zoo_table`: compile the zoo in FP32 and INT8, verified, and write docs/zoo.md.

Every model runs in a process of its own and leaves `build/zoo/NAME.json`; one that is there is not run again
(`--again`: it is, `--retry`: only where something was refused). Models of the zoo, ONNX files and folders of them
can be named; the table holds every result that is there.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.zoo import FULL, ZOO, export_model
from optkit.errors import OptkitError, UsageError, nearest
from optkit.files import write_whole
from optkit.measure.environment import environment

CALIBRATION_SAMPLES = 4
PRECISIONS = {"fp32": None, "int8": "int8"}
LONGEST_REASON = 180
HEAD = """# The zoo

Every model below was compiled for one CPU in FP32 and INT8 and compared with ONNX Runtime (optimizations off) by
`python -m benchmarks.zoo_table`, which writes this page. Weights of the zoo's own models are seeded, not trained, and
inputs are random, so the signal-to-noise ratios say how two INT8 implementations compare, not how accurate INT8 is.

* *MACs*: of one call; open axes as calibration without data has them: a batch of 1, an image's side of 224, a
  length of 64, or the first other extent that the model takes.
* *FP32 error*: norm of the difference over the norm of ONNX Runtime's answer, the worst output; "float64" where
  ONNX Runtime's float32 functions missed the limit themselves and its float64 ones were the reference.
* *INT8 steps*: largest difference to ONNX Runtime on the same Q/DQ model, in steps of the output's quantization.
* *SQNR*: of our INT8 answer against FP32, in parentheses ONNX Runtime's on the same Q/DQ model; the worst output.
  *Scores*: of what the boxes are chosen from, where INT8 finds another number of them than FP32 in some sample.
* *in int8*: share of the multiply-accumulates that run on integers.
* *compile*: seconds for FP32 and INT8, calibration and verification included.

| model | parameters | MACs | input | FP32 error | INT8 steps | SQNR, dB | in int8 | compile |
|---|---:|---:|---|---:|---:|---:|---:|---:|
"""


def measure(name: str, source: Path | None, scratch: Path, result: Path) -> None:
    """Compile one model both ways and write what was found to `result`, after each precision.

    Args:
        source: its ONNX file; None for a model of the zoo.
        scratch: a folder for what is made on the way.
    """
    path = source or scratch / f"{name}.onnx"
    row: dict[str, Any] = {"model": name}
    try:
        if source is None:
            export_model(name, path)
        samples = ZOO[name].samples(CALIBRATION_SAMPLES) if source is None else _random_samples(path)
        row |= _describe(path)
        for label, passes in PRECISIONS.items():
            row[label] = _compile(path, passes, samples, scratch / f"{label}.optk")
            write_whole(result, json.dumps(row, indent=1).encode())
    except OptkitError as error:
        row["reason"] = _line(error, path)
    write_whole(result, json.dumps(row, indent=1).encode() + b"\n")


def _random_samples(path: Path) -> object:
    """What lies beside the file as `.npz`, else random; None where open dimensions do not say which lengths fit."""
    if path.with_suffix(".npz").is_file():
        return path.with_suffix(".npz")
    from optkit.measure.inputs import random_samples
    from optkit.measure.reference import Reference

    specs = Reference(path).inputs
    if any(isinstance(extent, str) for spec in specs for extent in spec.shape[1:]):
        return None
    return random_samples(specs, CALIBRATION_SAMPLES)


def _describe(path: Path) -> dict[str, Any]:
    from optkit.inspection import inspect_model

    found = inspect_model(path)
    return {"parameters": found["parameters"], "macs": _macs(path), "inputs": found["inputs"]}


def _macs(path: Path) -> int | None:
    """Of one call, open axes of the inputs as calibration without data has them; None where some stay unknown."""
    from optkit_passes.quantize.data_free import made_up_samples

    from optkit.macs import count_macs
    from optkit.model import load_model
    from optkit.pipeline import Pipeline
    from optkit.shapes import bind_shapes
    from optkit.transform import PassContext

    model = load_model(path)
    if any(not isinstance(d, int) for value in model.graph.inputs for d in value.shape or ()):
        sample = next(made_up_samples(model, seed=0)())
        bind_shapes(model, {name: array.shape for name, array in sample.items() if array.ndim})
        model = Pipeline.parse("fold").run(model, PassContext()).model
    counted = count_macs(model)
    known = [c.macs for c in counted if c.macs is not None and not c.open]
    return sum(known) if len(known) == len(counted) else None


def _compile(path: Path, passes: str | None, samples: object, output: Path) -> dict[str, Any]:
    """Figures of one compilation, or the reason why there is none."""
    import optkit

    try:
        report = optkit.compile(path, passes=passes, calib_data=samples, output=output).report
    except OptkitError as error:
        return {"reason": _line(error, path), "kind": type(error).__name__}
    except Exception as error:  # a defect of ours is a row too
        return {"reason": f"internal error: {type(error).__name__}: {_line(error, path)}", "kind": "internal"}
    macs = report["macs"]
    answer = {
        "seconds": sum(report["seconds"].values()),
        "int8_share": macs["by_compute"].get("int8", 0) / macs["total"] if macs["total"] else None,
        "preflight": [issue for issue in report["preflight"] if issue["status"] != "native"],
    }
    return answer | _figures(report["verification"]["outputs"])


def _figures(outputs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The worst output's figures; of what decides the number of rows where no sample has as many as the original."""
    compared = [output for output in outputs if output["to_original"]["elements"]]
    worst = min(compared, key=lambda output: output["to_original"]["sqnr_db"], default=None)
    peer = worst and worst["emitted_to_original"]
    steps = [o["to_emitted"]["max_abs"] / o["output_step"] for o in outputs if o["to_emitted"] and o["output_step"]]
    deciders = [figures["sqnr_db"] for output in outputs for figures in output["deciders"].values()]
    return {
        "relative": max((output["to_original"]["relative"] for output in compared), default=None),
        "settled": any(output["onnxruntime_to_reference"] for output in outputs),
        "sqnr_db": worst["to_original"]["sqnr_db"] if worst else None,
        "onnxruntime_sqnr_db": peer["sqnr_db"] if peer else None,
        "deciders_sqnr_db": min(deciders, default=None),
        "steps": max(steps, default=None),
    }


def _line(error: Exception, path: Path) -> str:
    """The message in one line, without where the file lay."""
    return " ".join(str(error).replace(f"{path}: ", "").replace(str(path), path.name).split())


def run(name: str, source: Path | None, result: Path, limit: float) -> dict[str, Any]:
    """`measure` in a process of its own, ended after `limit` seconds; returns the row."""
    with tempfile.TemporaryDirectory(prefix="optkit-zoo-") as folder:
        arguments = (name, source, Path(folder), result)
        worker = multiprocessing.get_context("spawn").Process(target=measure, args=arguments)
        result.unlink(missing_ok=True)
        worker.start()
        worker.join(limit)
        problem = "" if worker.exitcode == 0 else f"ended with exit code {worker.exitcode}"
        if worker.is_alive():
            worker.kill()
            worker.join()
            problem = f"not done after {limit:g} seconds"
    row: dict[str, Any] = json.loads(result.read_bytes()) if result.is_file() else {"model": name}
    if problem:
        row["reason"] = problem
        write_whole(result, json.dumps(row, indent=1).encode() + b"\n")
    return row


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The page: one row a model, in the zoo's order, then models by others."""
    order = {name: index for index, name in enumerate(ZOO)}
    ranked = sorted(rows, key=lambda row: (order.get(row["model"], len(order)), row["model"]))
    lines = ["| " + " | ".join(_cells(row)) + " |" for row in ranked]
    done = sum(not refusal(row) for row in rows)
    here = environment()
    machine = f"{here['cpu']}; ONNX Runtime {here['versions']['onnxruntime']}; seconds on a machine with other work."
    count = f"{done} of {len(rows)} models compile and verify in both precisions."
    return f"{HEAD}{chr(10).join(lines)}\n\n{machine}\n\n{count}\n"


def refusal(row: dict[str, Any]) -> str:
    """Why the model has no result in one of the precisions; empty where it has both."""
    parts = [row, *(row.get(label, {"reason": "interrupted"}) for label in PRECISIONS)]
    return next((str(part["reason"]) for part in parts if "reason" in part), "")


def _cells(row: dict[str, Any]) -> list[str]:
    shapes = [(i["name"], "x".join(map(str, i["shape"] or []))) for i in row.get("inputs", [])]
    given = shapes[0][1] if len(shapes) == 1 else ", ".join(f"{name} {shape}" for name, shape in shapes)
    head = [row["model"], _count(row.get("parameters")), _count(row.get("macs")), given]
    fp32, int8 = ({"reason": row.get("reason", "interrupted"), **row.get(label, {})} for label in PRECISIONS)
    mark = " (float64)" if fp32.get("settled") else ""
    error = f"{fp32['relative']:.1e}{mark}" if "seconds" in fp32 else _reason(fp32["reason"])
    if "seconds" in int8:
        steps = "" if int8["steps"] is None else f"{int8['steps']:.2f}"
        ratio = "" if int8["sqnr_db"] is None else f"{int8['sqnr_db']:.1f}"
        if int8["onnxruntime_sqnr_db"] is not None:
            ratio += f" ({int8['onnxruntime_sqnr_db']:.1f})"
        if int8["deciders_sqnr_db"] is not None:
            ratio = f"{ratio} scores {int8['deciders_sqnr_db']:.1f}".strip()
        share = "" if int8["int8_share"] is None else f"{int8['int8_share']:.0%}"
    else:
        same = int8["reason"] == fp32["reason"]
        steps, ratio, share = "" if same else _reason(int8["reason"]), "", ""
    seconds = " / ".join(f"{part['seconds']:.0f} s" if "seconds" in part else "-" for part in (fp32, int8))
    return [*head, error, steps, ratio, share, seconds]


def _reason(text: str) -> str:
    short = text if len(text) <= LONGEST_REASON else text[: LONGEST_REASON - 3] + "..."
    return short.replace("|", "\\|")


def _count(number: int | None) -> str:
    """1234567 as 1.23 M."""
    if number is None:
        return ""
    unit, scale = next(((u, s) for u, s in (("G", 1e9), ("M", 1e6), ("k", 1e3)) if number >= s), ("", 1))
    return f"{number / scale:.3g} {unit}".strip()


def subjects(words: Sequence[str]) -> dict[str, Path | None]:
    """Name to ONNX file (None: the zoo's) of what is named on the command line; the whole zoo without words.

    Raises:
        UsageError: neither a model of the zoo nor a file nor a folder.
    """
    found: dict[str, Path | None] = {}
    for word in words or FULL:
        path = Path(word)
        if word in ZOO:
            found[word] = None
        elif path.is_dir():
            found |= {file.stem: file for file in sorted(path.glob("*.onnx"))}
        elif path.is_file():
            found[path.stem] = path
        else:
            raise UsageError(f"{word}: no model of the zoo, file or folder; {nearest(word, ZOO)}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.zoo_table", description=__doc__)
    parser.add_argument("models", nargs="*", help="models of the zoo, ONNX files, folders (default: the zoo)")
    parser.add_argument("--results", type=Path, default=Path("build/zoo"), help="folder of one JSON a model")
    parser.add_argument("--page", type=Path, default=Path("docs/zoo.md"), help="what is written")
    parser.add_argument("--again", action="store_true", help="also what was measured before")
    parser.add_argument("--retry", action="store_true", help="also what was refused before")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds for one model")
    options = parser.parse_args()
    try:
        chosen = subjects(options.models)
        options.results.mkdir(parents=True, exist_ok=True)
        options.page.parent.mkdir(parents=True, exist_ok=True)
        for name, source in chosen.items():
            result = options.results / f"{name}.json"
            known = json.loads(result.read_bytes()) if result.is_file() else None
            if known is None or options.again or (options.retry and refusal(known)):
                row = run(name, source, result, options.limit)
                print(f"{name}: {refusal(row) or 'both'}", file=sys.stderr, flush=True)
        rows = [json.loads(file.read_bytes()) for file in sorted(options.results.glob("*.json"))]
        write_whole(options.page, table(rows).encode())
    except OptkitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(options.page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
