"""The kernels of an artifact in the order they run: by what template, and how long, predicted and measured."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from optkit import registry
from optkit.artifact.reader import open_artifact
from optkit.artifact.writer import KERNELS
from optkit.compiler.operator import Operator, Plan
from optkit.compiler.planning import predicted_seconds
from optkit.measure.peak import measure_peak
from optkit.measure.samples import choose_samples
from optkit.runtime import load
from optkit.runtime.profile import profile
from optkit.target import Target


@dataclass(frozen=True)
class TimedCall:
    """One kernel call of a run: the node it is of, the kernel as its manifest has it, and its seconds."""

    layer: str
    name: str
    kernel: Mapping[str, Any]
    seconds: float


def time_calls(
    path: str | Path,
    threads: int = 1,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    runs: int = 30,
    seed: int = 0,
) -> list[TimedCall]:
    """Every kernel call of a run of an artifact on random inputs, in order; arguments and errors of `time_kernels`."""
    with open_artifact(Path(path)) as artifact:
        artifact.verify()
        manifest = artifact.manifest
        kernels = {k["name"]: k for k in json.loads(artifact.read(KERNELS))}
    optimum = {str(k): tuple(int(d) for d in v) for k, v in dict(manifest.options.get("opt_shapes", {})).items()}
    shapes = {**optimum, **(input_shapes or {})}
    feed = choose_samples(manifest.inputs, None, 1, seed, shapes, ranges=manifest.ranges)[0]
    with load(path, threads) as runner:
        calls = profile(runner, feed, runs)
    seen: Counter[str] = Counter()
    found = []
    for call in calls:
        kernel = kernels.get(call.kernel, {})
        names = kernel.get("calls") or [call.kernel]
        found.append(TimedCall(names[seen[call.kernel] % len(names)], call.kernel, kernel, call.seconds))
        seen[call.kernel] += 1
    return found


def time_kernels(
    path: str | Path,
    threads: int = 1,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    runs: int = 30,
    seed: int = 0,
) -> dict[str, Any]:
    """Run an artifact on random inputs and time every kernel call inside the run.

    Args:
        input_shapes: of inputs with open axes; by default the shapes it was optimized for, then 1.

    Returns:
        "layers": one a call, in order: "layer" (the node), "kernel", "template", "params", "operator",
        "predicted_seconds" (None where nothing predicts, as with open axes), "seconds", "share" of all calls' time,
        "peak_share" (None where it has no products of known extents). "peaks": operations a second by arithmetic, of
        CPUs; a GPU is waited for after every call.

    Raises:
        ArtifactError: damaged, or for another machine.
        DataError: the shapes do not fit.
    """
    calls = time_calls(path, threads, input_shapes, runs, seed)
    with open_artifact(Path(path)) as artifact:
        manifest = artifact.manifest
    target = _target(manifest.target)
    operators = {str(call.kernel["operator"]) for call in calls if call.kernel.get("operator")}
    computes = sorted({Operator.parse(operator).compute for operator in operators})
    peaks = {c: measure_peak(target, c) * threads for c in computes} if target.device == "cpu" else {}
    # Of open axes an operator knows only the extents that are fixed.
    known = all(isinstance(extent, int) for spec in manifest.inputs for extent in spec.shape)
    total = sum(call.seconds for call in calls) or 1.0
    layers = [
        {
            "layer": call.layer,
            "kernel": call.name,
            "template": f"{call.kernel.get('rule', '?')}/{call.kernel.get('template', '?')}",
            "params": call.kernel.get("params", {}),
            "operator": call.kernel.get("operator", ""),
            **_against(call.kernel if known else {}, target, peaks, call.seconds, threads),
            "seconds": call.seconds,
            "share": call.seconds / total,
        }
        for call in calls
    ]
    return {"path": str(path), "threads": threads, "peaks": peaks, "seconds": total, "layers": layers}


def _against(
    kernel: Mapping[str, Any], target: Target, peaks: Mapping[str, float], seconds: float, threads: int
) -> dict[str, Any]:
    """What the model predicts of a kernel with products, and its share of the peak."""
    if not kernel.get("operator"):
        return {"predicted_seconds": None, "peak_share": None}
    operator = Operator.parse(kernel["operator"])
    plan = Plan(kernel["template"], {name: int(value) for name, value in kernel["params"].items()})
    peak = peaks.get(operator.compute)
    if peak is None:
        return {"predicted_seconds": None, "peak_share": None}
    modelled = plan.template in target.templates()
    return {
        "predicted_seconds": predicted_seconds(operator, plan, target, peak / threads) / threads if modelled else None,
        "peak_share": 2 * operator.macs() / seconds / peak if seconds > 0 else None,
    }


def _target(described: Mapping[str, Any]) -> Target:
    """The target of a manifest, with the code generator's options of that time."""
    base = registry.find_target(str(described["name"]))
    return replace(
        base,
        tvm=dict(described["tvm"]),
        isa=tuple(described["isa"]),
        lanes=int(described["lanes"]),
        registers=int(described["registers"]),
        features=frozenset(described["features"]),
        cores=1,
    )
