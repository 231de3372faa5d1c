"""From a file to a model that runs: everything is checked before anything of it is mapped or executed."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from optkit.artifact.manifest import PARTITIONED, WHOLE, WeightEntry
from optkit.artifact.palette import PLAIN_BITS, unpack
from optkit.artifact.reader import ArtifactFile
from optkit.artifact.spec import numpy_dtype
from optkit.artifact.writer import WEIGHTS
from optkit.errors import ArtifactError, DeviceError
from optkit.runtime.failures import abandon, explained
from optkit.runtime.gpu import check_gpu
from optkit.runtime.isa import check_isa
from optkit.runtime.native import import_tvm_ffi, load_executable
from optkit.runtime.order import alone
from optkit.runtime.parts import Parts, open_sessions
from optkit.runtime.runner import Runner
from optkit.runtime.tensors import TensorBridge, aligned_empty

_POOLED = 2  # AllocatorType::kPooled
_FLAVOURS = (WHOLE, PARTITIONED)


def load(path: str | os.PathLike[str], threads: int | None = None) -> Runner:
    """Load an artifact.

    Args:
        threads: threads that a run uses; by default TVM_NUM_THREADS, else as many as the process may use.

    Raises:
        ArtifactError: damaged or edited, of another schema, or for another machine.
        UsageError: `threads` is no positive number.
    """
    with ArtifactFile(path) as artifact:
        manifest = artifact.manifest
        where = str(artifact.path)
        if manifest.flavour not in _FLAVOURS:
            raise ArtifactError(f"{where}: flavour {manifest.flavour!r}; this optkit runs {', '.join(_FLAVOURS)}")
        isa = tuple(str(word) for word in manifest.target.get("isa", ()))
        check_isa(isa, where)
        if manifest.device == "cuda":
            check_gpu(isa, where)
        elif manifest.device != "cpu":
            raise ArtifactError(f"{where}: is for the device {manifest.device!r}, which this optkit cannot run")
        artifact.verify(skip=(WEIGHTS,))  # their hash is checked where they are mapped
        memory = artifact.map_weights()
        vm = load_executable(artifact)
        sessions = open_sessions(artifact, threads)
    ffi = import_tvm_ffi()
    device = ffi.device(manifest.device, 0)
    allocators: list[Any] = [device.dlpack_device_type(), 0, _POOLED]
    if manifest.device != "cpu":
        # Shape functions run on the CPU, which the virtual machine wants last.
        allocators += [ffi.device("cpu", 0).dlpack_device_type(), 0, _POOLED]
    weights: list[Any] = []
    with explained("it cannot be loaded", where), alone():
        vm["vm_initialization"](*allocators)
        bridge = TensorBridge(ffi, device)
        arrays = (bridge.from_array(_array(memory, entry, where)) for entry in manifest.weights)
        try:
            weights.extend(map(bridge.to_device, arrays))
        except DeviceError:
            abandon(vm, weights)
            raise
    parts = Parts(manifest, ffi, vm, bridge, weights, sessions) if manifest.partitions else None
    return Runner(manifest, ffi, vm, bridge, weights, threads, parts)


def _array(memory: memoryview, entry: WeightEntry, where: str) -> np.ndarray:
    """A weight: where the file is mapped if it is stored as it is, else unpacked, once, into memory of its own."""
    dtype = numpy_dtype(entry.dtype)
    raw = np.frombuffer(memory, np.uint8, entry.stored, entry.offset) if entry.stored else np.empty(0, np.uint8)
    if entry.bits == PLAIN_BITS:
        return raw.view(dtype).reshape(entry.shape)
    array = aligned_empty(entry.shape, dtype)
    unpack(raw, entry.bits, array.reshape(-1).view(np.uint8), f"{where}: weight {entry.name}")
    return array
