"""What CPU this machine has, from /proc/cpuinfo."""

from __future__ import annotations

import functools
import platform
from dataclasses import replace
from pathlib import Path

from optkit.errors import UsageError
from optkit.runtime.isa import TILES, tiles_refused
from optkit_targets.cpu.chips import CHIPS, Chip


@functools.cache
def host_features() -> frozenset[str]:
    """The feature words of the first processor; without that of tiles where Linux keeps them from this process."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        key, _, words = line.partition(":")
        if key.strip() in ("flags", "Features"):
            found = frozenset(words.split())
            return found if TILES not in found or not tiles_refused() else found - {TILES}
    return frozenset()


_ATTRIBUTES = {
    "sapphirerapids": ("+avx512bf16", "+amx-tile", "+amx-int8", "+amx-bf16"),
    "cooperlake": ("+avx512bf16",),
    "icelake-server": (),
}
"""What Cascade Lake lacks of a level, as LLVM has it."""


def host_chip() -> Chip:
    """The most capable named level this CPU satisfies, with the level's cache sizes.

    A level and not LLVM's idea of the exact model: the same machine class then gives the same code, and a
    virtual machine that hides a feature does not get it.
    """
    machine, have = platform.machine(), host_features()
    order = (
        "sapphirerapids",
        "cooperlake",
        "icelake-server",
        "cascadelake",
        "x86-64-v4",
        "alderlake",
        "x86-64-v3",
        "cortex-a76",
        "cortex-a72",
    )
    for name in order:
        chip = CHIPS[name]
        if chip.arch == machine and set(chip.isa) <= have:
            mcpu = "cascadelake" if name in _ATTRIBUTES else chip.mcpu
            extra = _ATTRIBUTES.get(name, ())
            return replace(chip, mcpu=mcpu, attributes=extra, summary=f"this machine ({name} level)")
    raise UsageError(f"this CPU ({machine}) has neither AVX2 nor 64-bit Arm vectors: name a target with --target")
