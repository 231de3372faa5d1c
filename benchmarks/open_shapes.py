"""`python -m benchmarks.open_shapes`: one artifact for a range of shapes, against one built for a single shape.

Each model is compiled with open axes, a range and an optimum; it is compared with ONNX Runtime at shapes over all
of the range, and raced at its optimum against the artifact of the same model with that shape fixed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import optkit
from benchmarks.zoo import ZOO, Tokens, export_model
from optkit.errors import OptkitError, VerificationError
from optkit.files import write_whole
from optkit.measure.contestant import Contestant
from optkit.measure.environment import environment
from optkit.measure.timing import race
from optkit.measure.verify import verify

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """A model of the zoo, the ends of its range, its optimum, and more shapes to try.

    Attributes:
        open_axes: which axes the export leaves open, as arguments of `export_model`.
    """

    open_axes: tuple[str, ...]
    smallest: Shape
    optimum: Shape
    largest: Shape
    between: tuple[Shape, ...]


CASES = {
    "resnet50": Case(
        ("dynamic_batch", "dynamic_size"),
        (1, 3, 160, 160),
        (1, 3, 224, 224),
        (64, 3, 640, 640),
        ((64, 3, 160, 160), (1, 3, 640, 640), (3, 3, 161, 639), (2, 3, 224, 352)),
    ),
    "yolo_v8n": Case(
        ("dynamic_batch", "dynamic_size"),
        (1, 3, 160, 160),
        (1, 3, 320, 320),
        (64, 3, 640, 640),
        ((64, 3, 160, 160), (1, 3, 640, 640), (2, 3, 192, 608), (3, 3, 320, 320)),
    ),
    "bert_small": Case(
        ("dynamic_batch", "dynamic_length"), (1, 1), (1, 128), (8, 512), ((1, 512), (8, 1), (2, 77), (1, 127))
    ),
}


def samples(name: str, shape: Shape) -> dict[str, np.ndarray]:
    """Seeded inputs of the model, all of them of one shape; masks keep every token."""
    generator = np.random.default_rng(0)
    drawn: dict[str, np.ndarray] = {}
    for key, given in ZOO[name].inputs.items():
        if not isinstance(given, Tokens):
            drawn[key] = generator.standard_normal(shape, dtype=np.float32)
        elif "mask" in key:
            drawn[key] = np.ones(shape, np.int64)
        else:
            drawn[key] = generator.integers(0, given.count, shape)
    return drawn


def measure(
    name: str, folder: Path, target: str, passes: str, rounds: int, threads: int, largest: bool
) -> dict[str, Any]:
    """Compile both artifacts, compare and race them.

    Args:
        passes: the pipeline, "" for the default one.

    Raises:
        VerificationError: an output is not ONNX Runtime's at some shape.
    """
    case = CASES[name]
    source = export_model(name, folder / f"{name}.onnx", **dict.fromkeys(case.open_axes, True))
    keys = list(ZOO[name].inputs)
    given: dict[str, Any] = {"target": target, "threads": threads, **({"passes": passes} if passes else {})}
    ranged = optkit.compile(
        source,
        output=folder / f"{name}.ranged.optk",
        min_shapes=dict.fromkeys(keys, case.smallest),
        opt_shapes=dict.fromkeys(keys, case.optimum),
        max_shapes=dict.fromkeys(keys, case.largest),
        **given,
    )
    fixed = optkit.compile(
        source, output=folder / f"{name}.fixed.optk", input_shapes=dict.fromkeys(keys, case.optimum), **given
    )
    errors = {}
    with optkit.load(ranged.path) as runner:
        for shape in (case.smallest, case.optimum, *case.between, *([case.largest] if largest else [])):
            found = verify(source, None, runner, [samples(name, shape)])
            label = "x".join(map(str, shape))
            if not found.passed:
                raise VerificationError(f"{name} at {label}: {found.reason}")
            errors[label] = max(check.figures.relative for check in found.outputs)
            print(f"{name} {label}: relative error {errors[label]:.1e}", file=sys.stderr)
    lanes = [
        Contestant("one for a range", "optk", ranged.path, threads),
        Contestant("one for the optimum", "optk", fixed.path, threads),
    ]
    result = race(lanes, samples(name, case.optimum), rounds=rounds)
    ratio = result.speedup("one for the optimum", "one for a range")
    return {
        "model": name,
        "target": target,
        "passes": passes,
        "smallest": case.smallest,
        "optimum": case.optimum,
        "largest": case.largest,
        "errors": errors,
        "median_ms": {lane.contestant.name: float(np.median(lane.rounds)) * 1e3 for lane in result.lanes},
        "range_over_fixed": {"value": ratio.value, "low": ratio.low, "high": ratio.high},
        "threads": threads,
        "environment": environment(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.open_shapes", description=__doc__)
    parser.add_argument("models", nargs="*", choices=[[], *CASES], help="default: all")
    parser.add_argument("--output", type=Path, default=Path("build/benchmarks"))
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--passes", default="", help="default: the default ones")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--largest", action="store_true", help="also run the largest shape (20 GB of memory, minutes)")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="optkit-open-") as folder:
            for name in options.models or CASES:
                given = options.target, options.passes, options.rounds, options.threads, options.largest
                found = measure(name, Path(folder), *given)
                text = json.dumps(found, indent=1) + "\n"
                write_whole(options.output / f"open_{name}.json", text.encode())
                medians = " / ".join(f"{k} {v:.2f} ms" for k, v in found["median_ms"].items())
                print(f"{name} at its optimum: {medians}, {found['range_over_fixed']['value']:.3f}x")
    except OptkitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
