"""What a model or an artifact holds, as JSON values."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optkit.errors import ModelError, UsageError

if TYPE_CHECKING:
    from optkit.artifact.manifest import WeightEntry


def inspect_file(path: str | Path, target: str | None = None) -> dict[str, Any]:
    """Describe the ONNX model or the artifact at `path`; the key "kind" says which, "model" or "artifact".

    Args:
        target: also what becomes of every node of a model there, under "preflight".

    Raises:
        ModelError: no such file, or not a valid ONNX model.
        ArtifactError: an artifact that is damaged or was edited.
        UsageError: an unknown target, or one given for an artifact.
    """
    path = Path(path)
    if path.is_dir():
        raise ModelError(f"{path}: a folder; give an ONNX model or an artifact")
    if not is_artifact(path):
        return inspect_model(path, target)
    if target is not None:
        raise UsageError(f"{path}: an artifact is compiled already; --target is for models")
    return inspect_artifact(path)


def is_artifact(path: Path) -> bool:
    """Whether the file is an artifact rather than a model, by its name or, failing that, by its content."""
    if path.suffix in (".optk", ".onnx"):
        return path.suffix == ".optk"
    return path.is_file() and zipfile.is_zipfile(path)


def inspect_model(path: Path, target: str | None = None) -> dict[str, Any]:
    """Inputs, outputs, operators with counts, parameters and MACs of an ONNX model, and each node's verdict."""
    from optkit.issues import describe_issue
    from optkit.macs import count_macs, count_parameters
    from optkit.model import load_model
    from optkit.steps import choose_target

    model = load_model(path)
    counted = count_macs(model)
    operators = Counter(
        f"{node.domain}.{node.op_type}" if node.domain else node.op_type for graph in model.graphs() for node in graph
    )
    notes = []
    if any(c.open for c in counted):
        notes.append("open dimensions count as 1 in the MACs")
    if unknown := [c.node for c in counted if c.macs is None]:
        notes.append(f"MACs leave out nodes of unknown shape: {', '.join(unknown[:5])}")
    if kept := model.metadata_props.get("optkit.opset"):
        notes.append(kept)
    data = path.with_name(path.name + ".data")
    judged: dict[str, Any] = {}
    if target is not None:
        from optkit.compiler.preflight import preflight

        machine = choose_target(target, None)
        judged = {"target": machine.name, "preflight": [describe_issue(i) for i in preflight(model, machine)]}
    return {
        "kind": "model",
        "path": str(path),
        "bytes": path.stat().st_size + (data.stat().st_size if data.is_file() else 0),
        "opset": model.opset_imports.get("", None),
        "producer": " ".join(filter(None, (model.producer_name, model.producer_version))),
        "inputs": [_value(value) for value in model.graph.inputs],
        "outputs": [_value(value) for value in model.graph.outputs],
        "operators": dict(operators.most_common()),
        "nodes": operators.total(),
        "parameters": count_parameters(model),
        "macs": sum(c.macs or 0 for c in counted),
        "notes": notes,
        **judged,
    }


def inspect_artifact(path: Path) -> dict[str, Any]:
    """Manifest and kernels of an artifact; every hash is checked."""
    import json

    from optkit.artifact.reader import open_artifact
    from optkit.artifact.writer import KERNELS

    with open_artifact(path) as artifact:
        artifact.verify()
        manifest = artifact.manifest
        kernels: list[dict[str, Any]] = json.loads(artifact.read(KERNELS))
    computed = Counter({str(name): int(n) for name, n in dict(manifest.options.get("macs", {})).items()})
    return {
        "kind": "artifact",
        "path": str(path),
        "bytes": path.stat().st_size,
        "schema": manifest.schema,
        "flavour": manifest.flavour,
        "device": manifest.device,
        "target": dict(manifest.target),
        "pipeline": manifest.pipeline,
        "options": {name: value for name, value in manifest.options.items() if name != "macs"},
        "verification": dict(manifest.verification),
        "source_sha256": manifest.source_sha256,
        "versions": dict(manifest.versions),
        "tuning_records": [dict(record) for record in manifest.tuning_records],
        "inputs": [_spec(spec) for spec in manifest.inputs],
        "outputs": [_spec(spec) for spec in manifest.outputs],
        "members": {name: member.nbytes for name, member in manifest.members.items()},
        "parts": [
            {"runner": part.runner, "entry": part.entry, "inputs": list(part.inputs), "nodes": list(part.nodes)}
            for part in manifest.partitions
        ],
        "weights": len(manifest.weights),
        "weight_storage": _storage(manifest.weights),
        "macs": computed.total(),
        "macs_by_compute": dict(computed.most_common()),
        "kernels": kernels,
    }


def _storage(weights: Iterable[WeightEntry]) -> list[dict[str, Any]]:
    """Weights by element type and bits a byte takes in the file: how many, bytes loaded, bytes stored."""
    groups: dict[tuple[str, int], list[WeightEntry]] = {}
    for entry in weights:
        groups.setdefault((entry.dtype, entry.bits), []).append(entry)
    return [
        {
            "dtype": dtype,
            "bits": bits,
            "arrays": len(entries),
            "bytes": sum(e.nbytes for e in entries),
            "stored": sum(e.stored for e in entries),
        }
        for (dtype, bits), entries in sorted(groups.items())
    ]


def _value(value: Any) -> dict[str, Any]:
    shape = None if value.shape is None else [d if isinstance(d, int) else (d.value or "?") for d in value.shape]
    dtype = value.dtype.numpy().name if value.dtype is not None else "?"
    return {"name": value.name, "dtype": dtype, "shape": shape}


def _spec(spec: Any) -> dict[str, Any]:
    return {"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)}
