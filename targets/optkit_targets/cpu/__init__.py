"""CPUs: this machine, named microarchitectures, and x86-64 and Arm levels."""

from __future__ import annotations

import functools
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from optkit.errors import UsageError, nearest
from optkit.kernel import KernelRule
from optkit.target import Target
from optkit_targets.cpu.chips import CHIPS, Chip
from optkit_targets.cpu.host import host_chip, host_features


@dataclass(frozen=True)
class CpuFamily:
    """Targets whose code runs on a CPU."""

    name: str = "cpu"

    def names(self) -> Mapping[str, str]:
        """Every name with a line about it."""
        return {"cpu": "this machine's CPU"} | {name: chip.summary for name, chip in CHIPS.items()}

    def make(self, name: str) -> Target:
        """The target of that name; "cpu" is detected."""
        word = name.removeprefix("cpu:")
        if word == "cpu":
            return replace(_target("cpu", host_chip()), cores=len(os.sched_getaffinity(0)))
        if word not in CHIPS:
            raise UsageError(f"unknown CPU target {name!r}: {nearest(word, self.names())}")
        return _target(word, CHIPS[word])

    def rules(self, target: Target) -> tuple[KernelRule, ...]:
        """The CPU's kernel rules."""
        return _rules()

    def records(self) -> tuple[Path, ...]:
        """Records of the machines that models were tuned on, one file a kind."""
        return tuple(sorted((Path(__file__).parent / "records").glob("*.jsonl")))

    def why_not_here(self, target: Target) -> str | None:
        """Whether this CPU has everything the target's code uses."""
        machine = platform.machine()
        arch, *features = target.isa
        if arch != machine:
            return f"{target.name} is {arch}, this machine is {machine}"
        missing = sorted(set(features) - host_features())
        return f"{target.name} needs {', '.join(missing)}, which this CPU has not" if missing else None


@functools.cache
def _rules() -> tuple[KernelRule, ...]:
    from optkit_targets.cpu.kernels import RULES

    return RULES


def _target(name: str, chip: Chip) -> Target:
    tvm: dict[str, object] = {
        "kind": "llvm",
        "mtriple": chip.triple,
        "mcpu": chip.mcpu,
        "num-cores": chip.cores,
    }
    if chip.attributes:
        tvm["mattr"] = list(chip.attributes)
    return Target(
        name=name,
        device="cpu",
        tvm=tvm,
        lanes=chip.lanes,
        registers=chip.registers,
        cores=chip.cores,
        cache=chip.cache,
        features=chip.capabilities(),
        isa=(chip.arch, *chip.isa),
        summary=chip.summary,
    )
