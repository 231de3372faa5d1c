"""What this machine's processor offers, and whether that is what an artifact needs."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import re
from collections.abc import Iterable
from pathlib import Path

from optkit.errors import ArtifactError

TILES = "amx_tile"
"""The word of a target's `isa` that stands for tile registers."""
_ARCH_PRCTL, _ASK, _TILE_DATA = 158, 0x1023, 18
"""Of x86-64 Linux: the call, ARCH_REQ_XCOMP_PERM, and the state that tiles are."""
_ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64", "armv7l": "armv7", "armv8l": "armv7"}
_KNOWN_ARCHITECTURES = frozenset(["x86_64", "aarch64", "armv7", "riscv64", "i686"])
# LLVM's feature names where Linux has another word; both sides are compared without punctuation.
_ALIASES = {
    "neon": "asimd",
    "dotprod": "asimddp",
    "fullfp16": "asimdhp",
    "fp16": "asimdhp",
    "rdm": "asimdrdm",
    "crc": "crc32",
    "lse": "atomics",
    "lzcnt": "abm",
    "sse3": "pni",
    "prfchw": "3dnowprefetch",
}


def architecture() -> str:
    """The machine's architecture in the words of a target's `isa`."""
    machine = platform.machine().lower()
    return _ARCHITECTURES.get(machine, machine)


@functools.cache
def features(cpuinfo: str = "/proc/cpuinfo") -> frozenset[str]:
    """Feature words of the first processor, without punctuation; empty where Linux does not tell."""
    try:
        text = Path(cpuinfo).read_text(errors="replace")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip().lower() in ("flags", "features"):
            return frozenset(_plain(word) for word in value.split())
    return frozenset()


def missing(isa: Iterable[str], arch: str, available: frozenset[str]) -> list[str]:
    """Words of `isa` that a machine lacks: another architecture, or features that are not there.

    Device words (`sm_90`, `cuda`) say nothing about the processor and are skipped.
    """
    lacking = []
    for word in isa:
        plain = _plain(word)
        if _ARCHITECTURES.get(word.lower(), word) in _KNOWN_ARCHITECTURES:
            if _ARCHITECTURES.get(word.lower(), word) != arch:
                lacking.append(word)
        elif not re.fullmatch(r"cuda|ptx\d*|sm\d+a?", plain) and (
            plain not in available and _ALIASES.get(plain) not in available
        ):
            lacking.append(word)
    return lacking


@functools.cache
def tiles_refused() -> str:
    """Why this process may not use AMX's tile registers, as Linux says; "" where it may.

    They are off until a process asks (arch_prctl, ARCH_REQ_XCOMP_PERM): a kernel before 5.16, a sandbox or a small
    alternate signal stack refuses. Kernels ask by themselves, but can only crash where the answer is no.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    return "" if libc.syscall(_ARCH_PRCTL, _ASK, _TILE_DATA) == 0 else os.strerror(ctypes.get_errno())


def check_isa(isa: Iterable[str], where: str) -> None:
    """Refuse code that this processor cannot execute.

    Raises:
        ArtifactError: "needs avx512_vnni, this CPU has not"; or Linux keeps its tile registers from this process.
    """
    isa = tuple(isa)
    lacking = missing(isa, architecture(), features())
    if lacking:
        raise ArtifactError(
            f"{where}: the artifact needs {', '.join(lacking)}, which this CPU ({architecture()}) does not "
            "have; compile the model for it (--target cpu on this machine)"
        )
    if TILES in isa and (reason := tiles_refused()):
        raise ArtifactError(
            f"{where}: the artifact needs AMX, which Linux keeps from this process ({reason}); "
            "compile the model for --target cooperlake"
        )


def _plain(word: str) -> str:
    return re.sub(r"[._+-]", "", word.lower())
