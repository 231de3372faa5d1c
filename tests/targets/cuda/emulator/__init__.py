"""A GPU on the CPU: TVM's CUDA runtime, CUDA graphs included, on an emulated driver, with kernels that g++ compiles.

What runs is what runs on a GPU, the source of the kernels and the artifact around them, but for time and hardware.
`environment` gives what a process needs to find it instead of NVIDIA's.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from optkit_targets.cuda import nvcc

from tests.targets.cuda.emulator.emulated_nvcc import COMPILING

HERE = Path(__file__).parent


def include_folder() -> str:
    """Of the toolkit's headers."""
    asked = subprocess.run(
        [nvcc.find_nvcc(), "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True, check=False
    )
    match = re.search(r'INCLUDES="-I([^"]+)"', asked.stderr)
    assert match is not None, asked.stderr
    return match[1]


def environment(folder: Path) -> dict[str, str]:
    """Build the driver and nvcc's stand-in in `folder`; the variables of a process that is to use them."""
    include = include_folder()
    (folder / "exports.map").write_text("libcudart.so.13 { global: *; };\n")
    (folder / "empty.cpp").write_text("")
    base = ["g++", "-std=c++17", "-O1", "-shared", "-fPIC"]
    runtime = [f"-I{include}", str(HERE / "driver.cpp"), "-Wl,-soname,libcudart.so.13"]
    driver = ["empty.cpp", "-Wl,-soname,libcuda.so.1", "-Wl,--no-as-needed", "-L.", "-l:libcudart.so.13"]
    for command in (
        [*base, *runtime, "-Wl,--version-script=exports.map", "-ldl", "-o", "libcudart.so.13"],
        [*base, *driver, "-o", "libcuda.so.1"],
    ):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    # What every kernel begins with is most of what g++ would read.
    shutil.copy(HERE / "device.h", folder)
    header = ["g++", *COMPILING, f"-I{include}", "-x", "c++-header", "device.h"]
    subprocess.run(header, cwd=folder, check=True)
    tools = folder / "bin"
    tools.mkdir()
    (tools / "nvcc").write_text(f'#!/bin/sh\nexec "{sys.executable}" "{HERE / "emulated_nvcc.py"}" "$@"\n')
    (tools / "nvcc").chmod(0o755)
    libraries = [str(folder), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    return {
        **os.environ,
        "EMULATED_FOLDER": str(folder),
        "EMULATED_INCLUDE": include,
        "LD_LIBRARY_PATH": os.pathsep.join(libraries),
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
    }
