"""Device code compiled for this machine, to be run thread by thread."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from optkit_targets.cuda import nvcc

from tests.targets.cuda import emulator

NEEDS = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ compiles the device code")
EMULATED = [pytest.mark.needs_nvcc, pytest.mark.needs_compiler, NEEDS]
"""Of tests with an emulated GPU."""


def host_library(folder: Path, source: str, *options: str) -> ctypes.CDLL:
    """The device code and `source` behind it, compiled for this machine.

    `bounds(p, bytes, q, bytes)` says what copies may read.
    """
    (folder / "block.cpp").write_text(f"""
        #include "device.h"
        #include "instructions.cuh"
        #include "wgmma.cuh"
        #include "tensor_core.cuh"
        #include "warpgroup.cuh"
        #include "strip.cuh"
        #include "cluster.cuh"
        #include "bulk.cuh"
        #include "attention.cuh"
        extern "C" void bounds(const char* data, int bytes, const char* weights, int more) {{
          emulator::readable = {{{{data, data + bytes}}, {{weights, weights + more}}}};
        }}
        {source}""")
    include = [f"-I{emulator.HERE}", f"-I{nvcc.DEVICE}", f"-I{emulator.include_folder()}"]
    command = ["g++", "-std=c++17", "-O1", "-w", "-shared", "-fPIC", *options, *include, "block.cpp", "-o", "block.so"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(folder / "block.so"))


def pointers(*arrays: np.ndarray) -> list[ctypes.c_void_p]:
    """Addresses for a call."""
    return [ctypes.c_void_p(array.ctypes.data) for array in arrays]
