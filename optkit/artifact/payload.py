"""What a compiler hands over to be packed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from optkit.artifact.spec import Partition, TensorSpec, Variant

if TYPE_CHECKING:
    from optkit.target import Target


@dataclass(frozen=True)
class LinkerInfo:
    """The program that linked the library: its name and the first line of its version text."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}: {self.version}"


@dataclass(frozen=True)
class Payload:
    """A compiled model.

    Attributes:
        library: shared object with a Relax VM executable. Its entry takes the inputs in order, then the
            weights in order, and returns one tensor or a tuple of them.
        weights: in call order; contiguous or not, any byte order (stored contiguous, little endian).
        device: "cpu" or "cuda".
        kernels: one mapping a kernel: name, rule, template, params, compute, macs, nodes.
        target: as `describe_target` makes it.
        reads_values: whether the virtual machine looks at values of tensors between kernels.
        entry_weights: how many of the weights, from the first, the entry takes; None: all.
        variants: entries for certain shapes.
        ranges: smallest and largest extent (None: any) of open axes, by name.
        partitions: the parts of a model that is not of one piece; then no entry takes the model's inputs.
        members: further files, by name.
    """

    library: Path
    weights: Sequence[tuple[str, np.ndarray]]
    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    device: str = "cpu"
    kernels: Sequence[Mapping[str, Any]] = ()
    target: Mapping[str, Any] = field(default_factory=dict)
    entry: str = "main"
    reads_values: bool = False
    entry_weights: int | None = None
    variants: Sequence[Variant] = ()
    ranges: Mapping[str, tuple[int, int | None]] = field(default_factory=dict)
    partitions: Sequence[Partition] = ()
    members: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class BuildInfo:
    """Where a payload comes from. All of it goes into the manifest: it must not vary between equal builds.

    Attributes:
        source_sha256: hash of the source model with its external data.
        options: what the user chose, JSON values only.
        verification: `{"status": "passed" | "not_run" | "skipped", ...}`.
    """

    source_sha256: str
    pipeline: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    linker: LinkerInfo | None = None
    verification: Mapping[str, Any] = field(default_factory=lambda: {"status": "skipped"})
    tuning_records: Sequence[Mapping[str, Any]] = ()
    versions: Mapping[str, str] = field(default_factory=dict)


def describe_target(target: Target) -> dict[str, Any]:
    """The manifest's account of a target: JSON values in a fixed order."""
    return {
        "name": target.name,
        "device": target.device,
        "isa": list(target.isa),
        "tvm": dict(target.tvm),
        "tvm_host": dict(target.tvm_host),
        "lanes": target.lanes,
        "registers": target.registers,
        "cores": target.cores,
        "features": sorted(target.features),
    }
