"""Compiles ONNX models into small, fast, verified artifacts.

    artifact = optkit.compile("model.onnx", target="cpu", passes="int8", calib_data="images/")
    runner = optkit.load(artifact.path)
    outputs = runner.run({"input": image})

Names load on first use: `import optkit` alone imports neither numpy, onnx nor tvm.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from optkit.errors import OptkitError

if TYPE_CHECKING:
    from optkit.api import Artifact, compile, load, quantize
    from optkit.pipeline import Pipeline
    from optkit.runtime import Runner
    from optkit.target import Target
    from optkit.transform import Finding, Pass, PassContext, Result, Sample, option

    __version__: str

__all__ = [
    "Artifact",
    "Finding",
    "OptkitError",
    "Pass",
    "PassContext",
    "Pipeline",
    "Result",
    "Runner",
    "Sample",
    "Target",
    "__version__",
    "compile",
    "load",
    "option",
    "quantize",
]

_HOMES = {
    "Artifact": "optkit.api",
    "Finding": "optkit.transform",
    "Pass": "optkit.transform",
    "PassContext": "optkit.transform",
    "Pipeline": "optkit.pipeline",
    "Result": "optkit.transform",
    "Runner": "optkit.runtime",
    "Sample": "optkit.transform",
    "Target": "optkit.target",
    "compile": "optkit.api",
    "load": "optkit.api",
    "option": "optkit.transform",
    "quantize": "optkit.api",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("optkit")
    if name not in _HOMES:
        raise AttributeError(f"module 'optkit' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
