"""`python -m benchmarks.cuda_builds`: models compiled for GPUs that are not here, timed, and their code examined.

Every model is compiled as `optkit compile` does it, verification on the CPU included. Then nvcc turns the emitted CUDA
C++ into PTX and machine code again, and per kernel is checked: no local memory, registers and shared memory within what
the GPU has, in every kernel of a tensor-core rule the instruction it is for (mma.sync or wgmma, with asynchronous
copies), and that kernels which are launched early wait before they touch memory. Exit code 1 where a check fails or a
build takes longer than --limit.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from optkit_targets.cuda import nvcc

import optkit
from benchmarks.zoo import export_model
from optkit.errors import OptkitError
from optkit.files import write_whole
from optkit.measure.environment import environment

MODELS = ("resnet50", "mobilenet_v2", "vit_b_16", "unet", "yolo_v8n", "bert_small")
WARP, WARPGROUP = r"mma.sync.aligned.m16n8", r"wgmma.mma_async.sync.aligned.m64n\d+"
INSTRUCTIONS = {
    "int8": rf"{WARP}k32.row.col.s32.u8.s8.s32|{WARPGROUP}k32.s32.u8.s8",
    "float16": rf"{WARP}k16.row.col.f32.f16.f16|{WARPGROUP}k16.f32.f16.f16",
    "bfloat16": rf"{WARP}k16.row.col.f32.bf16.bf16|{WARPGROUP}k16.f32.bf16.bf16",
    "tensorfloat32": rf"{WARP}k8.row.col.f32.tf32.tf32",
}
"""What tensor cores are used by: of a warp, and of a warpgroup."""
WAITS = re.compile(r"(?:(?!\b(?:ld|st|atom|red|cp\.async)\.(?!param)).)*?griddepcontrol\.wait;", re.DOTALL)
TENSOR = "cuda.tensor_"
"""How the names of rules for tensor cores begin."""


@dataclass
class Build:
    """One model for one GPU.

    Attributes:
        seconds: of `optkit.compile`.
        rules: how many kernels each rule took.
        macs_on_tensor_cores: share of multiply-accumulates, counted by call, in kernels with known extents.
        registers, shared: the largest of any kernel; shared memory in bytes, but for what is asked for at the launch.
        problems: what was found wrong.
    """

    model: str
    precision: str
    arch: str
    seconds: float
    rules: dict[str, int]
    macs_on_tensor_cores: float
    registers: int
    shared: int
    problems: list[str] = field(default_factory=list)


def examine(source: Path, arch: str, kernels: list[dict[str, Any]]) -> tuple[int, int, list[str]]:
    """Registers, shared memory and problems of the kernels in a file that optkit emitted.

    Args:
        kernels: as the artifact lists them.
    """
    problems = []
    with tempfile.TemporaryDirectory(prefix="optkit-examine-") as folder:
        base = [nvcc.find_nvcc(), f"-arch={nvcc.WARPGROUPS.get(arch, arch)}", *nvcc.FLAGS]
        made = subprocess.run(
            [*base, "-cubin", "-Xptxas=-v", "-o", f"{folder}/k.cubin", source],
            capture_output=True,
            text=True,
            check=True,
        )
        subprocess.run([*base, "-ptx", "-o", f"{folder}/k.ptx", source], check=True)
        ptx = Path(folder, "k.ptx").read_text()
    if spilled := [n for n in re.findall(r"(\d+) bytes spill", made.stderr) if n != "0"]:
        problems.append(f"{len(spilled)} spills")
    if frames := [n for n in re.findall(r"(\d+) bytes stack frame", made.stderr) if n != "0"]:
        problems.append(f"{len(frames)} stack frames, up to {max(map(int, frames))} bytes")
    if "serialized" in made.stderr:
        problems.append("warpgroups' instructions are serialized")
    bodies = {}
    for text in ptx.split(".visible .entry ")[1:]:
        bodies[text[: text.index("(")]] = text
    if int(arch.removeprefix("sm_")) >= 90:
        # Launched before the kernel before has ended: nothing may be read that is not there yet.
        early = [name for name, text in bodies.items() if not WAITS.match(text)]
        problems += [f"{name}: touches memory before it waits for the kernel before" for name in early]
    problems += [f"{kernel['name']}: {'; '.join(kernel['refused'])}" for kernel in kernels if kernel["refused"]]
    for kernel in kernels:
        if not kernel["rule"].startswith(TENSOR):
            continue
        found = [
            text for name, text in bodies.items() if re.fullmatch(rf"{re.escape(kernel['name'])}_kernel(_\d+)?", name)
        ]
        if not any(re.search(INSTRUCTIONS[kernel["compute"]], text) and "cp.async" in text for text in found):
            problems.append(f"{kernel['name']}: no {INSTRUCTIONS[kernel['compute']]}")
    registers = max(map(int, re.findall(r"Used (\d+) registers", made.stderr)), default=0)
    shared = max(map(int, re.findall(r"(\d+) bytes smem", made.stderr)), default=0)
    return registers, shared, problems


def _share(kernels: list[dict[str, Any]]) -> float:
    from optkit.compiler.operator import Operator

    macs: Counter[bool] = Counter()
    for kernel in kernels:
        if kernel["operator"]:
            macs[kernel["rule"].startswith(TENSOR)] += Operator.parse(kernel["operator"]).macs() * len(kernel["calls"])
    return macs[True] / max(1, sum(macs.values()))


def compile_for(model: str, source: Path, precision: str, arch: str, folder: Path) -> Build:
    """Compile and examine one model."""
    began = time.perf_counter()
    output = folder / f"{source.stem}.{precision}.{arch}.optk"
    try:
        made = optkit.compile(source, target=f"cuda:{arch}", passes=precision, output=output, emit=["cuda"])
    except OptkitError as error:
        return Build(model, precision, arch, time.perf_counter() - began, {}, 0.0, 0, 0, [str(error)])
    seconds = time.perf_counter() - began
    with zipfile.ZipFile(made.path) as archive:
        kernels = json.loads(archive.read("kernels.json"))
    rules = dict(sorted(Counter(kernel["rule"] for kernel in kernels).items()))
    registers, shared, problems = examine(made.emitted["cuda"], arch, kernels)
    return Build(model, precision, arch, seconds, rules, _share(kernels), registers, shared, problems)


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.cuda_builds", description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--precision", nargs="+", choices=["fp16", "bf16", "tf32", "int8"], default=["fp16", "int8"])
    parser.add_argument("--arch", nargs="+", default=["sm_80", "sm_90"])
    parser.add_argument("--limit", type=float, default=180.0, help="seconds that a build may take")
    parser.add_argument("--output", type=Path, default=Path("build/benchmarks/cuda_builds.json"))
    options = parser.parse_args()
    builds: list[Build] = []
    with tempfile.TemporaryDirectory(prefix="optkit-builds-") as folder:
        for model in options.models:
            source = export_model(model, Path(folder) / f"{model}.onnx")
            for precision in options.precision:
                for arch in options.arch:
                    build = compile_for(model, source, precision, arch, Path(folder))
                    builds.append(build)
                    state = "; ".join(build.problems) or "ok"
                    print(
                        f"{model:14} {precision} {arch} {build.seconds:6.1f} s, {build.macs_on_tensor_cores:6.1%} on "
                        f"tensor cores, {build.registers} registers: {state}",
                        flush=True,
                    )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    result = {"environment": environment(), "limit": options.limit, "builds": [asdict(build) for build in builds]}
    write_whole(options.output, json.dumps(result, indent=1).encode() + b"\n")
    return int(any(build.problems or build.seconds > options.limit for build in builds))


if __name__ == "__main__":
    sys.exit(main())
