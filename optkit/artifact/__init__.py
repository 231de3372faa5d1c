"""What an artifact (`*.optk`) is, how it is written and read. Imports no compiler."""

from __future__ import annotations

from optkit.artifact.manifest import SCHEMA_VERSION, Manifest, Member, WeightEntry
from optkit.artifact.payload import BuildInfo, LinkerInfo, Payload, describe_target
from optkit.artifact.reader import ArtifactFile, open_artifact, read_kernels, read_manifest
from optkit.artifact.spec import TensorSpec, numpy_dtype
from optkit.artifact.writer import write_artifact

__all__ = [
    "SCHEMA_VERSION",
    "ArtifactFile",
    "BuildInfo",
    "LinkerInfo",
    "Manifest",
    "Member",
    "Payload",
    "TensorSpec",
    "WeightEntry",
    "describe_target",
    "numpy_dtype",
    "open_artifact",
    "read_kernels",
    "read_manifest",
    "write_artifact",
]
