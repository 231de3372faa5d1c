"""`python -m benchmarks.cuda_emulated`: the models of `benchmarks.cuda` at their real sizes, checked without a GPU.

Artifacts for Hopper run on the emulated GPU of the tests, which executes the source of their kernels thread by thread
on the CPU, and have to answer as `benchmarks.cuda` wants them to; times say nothing. A case is a process of its own,
minutes long; --jobs of them run at a time. Everything is written to --output after every case. Exit code 1 where an
answer is wrong.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from benchmarks.cuda_builds import MODELS
from benchmarks.cuda_cases import IN_BATCHES, Case, build, check, export
from optkit.files import write_whole
from optkit.measure.environment import environment


def answer(case: Case, precision: str) -> dict[str, Any]:
    """What a case answers; in a process that has an emulated GPU."""
    with tempfile.TemporaryDirectory(prefix="optkit-cuda-") as name:
        folder = Path(name)
        export(case, "", folder)
        made = build(case, precision, folder)
        return {"arch": made["arch"], **check(case, precision, folder)}


def answered(case: Case, precision: str, variables: dict[str, str]) -> dict[str, Any]:
    """The same, by a process of its own."""
    command = [sys.executable, "-m", "benchmarks.cuda_emulated", "--case", case.model, str(case.batch), precision]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        why = done.stderr.strip().splitlines()[-1:] or [f"it ended with {done.returncode}"]
        return {"passed": False, "why": why[0][:400]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.cuda_emulated", description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--precision", nargs="+", choices=["fp16", "int8"], default=["fp16", "int8"])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("build/benchmarks/cuda_emulated.json"))
    parser.add_argument("--case", nargs=3, metavar=("MODEL", "BATCH", "PRECISION"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        model, batch, precision = options.case
        print(json.dumps(answer(Case(model, int(batch)), precision)))
        return 0
    from tests.targets.cuda import emulator

    options.output.parent.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "environment": environment(), "cases": {}}
    models = [m if options.batch == 1 else IN_BATCHES.get(m, m) for m in options.models]
    with tempfile.TemporaryDirectory(prefix="optkit-emulator-") as name, ThreadPoolExecutor(options.jobs) as pool:
        variables = emulator.environment(Path(name))
        running = {
            pool.submit(answered, Case(model, options.batch), precision, variables): (model, precision)
            for model, precision in itertools.product(models, options.precision)
        }
        for future in as_completed(running):
            model, precision = running[future]
            found = future.result()
            result["cases"].setdefault(Case(model, options.batch).name, {})[precision] = found
            write_whole(options.output, json.dumps(result, indent=1).encode() + b"\n")
            said = found.get("why") or found["errors"]
            print(f"{model} {precision}: {'ok' if found['passed'] else 'WRONG'}, {said}", flush=True)
    return int(not all(entry["passed"] for case in result["cases"].values() for entry in case.values()))


if __name__ == "__main__":
    sys.exit(main())
