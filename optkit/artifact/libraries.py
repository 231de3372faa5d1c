"""The TVM runtime libraries that a vm artifact carries, found without importing tvm."""

from __future__ import annotations

import importlib.util
import struct
from pathlib import Path

from optkit.errors import ArtifactError

_ELF_MACHINES = {3: "x86", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64"}
RUNTIME = "libtvm_runtime.so"
FFI = "libtvm_ffi.so"
DEVICE_RUNTIMES = {"cuda": "libtvm_runtime_cuda.so"}


def elf_machine(path: Path) -> str | None:
    """Architecture of an ELF file, in the words of `platform.machine()`; None if it is no ELF file."""
    with path.open("rb") as stream:
        header = stream.read(20)
    if len(header) < 20 or header[:4] != b"\x7fELF":
        return None
    (machine,) = struct.unpack("<H" if header[5] == 1 else ">H", header[18:20])
    return _ELF_MACHINES.get(machine, f"ELF machine {machine}")


def installed_library(package: str, name: str) -> Path | None:
    """A shared library inside an installed package, or None. Does not import the package."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "lib" / name
    return path if path.is_file() else None


def runtime_libraries(device: str, machine: str | None) -> dict[str, Path]:
    """What to carry for code of the architecture `machine` on `device`, in loading order.

    Empty where the installed TVM is for another architecture: such an artifact loads on a machine that
    has TVM installed, and its manifest says so by listing no runtime.

    Raises:
        ArtifactError: TVM is not installed, or its wheel lacks the device's runtime.
    """
    wanted = [("tvm_ffi", FFI), ("tvm", RUNTIME)]
    if device in DEVICE_RUNTIMES:
        wanted.append(("tvm", DEVICE_RUNTIMES[device]))
    found = {}
    for package, name in wanted:
        path = installed_library(package, name)
        if path is None:
            raise ArtifactError(f"{name} is not in the installed {package} package; reinstall apache-tvm")
        found[name] = path
    return found if machine is None or elf_machine(found[RUNTIME]) == machine else {}
