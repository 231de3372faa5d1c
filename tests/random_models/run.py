"""`python -m tests.random_models.run --count 500`: random models against ONNX Runtime.

Each is compiled, which verifies it as every compilation does, but for those whose answers rounding decides; a crash, a
refusal or a wrong answer is a problem, and its number makes the model again (--only N --keep FOLDER). With --open, axes
of the inputs are open, and the artifact runs at several sizes. With --target cuda:sm_90 the GPU is the emulated one of
the tests.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TOGETHER = 25
"""Models one process tries, for it takes seconds to begin."""


def tried(
    seeds: list[int], options: argparse.Namespace, folder: Path, variables: dict[str, str]
) -> Iterator[dict[str, object]]:
    """What became of each model; one that ends its process is left out of the next."""
    while seeds:
        command = [sys.executable, "-m", "tests.random_models.one", str(folder), *map(str, seeds)]
        command += ["--target", options.target, "--passes", options.passes, *(["--open"] if options.open else [])]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        yield from answers
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["nothing said"])[-1]
            yield {"seed": seeds[len(answers)], "judged": True, "problem": f"it ended with {done.returncode}: {last}"}
            answers.append({})
        seeds = seeds[len(answers) :]


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.random_models.run", description=__doc__)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="number of the first model")
    parser.add_argument("--only", type=int, nargs="+", help="just these")
    parser.add_argument("--minutes", type=float, default=1e9, help="start nothing new after so many")
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--passes", default="", help="the pipeline")
    parser.add_argument("--open", action="store_true", help="with open axes")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--keep", type=Path, help="folder for the models with problems")
    options = parser.parse_args()
    begin, count, problems, left_out = time.monotonic(), 0, 0, 0
    seeds = options.only or list(range(options.first, options.first + options.count))
    with tempfile.TemporaryDirectory(prefix="random-models-") as name, ThreadPoolExecutor(options.jobs) as pool:
        variables = dict(os.environ)
        if options.target.startswith("cuda"):
            from tests.targets.cuda import emulator

            variables = emulator.environment(Path(name))
        folder = options.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)

        def some(seeds: list[int]) -> int:
            nonlocal count, problems, left_out
            if time.monotonic() - begin < 60 * options.minutes:
                for answer in tried(seeds, options, folder, variables):
                    count += 1
                    left_out += not answer["judged"]
                    if answer["problem"]:
                        problems += 1
                        print(f"{answer['seed']}: {answer['problem']}", flush=True)
            return 0

        for _ in pool.map(some, [seeds[i : i + TOGETHER] for i in range(0, len(seeds), TOGETHER)]):
            pass
    print(f"{count} models, {problems} problems, {left_out} left out, whose answers rounding decides")
    return int(problems > 0)


if __name__ == "__main__":
    sys.exit(main())
