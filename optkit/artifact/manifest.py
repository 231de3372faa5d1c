"""manifest.json: what an artifact holds, for what machine, from what, made with what; schema version 2."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optkit.artifact.palette import MOST_BITS, PLAIN_BITS, stored_bytes
from optkit.artifact.spec import Partition, TensorSpec, Variant, numpy_dtype
from optkit.errors import ArtifactError

SCHEMA_VERSION = 2
"""2: weights of fewer than 8 bits are packed."""
WHOLE, PARTITIONED = "vm", "vm+onnxruntime"
"""Flavours: what runs an artifact."""
WITHOUT_GRAPH = ".calls"
"""Behind an entry's name: the same, every kernel launched by a call of its own."""
ALIGNMENT = 64
"""Bytes; of weights.bin within the file and of every tensor in it: a cache line, an AVX-512 vector."""


@dataclass(frozen=True)
class Member:
    """Digest and unpacked size of one file inside the artifact."""

    sha256: str
    nbytes: int


@dataclass(frozen=True)
class WeightEntry:
    """Where one weight lies in weights.bin, and how; C order, little endian.

    Attributes:
        offset: in bytes, of what is stored.
        nbytes: of the array once it is loaded.
        bits: of the code that stands for each byte of the array, after a palette (see `optkit.artifact.palette`);
            8: the bytes are stored as they are.
        stored: bytes it takes in the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    bits: int
    stored: int


@dataclass(frozen=True)
class Manifest:
    """The manifest of an artifact. It holds no time and no measured figure: equal builds give equal bytes.

    Attributes:
        inputs, outputs: in call order.
        weights: of all entries.
        reads_values: whether the virtual machine looks at values of tensors between kernels, such as extents that are
            found at run time; a GPU's stream for that is the default one.
        entry_weights: so many of them, from the first, are passed to the entry function after the inputs.
        variants: entries that take over at certain shapes.
        ranges: smallest and largest extent (None: any) of open axes, by name.
        partitions: parts that run one after the other, where some nodes were left to ONNX Runtime.
        target: `name`, `device`, `isa` (what the machine must offer) and the target's numbers.
        verification: `status` is "passed", "not_run" (with `reason`) or "skipped" (--no-verify).
        kernels: names of the kernels; details are in kernels.json.
        runtime: libraries the artifact carries, in loading order; none if it relies on an installed TVM.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    weights: tuple[WeightEntry, ...]
    members: Mapping[str, Member]
    target: Mapping[str, Any]
    device: str = "cpu"
    flavour: str = WHOLE
    entry: str = "main"
    pipeline: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    source_sha256: str = ""
    tuning_records: tuple[Mapping[str, Any], ...] = ()
    verification: Mapping[str, Any] = field(default_factory=lambda: {"status": "skipped"})
    kernels: tuple[str, ...] = ()
    runtime: tuple[str, ...] = ()
    reads_values: bool = False
    entry_weights: int | None = None
    variants: tuple[Variant, ...] = ()
    ranges: Mapping[str, tuple[int, int | None]] = field(default_factory=dict)
    partitions: tuple[Partition, ...] = ()
    schema: int = SCHEMA_VERSION

    def to_json(self) -> bytes:
        """Canonical JSON: sorted keys, UTF-8, a line feed at the end."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
        return text.encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes, where: str) -> Manifest:
        """Parse and check a manifest; `where` names the artifact in errors.

        Raises:
            ArtifactError: not JSON, another schema version, a field missing or of the wrong kind.
        """
        try:
            raw = json.loads(data)
        except ValueError as e:
            raise ArtifactError(f"{where}: manifest.json is not JSON ({e}); the artifact is damaged") from e
        if not isinstance(raw, dict) or not isinstance(raw.get("schema"), int):
            raise ArtifactError(f"{where}: no schema version in manifest.json; this is no artifact of optkit")
        if raw["schema"] != SCHEMA_VERSION:
            raise ArtifactError(
                f"{where}: schema version {raw['schema']}, this optkit reads {SCHEMA_VERSION}; "
                "load it with the optkit that wrote it, or compile the model again"
            )
        try:
            known = {f.name for f in dataclasses.fields(cls)}
            values = {k: v for k, v in raw.items() if k in known}
            values["inputs"] = tuple(_spec(s) for s in raw["inputs"])
            values["outputs"] = tuple(_spec(s) for s in raw["outputs"])
            values["weights"] = tuple(_weight(w) for w in raw["weights"])
            values["members"] = {str(k): _member(v) for k, v in raw["members"].items()}
            sizes = len(values["inputs"]), len(values["weights"])
            values["variants"] = tuple(_variant(v, *sizes) for v in raw["variants"])
            values["partitions"] = tuple(_partition(p, sizes[1]) for p in raw["partitions"])
            values["ranges"] = {str(k): _range(v) for k, v in raw["ranges"].items()}
            for name in ("tuning_records", "kernels", "runtime"):
                values[name] = tuple(raw[name])
            manifest = cls(**values)
            for name in ("device", "flavour", "entry", "pipeline", "source_sha256"):
                _need(isinstance(getattr(manifest, name), str), name)
            _need(isinstance(manifest.reads_values, bool), "reads_values")
            count = manifest.entry_weights
            _need(count is None or (isinstance(count, int) and 0 <= count <= len(manifest.weights)), "entry_weights")
            for name in ("target", "options", "versions", "verification"):
                _need(isinstance(getattr(manifest, name), dict), name)
        except ArtifactError as e:
            raise ArtifactError(f"{where}: manifest.json: {e}") from e
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            message = f"{where}: manifest.json does not follow schema {SCHEMA_VERSION} ({e!r})"
            raise ArtifactError(message) from e
        return manifest


def _need(condition: bool, what: object) -> None:
    if not condition:
        raise ArtifactError(f"wrong value for {what}")


def _spec(raw: Mapping[str, Any]) -> TensorSpec:
    spec = TensorSpec(raw["name"], raw["dtype"], raw["shape"])
    _need(isinstance(spec.name, str), "a tensor's name")
    _need(all(isinstance(d, str) or d >= 0 for d in spec.shape), f"the shape of {spec.name}")
    numpy_dtype(spec.dtype)
    return spec


def _variant(raw: Mapping[str, Any], inputs: int, weights: int) -> Variant:
    shapes = tuple(tuple(s) for s in raw["shapes"])
    variant = Variant(raw["entry"], shapes, tuple(raw["weights"]))
    _need(isinstance(variant.entry, str), "a variant's entry")
    _need(len(shapes) == inputs and all(isinstance(d, int) for s in shapes for d in s), "a variant's shapes")
    _need(all(isinstance(i, int) and 0 <= i < weights for i in variant.weights), "a variant's weights")
    return variant


def _partition(raw: Mapping[str, Any], weights: int) -> Partition:
    part = Partition(
        raw["runner"],
        raw["entry"],
        tuple(raw["inputs"]),
        tuple(_spec(s) for s in raw["outputs"]),
        tuple(raw["weights"]),
        tuple(raw["nodes"]),
    )
    _need(part.runner in ("vm", "onnxruntime") and isinstance(part.entry, str), "a partition")
    _need(all(isinstance(name, str) for name in (*part.inputs, *part.nodes)), "a partition's names")
    _need(all(isinstance(i, int) and 0 <= i < weights for i in part.weights), "a partition's weights")
    return part


def _range(raw: Sequence[Any]) -> tuple[int, int | None]:
    low, high = raw
    _need(isinstance(low, int) and (high is None or (isinstance(high, int) and low <= high)), "a range")
    return low, high


def _member(raw: Mapping[str, Any]) -> Member:
    member = Member(str(raw["sha256"]), raw["nbytes"])
    _need(isinstance(member.nbytes, int) and member.nbytes >= 0, "a member's size")
    return member


def _weight(raw: Mapping[str, Any]) -> WeightEntry:
    sizes = raw["offset"], raw["nbytes"], raw["bits"], raw["stored"]
    entry = WeightEntry(str(raw["name"]), raw["dtype"], tuple(raw["shape"]), *sizes)
    numbers = (*entry.shape, *sizes)
    _need(all(isinstance(n, int) and n >= 0 for n in numbers), f"weight {entry.name}")
    _need(entry.offset % ALIGNMENT == 0, f"the offset of weight {entry.name}")
    size = math.prod(entry.shape) * numpy_dtype(entry.dtype).itemsize
    _need(size == entry.nbytes, f"the size of weight {entry.name}")
    _need(entry.bits == PLAIN_BITS or 1 <= entry.bits <= MOST_BITS, f"the bits of weight {entry.name}")
    _need(stored_bytes(size, entry.bits) == entry.stored, f"the stored size of weight {entry.name}")
    return entry
