"""A target's module, built for the CPU at hand: what can be checked where the target itself cannot run."""

from __future__ import annotations

from dataclasses import replace

from optkit.target import Target


def host_variant(target: Target) -> Target:
    """The same layouts, packing and fusion as `target`, with code for this machine's CPU.

    Vector widths are the target's (LLVM splits what the host's registers do not hold); dot-product
    instructions of the target give way to plain arithmetic with the same results (but for denormal products of
    bfloat16, which the instruction takes as zero).
    """
    from optkit.registry import find_target

    host = find_target("cpu")
    return replace(
        target,
        name=host.name,
        device=host.device,
        tvm=host.tvm,
        tvm_host=host.tvm_host,
        isa=host.isa,
        cores=host.cores,
        features=target.features - {"int8_vector", "bf16_vector", "tile_registers"},
    )
