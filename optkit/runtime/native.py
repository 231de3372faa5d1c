"""The TVM runtime in this process: loaded once, from the installed package where that has the same bytes."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from optkit.artifact.libraries import FFI, RUNTIME, installed_library
from optkit.artifact.reader import ArtifactFile
from optkit.artifact.writer import LIBRARY
from optkit.errors import ArtifactError
from optkit.runtime.gpu import load_cuda_runtime

_lock = threading.RLock()
_loaded: dict[str, str] = {}
"""Version of TVM whose runtime this process runs, and the device runtimes loaded from artifacts."""


class _WithoutTorch(MetaPathFinder):
    """Hides torch from one thread: tvm_ffi imports it whenever it is installed, which takes seconds."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] == "torch" and threading.get_ident() == self.thread:
            raise ModuleNotFoundError("torch is not needed to run artifacts", name=fullname)
        return None


def import_tvm_ffi() -> Any:
    """The tvm_ffi package, imported without torch (a torch that is imported already is used)."""
    if "tvm_ffi" not in sys.modules:
        finder = _WithoutTorch()
        sys.meta_path.insert(0, finder)
        try:
            import tvm_ffi  # noqa: F401
        except ImportError as e:
            raise ArtifactError("running artifacts needs the package apache-tvm-ffi; install it") from e
        finally:
            sys.meta_path.remove(finder)
    return sys.modules["tvm_ffi"]


def load_executable(artifact: ArtifactFile) -> Any:
    """Load an artifact's library into this process and return its Relax virtual machine, not yet initialized.

    Raises:
        ArtifactError: the runtime or the library cannot be loaded here.
    """
    with _lock, _extracted(artifact, LIBRARY) as library:
        ffi = import_tvm_ffi()
        _ensure_runtime(ffi, artifact)
        try:
            # The process keeps the code for good: tensors and error objects may outlive the runner.
            module = ffi.load_module(str(library))
            return module["vm_load_executable"]()
        except (RuntimeError, OSError, AttributeError) as e:
            reason = str(e).strip().splitlines()[-1]
            raise ArtifactError(f"{artifact.path}: the library cannot be loaded here: {reason}") from e


def _ensure_runtime(ffi: Any, artifact: ArtifactFile) -> None:
    wanted = artifact.manifest.versions.get("tvm", "")
    if ffi.get_global_func("runtime.config_threadpool", allow_missing=True) is not None:
        tvm = sys.modules.get("tvm")
        present = _loaded.get(RUNTIME) or str(getattr(tvm, "__version__", ""))
        if present and wanted and present != wanted:
            raise ArtifactError(
                f"{artifact.path}: made with TVM {wanted}, but this process already runs the runtime of "
                f"TVM {present}; load it in another process, or compile the model again"
            )
    else:
        _load_library(artifact, RUNTIME, ctypes.RTLD_GLOBAL)
        _loaded[RUNTIME] = wanted
    for member in artifact.manifest.runtime:
        name = member.rpartition("/")[2]
        if name not in (RUNTIME, FFI) and name not in _loaded:
            if ffi.get_global_func("device_api.cuda", allow_missing=True) is None:
                load_cuda_runtime()
                _load_library(artifact, name, ctypes.RTLD_GLOBAL)
            _loaded[name] = wanted


def _load_library(artifact: ArtifactFile, name: str, mode: int) -> None:
    """Load a runtime library, the installed copy if it is the same.

    A later `import tvm` loads the installed copy; two copies of one runtime in a process would register
    everything twice and fail.
    """
    carried = next((m for m in artifact.manifest.runtime if m.rpartition("/")[2] == name), None)
    installed = installed_library("tvm", name)
    if carried is None:
        if installed is None:
            tvm = artifact.manifest.versions.get("tvm", "")
            raise ArtifactError(f"{artifact.path}: carries no TVM runtime for this machine; install apache-tvm=={tvm}")
        _open(installed, mode, artifact)
    elif installed is not None and _same(installed, artifact.manifest.members[carried].sha256):
        _open(installed, mode, artifact)
    else:
        with _extracted(artifact, carried) as path:
            _open(path, mode, artifact)


def _same(path: Path, sha256: str) -> bool:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == sha256


def _open(path: Path, mode: int, artifact: ArtifactFile) -> None:
    try:
        ctypes.CDLL(str(path), mode)
    except OSError as e:
        raise ArtifactError(f"{artifact.path}: {path.name} cannot be loaded: {e}") from e


@contextlib.contextmanager
def _extracted(artifact: ArtifactFile, member: str) -> Iterator[Path]:
    """A verified member as a file that only this user can read, removed when the block ends.

    What was loaded from it stays mapped after that.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="optkit-") as folder:
            path = Path(folder) / member.rpartition("/")[2]
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o500)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(artifact.read(member))
            yield path
    except OSError as e:
        raise ArtifactError(f"{artifact.path}: cannot unpack {member}: {e.strerror or e} (see TMPDIR)") from e
