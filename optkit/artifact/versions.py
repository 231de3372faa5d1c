"""Versions that decide what bytes a build gives."""

from __future__ import annotations

import zlib
from importlib import metadata

from optkit.artifact.payload import LinkerInfo

_DISTRIBUTIONS = {
    "optkit": "optkit",
    "tvm": "apache-tvm",
    "tvm_ffi": "apache-tvm-ffi",
    "onnx": "onnx",
    "onnx_ir": "onnx-ir",
    "onnxscript": "onnxscript",
    "onnxruntime": "onnxruntime",
    "numpy": "numpy",
}


def collect_versions(linker: LinkerInfo | None = None) -> dict[str, str]:
    """Versions of everything that took part, by name; "not installed" for what is absent."""
    versions = {}
    for name, distribution in _DISTRIBUTIONS.items():
        try:
            versions[name] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    versions["llvm"] = _llvm()
    versions["zlib"] = zlib.ZLIB_RUNTIME_VERSION
    if linker is not None:
        versions["linker"] = str(linker)
    return versions


def _llvm() -> str:
    """Major version of the LLVM inside TVM."""
    try:
        import tvm

        return str(tvm.target.codegen.llvm_version_major())
    except (ImportError, AttributeError):
        return "unknown"
