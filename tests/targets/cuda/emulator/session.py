"""What the tests let a process with an emulated GPU do: `python -m tests.targets.cuda.emulator.session VERB ...`.

Says what came of it as JSON, one object a line.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from optkit_targets.cuda.kernels import tensor, tiles

import optkit
from optkit.compiler import schedule
from optkit.compiler.operator import Operator
from optkit.errors import OptkitError
from optkit.kernel import Choice
from optkit.model import to_proto
from optkit.target import Target
from optkit.tune.session import tune as tune_model
from tests.targets.cuda import detection, joined, models, opened, reduced, sequences, transformers
from tests.targets.cuda.emulator.reports import sample, say
from tests.targets.cuda.emulator.streams import other_stream, several, stage


def _count() -> tuple[int, int, int, int]:
    """Launches, those that need not wait for the kernel before, replays of graphs and copies so far."""
    library = ctypes.CDLL("libcudart.so.13")
    names = "launches", "early_launches", "replays", "copies"
    launches, early, replays, copies = (getattr(library, f"emulated_{name}")() for name in names)
    return launches, early, replays, copies


def compile_models(folder: Path, *cases: str) -> None:
    """Compile "model:pipeline" each, verified on the emulated GPU, and run it again on tensors that lie there.

    "model:pipeline:sm_80" is with kernels for that GPU; "model:pipeline:bulk" in tiles whose weights come in bulk.
    """
    params = schedule._params
    for case in cases:
        name, pipeline, *arch = case.split(":")
        schedule._params = params
        if arch == ["bulk"]:
            arch, schedule._params = [], _in_bulk
        path = folder / f"{name}.onnx"
        homes = models, reduced, transformers, sequences, detection, joined
        build = next(getattr(each, name) for each in homes if hasattr(each, name))
        path.write_bytes(to_proto(build()).SerializeToString())
        out = folder / f"{case.replace(':', '.')}.optk"
        artifact = optkit.compile(path, target=":".join(["cuda", *arch]), passes=pipeline, output=out)
        with artifact.runner() as runner:
            feed = sample(runner)
            first = runner.run(feed)
            before = _count()
            second = runner.run(feed)
            launched, early, replayed, _ = (now - then for now, then in zip(_count(), before, strict=True))
            third, calls = instrumented(runner, feed)
        say(
            case=case,
            verification=artifact.manifest.verification,
            outputs=artifact.report["verification"]["outputs"],
            arch=artifact.manifest.target["tvm"]["arch"],
            parts=sorted(kernel["params"].get("parts", 1) for kernel in artifact.report["kernels"]),
            rules=sorted({kernel["rule"] for kernel in artifact.report["kernels"]}),
            kernels=sorted(kernel["name"] for kernel in artifact.report["kernels"]),
            casts=sorted(kernel["params"].get("cast", 0) for kernel in artifact.report["kernels"]),
            launched=launched,
            early=early,
            replayed=replayed,
            calls=calls,
            repeats=all(np.array_equal(first[k], second[k]) and np.array_equal(first[k], third[k]) for k in first),
        )


def _in_bulk(choice: Choice, func: Any, target: Target, _: Any) -> Mapping[str, int]:
    """As of a record: the model's best tile for two thread blocks whose weights come in bulk, where there is one."""
    text = schedule.operator_of(func) if choice.rule in ("cuda.tensor_conv", "cuda.tensor_matmul") else ""
    plans = tiles.ranked(tensor.work_of(Operator.parse(text), target), target) if text else []
    return next((params for params in plans if params["cast"] == 2), choice.params)


def instrumented(runner: optkit.runtime.Runner, feed: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], int]:
    """Outputs, and how many kernels were called one by one."""
    calls: list[str] = []

    def note(_function: Any, name: str, before: bool, *_: Any) -> int:
        if before and not name.startswith("vm.builtin"):
            calls.append(name)
        return 0

    runner.instrument(note)
    outputs = runner.run(feed)
    runner.instrument(None)
    return outputs, len(calls)


def run(path: Path) -> None:
    """Load and run an artifact; an error as it is told."""
    try:
        with optkit.load(path) as runner:
            runner.run(sample(runner))
        say(error=None)
    except OptkitError as error:
        say(error=str(error))


def keep_on_device(path: Path) -> None:
    """Run on tensors that lie on the device, and leave the outputs there."""
    with optkit.load(path) as runner:
        feed = sample(runner)
        bridge = runner._bridge
        there = {name: bridge.to_device(bridge.from_array(array)) for name, array in feed.items()}
        runner.run_on_device(there)
        *_, before = _count()
        outputs = runner.run_on_device(there)
        runner.synchronize()
        *_, copies = _count()
        (name,) = outputs
        wanted = runner.run(feed)[name]
        found = bridge.download(outputs[name], wanted.dtype)
        device = outputs[name].__dlpack_device__()[0]
        say(device=device, copies=copies - before, equal=bool(np.array_equal(found, wanted)))


