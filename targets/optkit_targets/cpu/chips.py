"""Named CPUs as numbers. ISA words are those of /proc/cpuinfo; `mcpu` is LLVM's."""

from __future__ import annotations

from dataclasses import dataclass

KB = 1024

V2 = ("sse4_1", "sse4_2", "ssse3", "popcnt")
V3 = (*V2, "avx", "avx2", "fma", "f16c", "bmi1", "bmi2", "movbe")
V4 = (*V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
VNNI = (*V4, "avx512_vnni")
BF16 = (*VNNI, "avx512_bf16")
AMX = (*BF16, "amx_tile", "amx_int8", "amx_bf16")

X86 = "x86_64-unknown-linux-gnu"
ARM = "aarch64-unknown-linux-gnu"


@dataclass(frozen=True)
class Chip:
    """One microarchitecture.

    Attributes:
        isa: /proc/cpuinfo words its code may use.
        lanes: float32 elements of a vector register.
        cache: bytes of L1 data and L2 of one core.
    """

    summary: str
    mcpu: str
    arch: str = "x86_64"
    triple: str = X86
    isa: tuple[str, ...] = ()
    lanes: int = 8
    registers: int = 16
    cores: int = 1
    cache: tuple[int, int] = (32 * KB, 512 * KB)
    attributes: tuple[str, ...] = ()

    def capabilities(self) -> frozenset[str]:
        """What kernels ask for, derived from the ISA words."""
        words = set(self.isa)
        found = {"winograd", "attention"}
        if self.arch == "x86_64" and "avx2" in words:
            # vpmaddwd at least: integer products with int32 sums in one instruction
            found |= {"int8_vector", "f16_convert"}
        if ("avx512_vnni" in words and self.lanes == 16) or ("avx_vnni" in words and self.lanes == 8):
            found |= {"int8_dot", "int8_words"}
        if "asimddp" in words:
            # sdot multiplies signed bytes only, usdot unsigned by signed ones.
            found |= {"int8_vector", "int8_dot"} | (set() if "i8mm" in words else {"int8_signed"})
        if "avx512_bf16" in words and self.lanes == 16:
            found |= {"bf16_pairs", "bf16_vector"}
        if self.lanes == 16 and "amx_tile" in words:
            found |= {"tile_registers", "int8_tiles", "bf16_tiles"}
        if "avx512_fp16" in words or "asimdhp" in words:
            found.add("f16")
        return frozenset(found)


def _zmm(summary: str, mcpu: str, isa: tuple[str, ...], l1: int, l2: int) -> Chip:
    # LLVM prefers 256-bit vectors on some of these; our vectors are explicit, so it keeps ours.
    return Chip(summary, mcpu, isa=isa, lanes=16, registers=32, cache=(l1 * KB, l2 * KB))


def _arm(summary: str, mcpu: str, isa: tuple[str, ...], l1: int, l2: int) -> Chip:
    return Chip(summary, mcpu, "aarch64", ARM, ("asimd", *isa), lanes=4, registers=32, cache=(l1 * KB, l2 * KB))


CHIPS: dict[str, Chip] = {
    "x86-64-v3": Chip("any x86 with AVX2 and FMA (Haswell, Zen and later)", "x86-64-v3", isa=V3),
    "x86-64-v4": _zmm("any x86 with AVX-512 F, BW, CD, DQ, VL", "x86-64-v4", V4, 32, 1024),
    "haswell": Chip("Intel Haswell, AVX2", "haswell", isa=V3, cache=(32 * KB, 256 * KB)),
    "alderlake": Chip(
        "Intel Alder Lake and later clients, AVX-VNNI", "alderlake", isa=(*V3, "avx_vnni"), cache=(48 * KB, 1280 * KB)
    ),
    "skylake-avx512": _zmm("Intel Skylake server, AVX-512", "skylake-avx512", V4, 32, 1024),
    "cascadelake": _zmm("Intel Cascade Lake, AVX512-VNNI", "cascadelake", VNNI, 32, 1024),
    "icelake-server": _zmm("Intel Ice Lake server, AVX512-VNNI", "icelake-server", VNNI, 48, 1280),
    "cooperlake": _zmm("Intel Cooper Lake, AVX512-VNNI and BF16", "cooperlake", BF16, 32, 1024),
    "sapphirerapids": _zmm("Intel Sapphire Rapids and later servers, AMX", "sapphirerapids", AMX, 48, 2048),
    "znver3": Chip("AMD Zen 3, AVX2", "znver3", isa=V3),
    "znver4": _zmm("AMD Zen 4, AVX512-VNNI and BF16", "znver4", BF16, 32, 1024),
    "znver5": _zmm("AMD Zen 5, AVX512-VNNI and BF16", "znver5", BF16, 48, 1024),
    "cortex-a72": _arm("Arm Cortex-A72 (Raspberry Pi 4)", "cortex-a72", (), 32, 512),
    "cortex-a76": _arm("Arm Cortex-A76 (Raspberry Pi 5)", "cortex-a76", ("asimddp", "asimdhp"), 64, 512),
    "neoverse-n1": _arm("Arm Neoverse N1 (Graviton 2)", "neoverse-n1", ("asimddp", "asimdhp"), 64, 1024),
    "neoverse-v1": _arm("Arm Neoverse V1 (Graviton 3)", "neoverse-v1", ("asimddp", "asimdhp", "i8mm"), 64, 1024),
}
