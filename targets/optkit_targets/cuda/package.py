"""Device code inside the library: the CUDA C++ that TVM leaves is compiled when the library is linked.

On a machine without NVIDIA's driver TVM cannot load its CUDA runtime, and its code generator then hands over
a module that holds source and would be compiled on the user's machine. Modules travel inside the library as
one blob of bytes (tvm-ffi's `__tvm_ffi__library_bin`); in it, a CUDA module is its format, its table of
kernels and its code, each string with its length in eight bytes before it. Here the format becomes "fatbin"
and the code nvcc's, so that whatever loads the library needs no compiler.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvm.runtime import _ffi_api

from optkit.errors import CompileError
from optkit_targets.cuda.nvcc import compile_source, with_device_code

_SYMBOL = "__tvm_ffi__library_bin"


@dataclass(frozen=True)
class CudaExecutable:
    """A VM executable whose kernels are compiled for `archs` on export.

    Attributes:
        inner: TVM's executable.
        archs: nvcc's names of the GPUs, e.g. ("sm_80", "sm_90"); the last one's PTX serves those after it.
    """

    inner: Any
    archs: tuple[str, ...]

    @property
    def mod(self) -> Any:
        """The module tree: the VM code, the host's code and the device's source."""
        return self.inner.mod

    def source(self) -> str:
        """The CUDA C++ of all kernels; empty for a model without kernels."""
        return "".join(str(m.inspect_source("cuda")) for m in _device_modules(self.mod))

    def whole_source(self) -> str:
        """What nvcc compiles: the kernels, and the device code that they call."""
        return with_device_code(self.source())

    def export_library(self, file_name: str, **options: Any) -> Any:
        """As `tvm.relax.VMExecutable.export_library`.

        Raises:
            CompileError: nvcc is missing or fails.
        """

        def pack(module: Any, _system: bool, prefix: str, folder: str) -> str:
            if prefix:
                raise CompileError("a CUDA library cannot be a system library")
            blob = unpack_c(str(_ffi_api.ModulePackImportsToC(module, False, "")))
            for device in _device_modules(module):
                source = str(device.inspect_source("cuda"))
                blob = replace_code(blob, source, compile_source(source, self.archs))
            return write_blob(blob, Path(folder))

        return self.inner.export_library(file_name, fpack_imports=pack, **options)


def _device_modules(module: Any) -> list[Any]:
    found = [module] if module.kind == "cuda" else []
    for child in module.imports:
        found += _device_modules(child)
    return found


def unpack_c(text: str) -> bytes:
    """The bytes of the one array in TVM's C form of the blob."""
    start = text.index("{", text.index(f"{_SYMBOL}["))
    digits = re.findall(r"0x([0-9a-fA-F]{2})", text[start : text.index("}", start)])
    return bytes.fromhex("".join(digits))


def _string(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data


def replace_code(blob: bytes, source: str, code: bytes) -> bytes:
    """The blob with the CUDA module that holds `source` holding the fat binary `code` instead.

    Raises:
        CompileError: the blob is not laid out as this version of TVM lays it out.
    """
    body = _string(source.encode())
    key = _string(b"cuda")
    at, end = blob.find(body), blob.find(body) + len(body)
    for match in re.finditer(re.escape(key) + b"(.{8})" + re.escape(key), blob[: max(at, 0)], re.DOTALL):
        (length,) = struct.unpack("<Q", match[1])
        first = match.start(1) + 8
        if first + length == end:
            table = blob[first + len(key) : at]
            value = _string(b"fatbin") + table + _string(code)
            changed = blob[8 : match.start(1)] + _string(value) + blob[end:]
            return _string(changed)
    raise CompileError("cannot find the CUDA module in the library's modules; is this another version of TVM?")


def write_blob(blob: bytes, folder: Path) -> str:
    """An assembly file in `folder` that defines the blob; the linker command assembles it, in that folder."""
    (folder / "devc.bin").write_bytes(blob)
    path = folder / "devc.s"
    path.write_text(
        f"    .section .rodata\n    .globl {_SYMBOL}\n    .p2align 6\n{_SYMBOL}:\n"
        f'    .incbin "devc.bin"\n    .size {_SYMBOL}, . - {_SYMBOL}\n'
        '    .section .note.GNU-stack,"",%progbits\n'
    )
    return str(path)


__all__ = ["CudaExecutable", "replace_code", "unpack_c", "write_blob"]
