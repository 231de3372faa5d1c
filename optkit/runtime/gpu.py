"""Which NVIDIA GPUs there are, asked of the driver alone."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from optkit.errors import ArtifactError

CUDART = "libcudart.so.13"
"""The CUDA runtime that TVM's is linked with."""
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_{MAJOR,MINOR}


def compute_capabilities() -> list[tuple[int, int]]:
    """Compute capability of every GPU, in the driver's order; empty without a driver or a device."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return []
    found = []
    for index in range(count.value):
        device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        if driver.cuDeviceGet(ctypes.byref(device), index):
            continue
        driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
        driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
        found.append((major.value, minor.value))
    return found


def load_cuda_runtime() -> None:
    """Load libcudart for TVM's CUDA runtime, where the loader does not find it from the toolkit or NVIDIA's wheel.

    Where there is none, loading TVM's says which file is missing.
    """
    for path in (CUDART, *_cuda_runtimes()):
        try:
            ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return


def cuda_program(name: str) -> str | None:
    """A program of the CUDA toolkit: of the PATH, CUDA_HOME, CUDA_PATH, the usual folder, or NVIDIA's wheels."""
    places = [*(str(root / "bin") for root in _toolkits()), *(str(path.parent) for path in _in_wheels(f"bin/{name}"))]
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(places))


def _cuda_runtimes() -> Iterator[Path]:
    yield from (root / "lib64" / CUDART for root in _toolkits())
    yield from _in_wheels(f"lib/{CUDART}")


def _toolkits() -> Iterator[Path]:
    for root in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"):
        if root:
            yield Path(root)


def _in_wheels(path: str) -> Iterator[Path]:
    found = importlib.util.find_spec("nvidia")
    for place in (found.submodule_search_locations if found else None) or ():
        yield from sorted(Path(place).glob(f"*/{path}"))


def device_name() -> str:
    """The first GPU as the driver names it; "" without one."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ""
    device, text = ctypes.c_int(), ctypes.create_string_buffer(128)
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0) or driver.cuDeviceGetName(text, 128, device):
        return ""
    return text.value.decode(errors="replace")


def free_memory() -> tuple[int, int] | None:
    """Free and total bytes of the GPU that this thread uses; None where none is used."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    if driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)):
        return None
    return free.value, total.value


def clear_last_error() -> None:
    """Forget CUDA's last error, which was told: others in this process ask for theirs."""
    with contextlib.suppress(OSError):
        ctypes.CDLL(CUDART, os.RTLD_NOLOAD).cudaGetLastError()


def needed_capability(isa: Iterable[str]) -> tuple[int, int]:
    """The compute capability that an `sm_..` word of `isa` names; (0, 0) without one.

    >>> needed_capability(("x86_64", "sm_90"))
    (9, 0)
    """
    for word in isa:
        if match := re.fullmatch(r"sm_(\d+)(\d)a?", word):
            return int(match[1]), int(match[2])
    return 0, 0


def check_gpu(isa: Iterable[str], where: str) -> None:
    """Refuse an artifact for a GPU where the first one does not do.

    Raises:
        ArtifactError: one line with the capability needed and what was found.
    """
    need = needed_capability(isa)
    found = compute_capabilities()
    if found and found[0] >= need:
        return
    here = f"this one has {found[0][0]}.{found[0][1]}" if found else "none found here"
    raise ArtifactError(f"{where}: needs an NVIDIA GPU (compute capability ≥ {need[0]}.{need[1]}): {here}")
