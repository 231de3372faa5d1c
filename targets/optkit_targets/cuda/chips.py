"""NVIDIA GPUs as numbers, by compute capability and by product name.

Sizes are those of the CUDA C++ Programming Guide, "Technical Specifications per Compute Capability"; numbers
of multiprocessors and L2 sizes are those of the product named, the smallest common one for a bare capability.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

KB, MB = 1024, 1024 * 1024

X86_HOST = {"kind": "llvm", "mtriple": "x86_64-unknown-linux-gnu", "mcpu": "x86-64-v3"}
X86_ISA = ("x86_64", "avx2", "fma", "f16c", "bmi1", "bmi2", "movbe")
ARM_HOST = {"kind": "llvm", "mtriple": "aarch64-unknown-linux-gnu", "mcpu": "cortex-a76"}
ARM_ISA = ("aarch64", "asimd", "asimddp", "asimdhp")


@dataclass(frozen=True)
class Gpu:
    """One compute capability, with the numbers of a product that has it.

    Attributes:
        sm: compute capability without its dot, e.g. 90.
        multiprocessors: streaming multiprocessors.
        shared: bytes of shared memory of one multiprocessor.
        l2: bytes of L2 cache.
        arm: whether the processor beside it is a 64-bit Arm.
    """

    sm: int
    summary: str
    multiprocessors: int
    shared: int
    l2: int
    arm: bool = False

    @property
    def arch(self) -> str:
        """nvcc's name, e.g. "sm_90"."""
        return f"sm_{self.sm}"

    def capabilities(self) -> frozenset[str]:
        """What kernels ask for; every GPU here has a four-way integer dot product (since 6.1) and float16."""
        found = {"int8_dot", "f16", "f16_convert", "tensor_core", "row_threads"}
        if self.sm >= 80:
            found |= {"bf16_dot", "async_copy", "tensor_fours", "half_attention"}
        if self.sm >= 90:
            found |= {"cluster", "early_launch"}
        if self.sm == 90:
            found.add("warpgroup")
        return frozenset(found)


CAPABILITIES: dict[int, Gpu] = {
    gpu.sm: gpu
    for gpu in (
        Gpu(75, "compute capability 7.5 (Turing: T4, RTX 20)", 40, 64 * KB, 4 * MB),
        Gpu(80, "compute capability 8.0 (Ampere: A100, A30)", 108, 164 * KB, 40 * MB),
        Gpu(86, "compute capability 8.6 (Ampere: A10, RTX 30)", 72, 100 * KB, 6 * MB),
        Gpu(87, "compute capability 8.7 (Ampere: Jetson Orin)", 16, 164 * KB, 4 * MB),
        Gpu(89, "compute capability 8.9 (Ada: L4, L40, RTX 40)", 58, 100 * KB, 48 * MB),
        Gpu(90, "compute capability 9.0 (Hopper: H100, H200)", 132, 228 * KB, 50 * MB),
        Gpu(100, "compute capability 10.0 (Blackwell: B100, B200)", 148, 228 * KB, 126 * MB),
        Gpu(120, "compute capability 12.0 (Blackwell: RTX 50)", 84, 100 * KB, 64 * MB),
    )
}

PRODUCTS: dict[str, Gpu] = {
    "t4": replace(CAPABILITIES[75], summary="NVIDIA T4"),
    "a10": replace(CAPABILITIES[86], summary="NVIDIA A10"),
    "a100": replace(CAPABILITIES[80], summary="NVIDIA A100"),
    "l4": replace(CAPABILITIES[89], summary="NVIDIA L4"),
    "h100": replace(CAPABILITIES[90], summary="NVIDIA H100"),
    "h200": replace(CAPABILITIES[90], summary="NVIDIA H200"),
    "jetson-orin": replace(CAPABILITIES[87], summary="NVIDIA Jetson Orin, with its Arm processor", arm=True),
}

DEFAULT = CAPABILITIES[80]
"""What "cuda" means where there is no GPU: the PTX beside its code runs on everything newer."""


def nearest_below(sm: int) -> Gpu:
    """The numbers for a capability that is not listed: those of the next lower one that is."""
    known = [value for value in CAPABILITIES if value <= sm]
    if not known:
        return replace(CAPABILITIES[75], sm=sm)
    return replace(CAPABILITIES[max(known)], sm=sm)
