"""Where the time of a model on a GPU goes: its kernels as CUPTI (torch's profiler) times them while the model runs."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from optkit_targets.cuda.kernels.tensor import work_of
from optkit_targets.cuda.kernels.tiles import SPACE, Tile

import optkit
from optkit import registry
from optkit.compiler.operator import Operator
from optkit.target import Target

RUNS = 10


def kernel_times(path: Path, feed: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Every kernel of an artifact, in the order it is first launched.

    Returns:
        "kernel", "rule", "params", "operator" as the artifact lists them; "launches" and "microseconds" of a run, the
        latter without what two kernels overlap; "cycles": what the tiles' model expects of one launch, None where it
        has none.
    """
    import torch
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with zipfile.ZipFile(path) as archive:
        listed = {kernel["name"]: kernel for kernel in json.loads(archive.read("kernels.json"))}
    with optkit.load(path) as runner:
        tensors = {name: torch.from_numpy(array).cuda() for name, array in feed.items()}
        for _ in range(3):
            runner.run_on_device(tensors)
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA]) as found:
            for _ in range(RUNS):
                runner.run_on_device(tensors)
            torch.cuda.synchronize()
    spans = [
        (event.time_range.start, event.time_range.end, event.name)
        for event in found.events()
        if event.device_type == DeviceType.CUDA
    ]
    return listed_times(spans, listed, registry.find_target("cuda"))


def listed_times(
    spans: list[tuple[float, float, str]], listed: Mapping[str, Mapping[str, Any]], target: Target
) -> list[dict[str, Any]]:
    """Rows of `kernel_times` from what ran from when to when, in microseconds, over all runs."""
    rows: dict[str, dict[str, Any]] = {}
    before = 0.0
    # One that is launched early waits for the one before: its time begins when that one ends.
    for begin, end, name in sorted(spans):
        kernel = listed.get(re.sub(r"_kernel(_\d+)?$", "", name), {})
        row = rows.setdefault(
            name,
            {
                "kernel": name,
                "rule": kernel.get("rule", ""),
                "params": kernel.get("params", {}),
                "operator": kernel.get("operator", ""),
                "launches": 0.0,
                "microseconds": 0.0,
                "cycles": _cycles(kernel, target),
            },
        )
        row["launches"] += 1 / RUNS
        row["microseconds"] += max(0.0, end - max(begin, before)) / RUNS
        before = max(before, end)
    return list(rows.values())


def _cycles(kernel: Mapping[str, Any], target: Target) -> float | None:
    if not kernel.get("operator") or set(SPACE) - set(kernel["params"]):
        return None
    work = work_of(Operator.parse(kernel["operator"]), target)
    return Tile.of(kernel["params"], work, target).cycles(work, target)
