"""What this machine can build and run, as JSON values."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGES = (
    "optkit",
    "apache-tvm",
    "apache-tvm-ffi",
    "numpy",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "onnxruntime",
    "torch",
    "ziglang",
)
COMPILERS = ("cc", "gcc", "clang", "nvcc")
NEEDED = frozenset(PACKAGES[:8])


def examine() -> dict[str, Any]:
    """Look at processor, memory, compilers, GPU and packages; "problems" says what is missing for what."""
    from optkit.runtime.gpu import compute_capabilities
    from optkit.runtime.isa import architecture, features
    from optkit.runtime.threads import default_threads

    compilers = {name: _tool_version(name) for name in COMPILERS}
    compilers["zig"] = _zig_version()
    gpus = [f"{major}.{minor}" for major, minor in compute_capabilities()]
    packages = {name: _package_version(name) for name in PACKAGES}
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "cpu": _cpu_model(),
        "architecture": architecture(),
        "features": sorted(features()),
        "cores": default_threads(),
        "memory": _memory(),
        "target": _detected_target(),
        "compilers": compilers,
        "gpus": gpus,
        "packages": packages,
        "can": _abilities(compilers, gpus, packages),
        "problems": _problems(compilers, packages),
    }


def _abilities(compilers: dict[str, str | None], gpus: list[str], packages: dict[str, str | None]) -> dict[str, str]:
    linker = next((name for name in ("cc", "gcc", "clang", "zig") if compilers[name]), None)
    no_linker = "no: no C compiler; install one, or optkit[cross]"
    return {
        "compile for this CPU": f"yes, linked with {linker}" if linker else no_linker,
        "compile for other CPUs": "yes" if compilers["zig"] else "this architecture only; install optkit[cross]",
        "compile for CUDA": "yes" if compilers["nvcc"] and linker else "no: no nvcc; install optkit[cuda]",
        "run on a GPU": f"yes, compute capability {', '.join(gpus)}" if gpus else "no: no NVIDIA GPU found",
        "export from PyTorch": "yes" if packages["torch"] else "no: install optkit[torch]",
    }


def _problems(compilers: dict[str, str | None], packages: dict[str, str | None]) -> list[str]:
    found = [f"the package {name} is not installed" for name in sorted(NEEDED) if packages[name] is None]
    if not any(compilers[name] for name in ("cc", "gcc", "clang", "zig")):
        found.append("nothing can be compiled: there is no C compiler to link with; install one, or optkit[cross]")
    ffi = packages["apache-tvm-ffi"]
    if ffi is not None and ffi.split(".post")[0] == "0.1.15":
        found.append("apache-tvm-ffi 0.1.15 makes TVM's tuning crash; install one below 0.1.15")
    return found


def _detected_target() -> dict[str, Any] | str:
    """The target that "cpu" stands for on this machine."""
    from optkit.artifact.payload import describe_target
    from optkit.errors import OptkitError
    from optkit.registry import find_target

    try:
        target = find_target("cpu")
    except OptkitError as error:
        return f"none: {error}"
    return {**describe_target(target), "cache": list(target.cache)}


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip().lower() in ("model name", "hardware"):
                return value.strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _memory() -> int:
    """Bytes of physical memory; 0 where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0


def _tool_version(name: str) -> str | None:
    from optkit.runtime.gpu import cuda_program

    path = cuda_program(name) if name == "nvcc" else shutil.which(name)
    return None if path is None else _first_version_line([path, "--version"])


def _zig_version() -> str | None:
    if find_spec("ziglang") is None:
        return None
    return _first_version_line([sys.executable, "-m", "ziglang", "version"])


def _first_version_line(command: list[str]) -> str:
    """The line of a tool's version text that holds the number: nvcc's is not the first one."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"found, but does not start: {error}"
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    return next((line for line in lines if "release" in line), lines[0] if lines else "unknown version")


def _package_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
