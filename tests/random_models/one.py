"""`python -m tests.random_models.one FOLDER SEED...`: compile, verify and run random models; what `run` starts.

A line of JSON a model: its number, what is wrong with it ("" for nothing), and whether that could be judged.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

import optkit
from optkit.errors import OptkitError, VerificationError
from optkit.measure.samples import guess_precision
from optkit.measure.verify import verify
from tests.graphs import session
from tests.random_models.models import LEAST, random_model

LARGEST = 48
"""Of an open axis."""


def inputs(model: onnx.ModelProto, sizes: dict[str, int], seed: int) -> dict[str, np.ndarray]:
    """Normal numbers for a model whose open axes have these sizes."""
    random = np.random.default_rng(seed)
    shapes = {
        v.name: [sizes.get(d.dim_param, d.dim_value) for d in v.type.tensor_type.shape.dim] for v in model.graph.input
    }
    return {name: random.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


def shapes(feed: dict[str, np.ndarray]) -> dict[str, list[int]]:
    """Of inputs, by name."""
    return {name: list(array.shape) for name, array in feed.items()}


def judgeable(reference: ort.InferenceSession, feeds: list[dict[str, np.ndarray]]) -> bool:
    """Whether answers are numbers of usual size, and rounding does not decide them.

    Where inputs that are a thousandth other ones make answers that are several, so does any other way to round.
    """
    for feed in feeds:
        answers = reference.run(None, feed)
        if not all(np.isfinite(a).all() and np.abs(a).max(initial=0) < 1e4 for a in answers):
            return False
        random = np.random.default_rng(0)
        near = {k: (v * (1 + 1e-3 * random.standard_normal(v.shape))).astype(v.dtype) for k, v in feed.items()}
        for a, b in zip(answers, reference.run(None, near), strict=True):
            if np.linalg.norm(a - b) > 5e-3 * np.linalg.norm(a):
                return False
    return True


def attempt(seed: int, folder: Path, target: str, passes: str, open_axes: bool) -> bool:
    """Compile and verify a model; False for one that is left out. What has no problem leaves nothing in the folder.

    Raises:
        OptkitError: it has one.
    """
    model = random_model(seed, open_axes)
    path = folder / f"{seed}.onnx"
    path.write_bytes(model.SerializeToString())
    onnx.checker.check_model(model, full_check=True)
    names = {d.dim_param for v in model.graph.input for d in v.type.tensor_type.shape.dim if d.dim_param}
    least = {name: 1 if name == "n" else LEAST for name in sorted(names)}
    random = np.random.default_rng(seed)
    sizes = [{n: int(random.integers(low, LARGEST)) for n, low in least.items()} for _ in range(3)]
    feeds = [inputs(model, chosen, seed) for chosen in ([least, *sizes] if names else [least])]
    reference = session(model)
    output = path.with_suffix(".optk")
    judged = judgeable(reference, feeds)
    if judged:
        given: dict[str, object] = {"passes": passes} if passes else {}
        if passes.startswith("int8"):
            given["calib_data"] = feeds[0]
        if names and random.random() < 0.5:
            most = inputs(model, {n: 4 if n == "n" else LARGEST for n in least}, 0)
            given |= {"min_shapes": shapes(feeds[0]), "max_shapes": shapes(most)}
            feeds = [f for f in feeds if all(np.all(np.array(f[k].shape) <= most[k].shape) for k in f)]
            if random.random() < 0.5:
                given["opt_shapes"] = shapes(feeds[-1])
        made = optkit.compile(model, target=target, output=output, seed=seed, **given)  # type: ignore[arg-type]
        # What cannot run here was verified in its layouts, and integers with the model that they are of.
        if names and not passes.startswith("int8") and made.manifest.verification["status"] == "passed":
            with optkit.load(made.path) as runner:
                for feed in feeds:
                    check = verify(path, None, runner, [feed], guess_precision(made.manifest))
                    if not check.passed:
                        raise VerificationError(f"at {shapes(feed)}: {check.reason}")
    for left in (path, output, output.with_name(f"{seed}.report.json")):
        left.unlink(missing_ok=True)
    return judged


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.random_models.one", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("seeds", type=int, nargs="+")
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--passes", default="")
    parser.add_argument("--open", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    for seed in options.seeds:
        problem, judged = "", True
        try:
            judged = attempt(seed, options.folder, options.target, options.passes, options.open)
        except OptkitError as error:
            problem = f"{type(error).__name__}: {error}"
        except Exception as error:
            problem = f"BUG {type(error).__name__}: {error}"
        print(json.dumps({"seed": seed, "problem": " ".join(problem.split()), "judged": judged}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
