"""NVIDIA GPUs, cross-compiled with nvcc: a machine without one builds for any of them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from optkit.errors import UsageError, nearest
from optkit.kernel import KernelRule
from optkit.runtime.gpu import compute_capabilities, needed_capability
from optkit.target import Target
from optkit_targets.cuda.chips import (
    ARM_HOST,
    ARM_ISA,
    CAPABILITIES,
    DEFAULT,
    PRODUCTS,
    X86_HOST,
    X86_ISA,
    Gpu,
    nearest_below,
)

MANY = "+"
"""Between the GPUs that one artifact has code for."""
LANES = 4
"""Channels of a block: four bytes are one operand of dp4a, four floats one 128-bit load."""


@dataclass(frozen=True)
class CudaFamily:
    """Targets whose kernels run on an NVIDIA GPU."""

    name: str = "cuda"

    def names(self) -> Mapping[str, str]:
        """Every name with a line about it; product names also go with "cuda:" before them."""
        exact = {f"cuda:{gpu.arch}": gpu.summary for gpu in CAPABILITIES.values()}
        products = {name: f"{gpu.summary} (cuda:{gpu.arch})" for name, gpu in PRODUCTS.items()}
        here = f"this machine's NVIDIA GPU; where there is none, {DEFAULT.arch} and PTX for newer ones"
        several = {"cuda:sm_80+sm_90": "code for several of these in one artifact, kernels laid out for the lowest"}
        return {"cuda": here} | exact | several | products

    def make(self, name: str) -> Target:
        """The target of that name; "cuda" is detected, "cuda:sm_80+sm_90" holds code for both.

        Raises:
            UsageError: an unknown name, or GPUs beside different processors.
        """
        word = name.removeprefix("cuda:")
        if word == "cuda":
            found = compute_capabilities()
            gpu = nearest_below(found[0][0] * 10 + found[0][1]) if found else DEFAULT
            return _target("cuda", gpu)
        if MANY in word:
            return _several(name, [self.make(part) for part in word.split(MANY)])
        by_arch = {gpu.arch: gpu for gpu in CAPABILITIES.values()}
        if word in PRODUCTS and PRODUCTS[word].arm:
            return _target(f"cuda:{word}", PRODUCTS[word])
        gpu = PRODUCTS.get(word) or by_arch.get(word) or _unknown(name, word)
        return _target(f"cuda:{gpu.arch}", by_arch[gpu.arch])

    def rules(self, target: Target) -> tuple[KernelRule, ...]:
        """The GPU's kernel rules."""
        return _rules()

    def package(self, target: Target, executable: Any) -> Any:
        """The executable with nvcc's code in the place of TVM's CUDA C++."""
        from optkit_targets.cuda.package import CudaExecutable

        return CudaExecutable(executable, tuple(word for word in target.isa if word.startswith("sm_")))

    def why_not_here(self, target: Target) -> str | None:
        """Whether the first GPU has the compute capability that the target's code needs."""
        need = needed_capability(target.isa)
        found = compute_capabilities()
        if found and found[0] >= need:
            return None
        here = f"this one has {found[0][0]}.{found[0][1]}" if found else "none found here"
        return f"needs an NVIDIA GPU with compute capability >= {need[0]}.{need[1]}; {here}"


def _unknown(name: str, word: str) -> Gpu:
    listed = [*(gpu.arch for gpu in CAPABILITIES.values()), *PRODUCTS]
    raise UsageError(f"unknown CUDA target {name!r}: {nearest(word, listed)}")


def _several(name: str, targets: list[Target]) -> Target:
    """The target with the lowest compute capability, which kernels are laid out for, compiled for the others too."""
    hosts = {target.isa[:-1] for target in targets}
    if len(hosts) > 1:
        raise UsageError(f"CUDA target {name!r}: these GPUs are beside different processors; compile for one of them")
    ordered = sorted({target.isa[-1]: target for target in targets}.values(), key=lambda t: needed_capability(t.isa))
    first, words = ordered[0], tuple(target.isa[-1] for target in ordered)
    if len(ordered) == 1:
        return first
    summary = f"{first.summary}; with code for {', '.join(words[1:])}"
    return replace(first, name=f"cuda:{MANY.join(words)}", isa=(*first.isa[:-1], *words), summary=summary)


@functools.cache
def _rules() -> tuple[KernelRule, ...]:
    from optkit_targets.cuda.kernels import RULES

    return RULES


def _target(name: str, gpu: Gpu) -> Target:
    return Target(
        name=name,
        device="cuda",
        tvm={
            "kind": "cuda",
            "arch": gpu.arch,
            "max_threads_per_block": 1024,
            "max_shared_memory_per_block": 48 * 1024,
            "registers_per_block": 65536,
            "thread_warp_size": 32,
            "l2_cache_size_bytes": gpu.l2,
        },
        tvm_host=dict(ARM_HOST if gpu.arm else X86_HOST),
        lanes=LANES,
        # One accumulator vector, so that products are not padded to whole tiles: threads are guarded instead,
        # and the rules choose tiles that divide.
        registers=5,
        cores=gpu.multiprocessors,
        cache=(gpu.shared, gpu.l2),
        features=gpu.capabilities(),
        isa=(*(ARM_ISA if gpu.arm else X86_ISA), gpu.arch),
        summary=gpu.summary,
    )
