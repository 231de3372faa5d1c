"""Models of several parts, some of which were left to ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from optkit.artifact.manifest import Manifest
from optkit.artifact.reader import ArtifactFile
from optkit.artifact.spec import Partition
from optkit.errors import ArtifactError, UsageError
from optkit.runtime.tensors import TensorBridge
from optkit.runtime.threads import checked, default_threads

ONNXRUNTIME = "onnxruntime"


def open_sessions(artifact: ArtifactFile, threads: int | None) -> dict[str, Any]:
    """A session of ONNX Runtime on the CPU for every part that was left to it, by member.

    Raises:
        UsageError: ONNX Runtime is not installed.
        ArtifactError: it cannot load a part.
    """
    members = [part.entry for part in artifact.manifest.partitions if part.runner == ONNXRUNTIME]
    if not members:
        return {}
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError(
            f"{artifact.path}: parts of it were left to ONNX Runtime, which is not installed; pip install onnxruntime"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = default_threads() if threads is None else checked(threads)
    options.log_severity_level = 3
    sessions = {}
    for name in members:
        try:
            sessions[name] = onnxruntime.InferenceSession(
                artifact.read(name), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exceptions have no base of their own
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise ArtifactError(f"{artifact.path}: ONNX Runtime cannot load {name}: {lines[0]}") from error
    return sessions


class Parts:
    """The parts as one entry: takes the model's inputs as tensors, returns its outputs."""

    def __init__(
        self,
        manifest: Manifest,
        ffi: Any,
        vm: Any,
        bridge: TensorBridge,
        weights: Sequence[Any],
        sessions: Mapping[str, Any],
    ) -> None:
        self._inputs = tuple(spec.name for spec in manifest.inputs)
        self._outputs = tuple(spec.name for spec in manifest.outputs)
        self._types = {spec.name: spec.numpy for spec in manifest.inputs}
        self._ffi, self._bridge = ffi, bridge
        self._steps: list[tuple[Partition, Callable[[list[Any]], list[Any]]]] = []
        for part in manifest.partitions:
            self._types |= {spec.name: spec.numpy for spec in part.outputs}
            if part.runner == ONNXRUNTIME:
                step = self._session(part, sessions[part.entry])
            else:
                step = self._function(vm[part.entry], tuple(weights[i] for i in part.weights))
            self._steps.append((part, step))

    def __call__(self, *tensors: Any) -> list[Any]:
        """Run every part in order."""
        values = dict(zip(self._inputs, tensors, strict=True))
        for part, step in self._steps:
            found = step([values[name] for name in part.inputs])
            values.update(zip((spec.name for spec in part.outputs), found, strict=True))
        return [values[name] for name in self._outputs]

    def _function(self, entry: Any, weights: tuple[Any, ...]) -> Callable[[list[Any]], list[Any]]:
        def step(tensors: list[Any]) -> list[Any]:
            result = entry(*tensors, *weights)
            return [result] if isinstance(result, self._ffi.Tensor) else list(result)

        return step

    def _session(self, part: Partition, session: Any) -> Callable[[list[Any]], list[Any]]:
        names = [spec.name for spec in part.outputs]

        def step(tensors: list[Any]) -> list[Any]:
            feed = {
                name: self._bridge.to_array(tensor, self._types[name])
                for name, tensor in zip(part.inputs, tensors, strict=True)
            }
            arrays = [np.asarray(array) for array in session.run(names, feed)]
            return [
                self._bridge.from_input(spec, array, spec.numpy)
                for spec, array in zip(part.outputs, arrays, strict=True)
            ]

        return step
