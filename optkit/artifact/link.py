"""Linking a compiled Relax executable into a shared object: same code, same linker, same bytes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from optkit.artifact.payload import LinkerInfo
from optkit.errors import CompileError, UsageError, nearest

_SYSTEM = ("cc", "gcc", "clang")
_FLAGS = (
    "-shared",
    "-fPIC",
    # Debug information names the folders of this machine; a build id is a second hash of the same bytes.
    "-Wl,--strip-debug",
    "-Wl,--build-id=none",
    "-Wl,-soname,lib.so",
    "-Wl,--as-needed",
)
_LIBRARIES = ("-lm",)


def find_linker(cc: str | None = None, target: str | None = None) -> list[str]:
    """The command that links.

    Args:
        cc: a compiler by name or path, or "zig"; None takes cc, gcc or clang from the PATH, then zig.
        target: zig's triple of a foreign machine, e.g. "aarch64-linux-gnu"; None for this one.

    Raises:
        UsageError: `cc` is not there.
        CompileError: there is none at all, or the target is foreign and zig is not installed.
    """
    if cc is not None and cc != "zig":
        found = shutil.which(cc)
        if found is None:
            here = [name for name in _SYSTEM if shutil.which(name)] + ["zig"] * _zig_installed()
            raise UsageError(f"--cc {cc}: no such program; {nearest(cc, here)}")
        return [found, f"--target={target}"] if target and "clang" in Path(found).name else [found]
    if cc is None and target is None:
        for name in _SYSTEM:
            if found := shutil.which(name):
                return [found]
    if not _zig_installed():
        what = f"linking for {target}" if target else "linking without a system C compiler"
        raise CompileError(f"{what} needs zig; install optkit[cross], or name a compiler with --cc")
    return [sys.executable, "-m", "ziglang", "cc", *(["-target", target] if target else [])]


def link_library(executable: Any, out: Path, cc: str | None = None, target: str | None = None) -> LinkerInfo:
    """Export a `tvm.relax.VMExecutable` as the shared object `out` and say what linked it.

    Args: see `find_linker`.

    Raises:
        CompileError: the linker failed; its last words are in the message.
    """
    command = find_linker(cc, target)
    with tempfile.TemporaryDirectory(prefix="optkit-link-") as folder:
        result = Path(folder) / "lib.so"

        def link(_name: str, objects: list[str], options: list[str] | None = None) -> None:
            # Relative names: whatever a linker writes down about its inputs is then the same everywhere.
            files = [Path(o).name for o in objects]
            _run([*command, *_FLAGS, "-o", result.name, *(options or []), *files, *_LIBRARIES], folder)

        executable.export_library(str(result), fcompile=link, workspace_dir=folder)
        _refuse_paths(result, folder)
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
        try:
            shutil.copyfile(result, temporary)
            temporary.replace(out)
        except OSError as e:
            raise CompileError(f"cannot write {out}: {e.strerror}") from e
        finally:
            temporary.unlink(missing_ok=True)
    return linker_info(command)


def linker_info(command: list[str]) -> LinkerInfo:
    """Name and version of a linking command."""
    if "ziglang" in command:
        return LinkerInfo("zig", _run([sys.executable, "-m", "ziglang", "version"]).strip())
    text = _run([command[0], "--version"]).strip()
    return LinkerInfo(Path(command[0]).name, text.splitlines()[0] if text else "unknown")


def _zig_installed() -> bool:
    return find_spec("ziglang") is not None


def _run(command: list[str], folder: str | None = None) -> str:
    # TMPDIR and the locale would otherwise show up in temporary names and messages.
    environment = {**os.environ, "LC_ALL": "C", "SOURCE_DATE_EPOCH": "0"}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as e:
        raise CompileError(f"cannot start {command[0]}: {e.strerror}") from e
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines()
        reason = words[-1] if words else f"exit status {done.returncode}"
        raise CompileError(f"{Path(command[0]).name} failed to link: {reason}")
    return done.stdout


def _refuse_paths(library: Path, folder: str) -> None:
    """An artifact must not tell where it was made, and must not differ because of it."""
    data = library.read_bytes()
    for place in sorted({folder, tempfile.gettempdir(), str(Path.cwd()), str(Path.home())} - {"/"}):
        if place.encode() + b"/" in data:
            raise CompileError(f"the linked library contains the path {place}; use another linker (--cc)")