def open_batch(folder: Path, *pipelines: str) -> None:
    """Compile attention of any batch, verified, and run samples together and one by one."""
    path = folder / "heads.onnx"
    path.write_bytes(to_proto(transformers.heads("n")).SerializeToString())
    for pipeline in pipelines:
        artifact = optkit.compile(path, target="cuda", passes=pipeline, output=folder / f"heads.{pipeline}.optk")
        with artifact.runner() as runner:
            feed = {name: np.concatenate([array, array[:1] * 2]) for name, array in sample(runner).items()}
            together = runner.run(feed)["y"]
            alone = [runner.run({name: array[i : i + 1] for name, array in feed.items()})["y"] for i in range(3)]
        say(
            verification=artifact.manifest.verification["status"],
            rules=sorted({kernel["rule"] for kernel in artifact.report["kernels"]}),
            kernels=sorted(kernel["name"] for kernel in artifact.report["kernels"]),
            equal=bool(np.array_equal(together, np.concatenate(alone))),
            differ=not np.array_equal(alone[0], alone[2]),
        )


def ranges(folder: Path, *cases: str) -> None:
    """Compile "model:pipeline[:gpu]" each, of `opened`, verified at both ends of its range."""
    for case in cases:
        name, pipeline, *arch = case.split(":")
        path = folder / f"{name}.onnx"
        path.write_bytes(to_proto(getattr(opened, name)()).SerializeToString())
        artifact = optkit.compile(
            path,
            target=":".join(["cuda", *arch]),
            passes=pipeline,
            output=folder / f"{case.replace(':', '.')}.optk",
            min_shapes={key: smallest for key, (smallest, _) in opened.RANGES[name].items()},
            max_shapes={key: largest for key, (_, largest) in opened.RANGES[name].items()},
        )
        say(
            case=case,
            verification=artifact.manifest.verification,
            rules=sorted(kernel["rule"] for kernel in artifact.report["kernels"] for _ in kernel["calls"]),
            kernels=sorted(kernel["name"] for kernel in artifact.report["kernels"]),
        )


def batchwise(folder: Path) -> None:
    """An LSTM of examples first, which ONNX Runtime does not know, beside the same of steps first."""
    answers = []
    for layout in (0, 1):
        path, out = folder / f"{layout}.onnx", folder / f"{layout}.optk"
        path.write_bytes(to_proto(sequences.batchwise(layout)).SerializeToString())
        optkit.compile(path, target="cuda", passes="default", output=out, verify=layout == 0)
        with optkit.load(out) as runner:
            if layout == 0:
                feed = sample(runner)
            else:
                feed = {name: np.ascontiguousarray(array.swapaxes(0, 1)) for name, array in feed.items()}
            answers.append(runner.run(feed))
    steps, examples = answers
    say(
        equal=np.array_equal(examples["y"], steps["y"].transpose(2, 0, 1, 3))
        and all(np.array_equal(examples[name], steps[name].swapaxes(0, 1)) for name in "hc"),
        rules=sorted({kernel["rule"] for kernel in _kernels(out)}),
    )


def _kernels(path: Path) -> list[dict[str, Any]]:
    with zipfile.ZipFile(path) as archive:
        found: list[dict[str, Any]] = json.loads(archive.read("kernels.json"))
    return found


def tune(folder: Path) -> None:
    """Tune a model and compile it with the records."""
    path, records = folder / "product.onnx", folder / "tuning.db"
    path.write_bytes(to_proto(models.product()).SerializeToString())
    if "EMULATED_FAILURE" in os.environ:
        try:
            outcome = tune_model(path, target="cuda", passes="fp16", tuning_db=records, trials=2)
        except OptkitError as error:
            say(error=str(error))
        else:
            say(outcomes=len(outcome.outcomes), problems=outcome.problems)
        return
    tuned = tune_model(path, target="cuda", passes="fp16", tuning_db=records, trials=3)
    (outcome,) = tuned.outcomes
    artifact = optkit.compile(
        path, target="cuda", passes="fp16", tuning_db=records, output=folder / "product.optk", threads=1
    )
    say(
        measured=outcome.measured,
        failed=outcome.failed,
        best=outcome.best,
        default=outcome.default,
        plan=dict(outcome.plan.params),
        problems=tuned.problems,
        params=[k["params"] for k in artifact.report["kernels"] if k["rule"] == "cuda.tensor_matmul"],
        records=list(artifact.manifest.tuning_records),
        verification=artifact.manifest.verification["status"],
    )


if __name__ == "__main__":
    verb, first, *rest = sys.argv[1:]
    verbs = {
        "batchwise": batchwise,
        "compile": compile_models,
        "keep": keep_on_device,
        "open": open_batch,
        "ranges": ranges,
        "stream": other_stream,
        "run": run,
        "several": several,
        "stage": stage,
        "tune": tune,
    }
    verbs[verb](Path(first), *rest)
