"""What this machine's processor offers, and whether that is what an artifact needs."""

from __future__ import annotations

import functools
import platform
import re
from collections.abc import Iterable
from pathlib import Path

from optkit.errors import ArtifactError

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


def check_isa(isa: Iterable[str], where: str) -> None:
    """Refuse code that this processor cannot execute.

    Raises:
        ArtifactError: "needs avx512_vnni, this CPU has not".
    """
    lacking = missing(isa, architecture(), features())
    if lacking:
        raise ArtifactError(
            f"{where}: the artifact needs {', '.join(lacking)}, which this CPU ({architecture()}) does not "
            "have; compile the model for it (--target cpu on this machine)"
        )


def _plain(word: str) -> str:
    return re.sub(r"[._+-]", "", word.lower())
