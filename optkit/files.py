"""Output files: found out before any work whether they can be written, written whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from optkit.errors import OptkitError, UsageError


def check_writable(path: str | os.PathLike[str]) -> Path:
    """Refuse an output path that cannot be written, and return it.

    A file is created beside it and removed again: permission bits alone do not tell (read-only mounts,
    quotas, root).

    Raises:
        UsageError: the folder is missing or not writable, or the path is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise UsageError(f"cannot write {path}: it is a folder; name a file")
    if not path.parent.is_dir():
        raise UsageError(f"cannot write {path}: the folder {path.parent} does not exist; create it first")
    probe = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` to `path` through a temporary name beside it; nothing half-written stays.

    Raises:
        OptkitError: it cannot be written, for example because the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        raise OptkitError(f"cannot write {path}: {error.strerror or error}; nothing was left there") from error
    finally:
        temporary.unlink(missing_ok=True)
