"""What failed on a device, in one line: the runtime's own messages name its source files and CUDA's error codes."""

from __future__ import annotations

import contextlib
import ctypes
import re
from collections.abc import Iterator

from optkit.errors import ArtifactError, DeviceError, OptkitError
from optkit.runtime.gpu import clear_last_error, free_memory

_CAUSES: tuple[tuple[str, str], ...] = (
    (
        r"out of memory|cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY|cannot allocate|Failed to allocate",
        "the GPU is out of memory{memory}; run smaller batches, or end what else uses it",
    ),
    (
        r"no CUDA-capable device|cudaErrorNoDevice|CUDA_ERROR_NO_DEVICE|driver version is insufficient"
        r"|cudaErrorInsufficientDriver",
        "there is no NVIDIA GPU, or its driver is too old; see nvidia-smi",
    ),
    (
        r"no kernel image|cudaErrorNoKernelImageForDevice|CUDA_ERROR_NO_BINARY_FOR_GPU|CUDA_ERROR_UNSUPPORTED_PTX"
        r"|cudaErrorUnsupportedPtxVersion|CUDA_ERROR_INVALID_PTX",
        "it has no code for this GPU; compile it for this one (--target cuda, on this machine)",
    ),
    (
        r"stream is capturing|cudaErrorStreamCapture|CUDA_ERROR_STREAM_CAPTURE",
        "a CUDA graph is being captured, which it cannot be part of; run it outside",
    ),
)
_LOST: tuple[tuple[str, str], ...] = (
    (r"illegal memory access|misaligned address|illegal instruction|unspecified launch failure|launch timed out"
     r"|device-side assert|cudaErrorAssert|cudaErrorIllegalAddress|cudaErrorLaunchFailure|cudaErrorMisalignedAddress"
     r"|cudaErrorIllegalInstruction|cudaErrorLaunchTimeout"
     r"|CUDA_ERROR_(ASSERT|ILLEGAL_(ADDRESS|INSTRUCTION)|LAUNCH_FAILED|MISALIGNED_ADDRESS|LAUNCH_TIMEOUT)",
     "a kernel failed on the GPU, which this process cannot use any more; start it again"),
    (r"unavailable|cudaErrorDevicesUnavailable|uncorrectable ECC|cudaErrorECCUncorrectable|hardware stack error"
     r"|device is lost|CUDA_ERROR_(ECC_UNCORRECTABLE|DEVICE_UNAVAILABLE|CONTEXT_IS_DESTROYED|DEINITIALIZED)"
     r"|NVLink|driver shutting down|cudaErrorCudartUnloading",
     "the GPU was lost (reset, fault or taken away); see nvidia-smi, and start this process again"),
)  # fmt: skip
"""What no call of this process recovers from."""


def cause(text: str) -> str:
    """One line about an error of the runtime, by what CUDA said; its own last line where that is nothing known.

    >>> cause("Check failed: (e == cudaSuccess): CUDA: no kernel image is available for execution on the device")
    'it has no code for this GPU; compile it for this one (--target cuda, on this machine)'
    """
    lines = text.strip().splitlines()
    if re.search(r"CUDA|cuda|kDLCUDA", text):
        for pattern, line in (*_CAUSES, *_LOST):
            if re.search(pattern, text):
                return line.format(memory=_memory() if "{memory}" in line else "")
        if match := re.search(r"CUDALaunch Error: (\w+)", text):
            return f"a kernel could not be launched: {match[1]}"
    return lines[-1].strip() if lines else ""


def _memory() -> str:
    found = free_memory()
    return "" if found is None else f" ({found[0] >> 20} of {found[1] >> 20} MiB free)"


def failure(what: str, error: Exception, artifact: str | None = None) -> OptkitError:
    """The error to raise for one of the runtime: a DeviceError, or an ArtifactError where an artifact is named."""
    line = cause(str(error)) or type(error).__name__
    if "CUDA" in str(error):
        clear_last_error()
    if any(line == lost for _, lost in _LOST):
        return DeviceError(f"{artifact}: {what}: {line}" if artifact else f"{what}: {line}")
    return OptkitError(f"{what}: {line}") if artifact is None else ArtifactError(f"{artifact}: {what}: {line}")


def abandon(*objects: object) -> None:
    """Never give these back: their destructors would ask the device for it, fail, and end the process."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(objects))


@contextlib.contextmanager
def explained(what: str, artifact: str | None = None) -> Iterator[None]:
    """What the runtime raises in the block becomes a `failure`."""
    try:
        yield
    except OptkitError:
        raise
    except Exception as error:
        raise failure(what, error, artifact) from error
