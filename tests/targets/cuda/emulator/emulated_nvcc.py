"""Stands for nvcc: CUDA C++ to a shared library for this machine, in the clothes of a fat binary.

EMULATED_INCLUDE names the folder of the toolkit's headers, EMULATED_FOLDER that of device.h, compiled already. Kernels
whose threads never wait for each other are marked, so that they need no fibers.
"""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

COMPILING = (
    "-std=c++17",
    "-O1",
    "-ffp-contract=off",
    "-fsanitize=alignment",  # what vectors are read and written where they may not lie
    "-fsanitize-undefined-trap-on-error",
    "-w",
    "-fPIC",
)
"""How kernels are compiled, and the header before them."""
_KERNEL = re.compile(r'extern "C" __global__ void (?:__launch_bounds__\([\d, ]+\) )?(\w+)\(([^)]*)\) \{')
_RANK = re.compile(r"__forceinline__ __device__ unsigned int (tvm_builtin_cluster_ctaid_z)\(\) \{.*?\n\}\n", re.DOTALL)
_WAITS = re.compile(r"__syncthreads|__shfl|emulator::|optkit_(?:sync|meet|rank|top_k|suppress)|Optkit\w+<")


def translate(source: str) -> str:
    """The source with a launcher and a keeper of arguments behind every kernel."""
    memory = r"(?:alignas\(\d+\) |__align__\(\d+\) )?([\w ]+?) (\w+)\[(\d*)\];"
    source = re.sub(rf"extern __shared__ {memory}", r"\1* \2 = emulator::dynamic<\1>();", source)
    source = re.sub(rf"__shared__ {memory}", r"\1* \2 = emulator::shared<\1>(\3);", source)
    source = _RANK.sub("static unsigned \\1() { return emulator::self().slot; }\n", source)
    parts = ['#include "device.h"\n', source]
    found = list(_KERNEL.finditer(source))
    for kernel, following in zip(found, [*found[1:], None], strict=True):
        name = kernel[1]
        text = source[kernel.start() : following.start() if following else len(source)]
        alone = "false" if _WAITS.search(text) else "true"
        parts.append(f"""
            extern "C" int emulated_run_{name}(dim3 grid, dim3 block, dim3 cluster, bool early, void** arguments) {{
              return emulator::launch(&{name}, grid, block, cluster, early, arguments, {alone});
            }}
            extern "C" void** emulated_keep_{name}(void** arguments) {{
              return emulator::keep(&{name}, arguments);
            }}""")
    return "".join(parts)


def main() -> int:
    arguments = sys.argv[1:]
    out = Path(arguments[arguments.index("-o") + 1])
    source = next(Path(a) for a in arguments if a.endswith(".cu"))
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "kernels.cpp"
        made.write_text(translate(source.read_text()))
        library = Path(folder) / "kernels.so"
        folders = [f"-I{os.environ[name]}" for name in ("EMULATED_FOLDER", "EMULATED_INCLUDE")]
        command = ["g++", *COMPILING, "-shared", *folders]
        done = subprocess.run([*command, str(made), "-o", str(library)], check=False, capture_output=True, text=True)
        if done.returncode:
            sys.stderr.write(done.stderr)
            return done.returncode
        content = library.read_bytes()
    out.write_bytes(b"EMULATED" + struct.pack("<Q", len(content)) + content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
