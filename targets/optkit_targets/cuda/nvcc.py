"""CUDA C++ to a fat binary with nvcc: machine code for the target, PTX for every newer GPU.

TVM's own way to nvcc has --use_fast_math, contracts multiply-adds and works in a folder of a random name. Here
-fmad=false makes requantization round the same as everywhere (products that may be contracted say so with an
explicit fma), and nvcc sees no folder: equal sources give equal bytes.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from optkit.errors import CompileError
from optkit.runtime.gpu import cuda_program

DEVICE = Path(__file__).parent / "device"
"""Sources that kernels call into, as they ship."""

_FILES = {
    "instructions.cuh": set(),
    "launch.cuh": {"optkit_follow"},
    "rows.cuh": {"optkit_row_mask"},
    "dp4a.cuh": {"optkit_dp4a_u8s8"},
    "wgmma.cuh": set(),
    "tensor_core.cuh": {"OptkitConv", "OptkitMatmul", "OptkitProduct"},
    "warpgroup.cuh": {"OptkitWideConv", "OptkitWideMatmul"},
    "strip.cuh": {"OptkitStripConv"},
    "cluster.cuh": {"OptkitCluster"},
    "bulk.cuh": {"OptkitBulkConv", "OptkitBulkMatmul"},
    "attention.cuh": {"OptkitAttention"},
    "recurrent.cuh": {"OptkitRecurrence"},
    "sort.cuh": {"optkit_top_k"},
    "choose.cuh": {"optkit_rank"},
    "suppression.cuh": {"optkit_suppress"},
}
"""Device code by file, in the order that it stands in, and what kernels call in it."""
_BELOW = {
    "launch.cuh": {"instructions.cuh"},
    "rows.cuh": {"instructions.cuh"},
    "tensor_core.cuh": {"instructions.cuh"},
    "warpgroup.cuh": {"instructions.cuh", "wgmma.cuh", "tensor_core.cuh"},
    "strip.cuh": {"instructions.cuh", "wgmma.cuh", "tensor_core.cuh", "warpgroup.cuh"},
    "cluster.cuh": {"instructions.cuh"},
    "bulk.cuh": {
        "instructions.cuh",
        "wgmma.cuh",
        "tensor_core.cuh",
        "warpgroup.cuh",
        "strip.cuh",
        "cluster.cuh",
    },
    "attention.cuh": {"instructions.cuh", "tensor_core.cuh"},
    "recurrent.cuh": {"instructions.cuh", "cluster.cuh"},
    "sort.cuh": {"instructions.cuh"},
    "choose.cuh": {"instructions.cuh"},
    "suppression.cuh": {"instructions.cuh", "sort.cuh"},
}
"""What files are built of."""
WARPGROUPS = {"sm_90": "sm_90a"}
"""Architectures that have instructions of their own, which newer ones do not have, and nvcc's names with them."""


_KERNEL = re.compile(r'^(extern "C" __global__ void [^{;]*\) \{)$', re.MULTILINE)
_BOUNDS = re.compile(r"__launch_bounds__\((\d+)\)")
_CROWD = 256
"""Threads that most blocks have at most; those with more are large because there are few of them."""


def with_device_code(source: str) -> str:
    """Generated source, its kernels waiting for the ones before, with the device code before it that it calls.

    Where threads share a sum TVM asks which of the warp are active, which the ones that share it need not all be. And
    ptxas keeps registers for a second and third large thread block on a multiprocessor, though it spills then.
    """
    whole = _KERNEL.sub(r"\1\n  optkit_follow();", source).replace("__activemask()", "optkit_row_mask()")
    whole = _BOUNDS.sub(lambda m: f"__launch_bounds__({m[1]}, 1)" if int(m[1]) > _CROWD else m[0], whole)
    return "".join((DEVICE / name).read_text() for name in _needed(whole)) + whole


def _needed(source: str) -> list[str]:
    called = set(re.findall(r"\b(Optkit\w+|optkit_\w+)[<(]", source))
    found = {name for name, has in _FILES.items() if called & has}
    found |= {below for name in found for below in _BELOW.get(name, ())}
    return [name for name in _FILES if name in found]


FLAGS = ("-O3", "-std=c++17", "-fmad=false", "--expt-relaxed-constexpr", "-w")


def find_nvcc() -> str:
    """nvcc of the toolkit or of NVIDIA's wheels.

    Raises:
        CompileError: there is none.
    """
    if found := cuda_program("nvcc"):
        return found
    raise CompileError(
        "compiling for CUDA needs nvcc of the CUDA toolkit (12 or newer); put it on the PATH, or install optkit[cuda]"
    )


def compile_source(source: str, archs: Sequence[str]) -> bytes:
    """A fat binary with code for every one of `archs` ("sm_90"), and PTX of the last.

    Raises:
        CompileError: nvcc is missing or rejects the source; holds its first error line.
    """
    exact = [WARPGROUPS.get(arch, arch).removeprefix("sm_") for arch in archs]
    pairs = [*((c, f"sm_{c}") for c in exact), (plain := archs[-1].removeprefix("sm_"), f"compute_{plain}")]
    generate = [word for c, code in pairs for word in ("-gencode", f"arch=compute_{c},code={code}")]
    with tempfile.TemporaryDirectory(prefix="optkit-nvcc-") as folder:
        (Path(folder) / "kernels.cu").write_text(with_device_code(source))
        command = [find_nvcc(), "-fatbin", *FLAGS, *generate, "-o", "kernels.fatbin", "kernels.cu"]
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines()
            reason = next((line for line in lines if "error" in line or "fatal" in line), lines[-1] if lines else "")
            raise CompileError(f"nvcc failed for {', '.join(archs)}: {reason or f'exit status {done.returncode}'}")
        return (Path(folder) / "kernels.fatbin").read_bytes()
