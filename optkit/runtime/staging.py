"""Copies between the host and a GPU through page-locked memory.

The GPU reads and writes it by itself, so that copies are queued and overlap; to and from other memory the driver copies
piece by piece, and whoever asked for it waits.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from optkit.runtime.gpu import CUDART
from optkit.runtime.order import alone

LIMIT = 256 << 20
"""Bytes that a loaded model keeps page-locked at most."""
_PAGE_LOCKED = 3  # kDLCUDAHost
_BY_ADDRESS = 4  # cudaMemcpyDefault


class Staging:
    """Page-locked memory for every input and output of a model, and memory of its inputs on the GPU.

    Kept from run to run, page-locked as much as the largest needed. What would exceed `LIMIT`, or what the system does
    not lock, is copied from and to where it lies. One thread at a time.
    """

    def __init__(self, ffi: Any, device: Any) -> None:
        self._ffi, self._device = ffi, device
        self._host = ffi.device(_PAGE_LOCKED, 0)
        self._allocate = ffi.get_global_func("runtime.TVMTensorAllocWithScope")
        self._wait = ffi.get_global_func("runtime.Device_StreamSync")
        self._cuda = ctypes.CDLL(CUDART)
        self._cuda.cudaGetErrorString.restype = ctypes.c_char_p
        pointer = ctypes.c_void_p
        self._cuda.cudaStreamIsCapturing.argtypes = (pointer, ctypes.POINTER(ctypes.c_int))
        self._cuda.cudaMemcpyAsync.argtypes = (pointer, pointer, ctypes.c_size_t, ctypes.c_int, pointer)
        self.release()

    def capturing(self, stream: int) -> bool:
        """Whether what is queued on a stream becomes part of a CUDA graph."""
        status = ctypes.c_int()
        return bool(not self._cuda.cudaStreamIsCapturing(stream, ctypes.byref(status)) and status.value)

    def release(self) -> None:
        """Give all memory back; nothing may be queued that uses it."""
        self._inputs: dict[str, Any] = {}
        self._sources: dict[str, Any] = {}
        self._results: dict[str, Any] = {}
        self._unread: set[str] = set()
        self._room = LIMIT

    def upload(self, name: str, tensor: Any, stream: int) -> Any:
        """An input in the GPU's memory, copied from the host as a part of the stream; the next one takes its place.

        Returns when the caller's memory has been read.
        """
        size = bytes_of(tensor)
        there = self._inputs.get(name)
        if there is None or there.shape != tensor.shape or there.dtype != tensor.dtype:
            there = self._allocate(self._ffi.Shape(tensor.shape), tensor.dtype, self._device, None)
            self._inputs[name] = there
        if name in self._unread:  # nobody has waited since
            self._wait(self._device, stream)
            self._unread.clear()
        source, locked = tensor.data_ptr(), self._locked(self._sources, name, size)
        if locked is not None:
            ctypes.memmove(locked, source, size)
            source = locked
            self._unread.add(name)
        self.queue(there.data_ptr(), source, size, stream)
        return there

    def download(
        self,
        names: Sequence[str],
        tensors: Sequence[Any],
        dtypes: Sequence[np.dtype],
        stream: int,
        wait: Callable[[], None],
    ) -> list[np.ndarray]:
        """The outputs' values in arrays of their own; `wait` for the stream is called once."""
        arrays, passed = [], []
        with alone():
            for name, tensor, dtype in zip(names, tensors, dtypes, strict=True):
                array, size = np.empty(tensor.shape, dtype), bytes_of(tensor)
                if array.nbytes != size:
                    raise RuntimeError(f"{name!r} has {size} bytes as {tensor.dtype}, as {dtype} {array.nbytes}")
                arrays.append(array)
                place, locked = array.ctypes.data, self._locked(self._results, name, size)
                if locked is not None:
                    passed.append((place, locked, size))
                self.queue(place if locked is None else locked, tensor.data_ptr(), size, stream)
        wait()
        self._unread.clear()
        for place, locked, size in passed:
            ctypes.memmove(place, locked, size)
        return arrays

    def queue(self, to: int, source: int, size: int, stream: int) -> None:
        """Copy bytes from one address to another as a part of the stream, which TVM's own copies are not.

        Raises:
            RuntimeError: what CUDA says.
        """
        cuda = self._cuda
        error = cuda.cudaSetDevice(self._device.index) or cuda.cudaMemcpyAsync(to, source, size, _BY_ADDRESS, stream)
        if error:
            raise RuntimeError(f"CUDA: {cuda.cudaGetErrorString(error).decode()}")

    def _locked(self, kept: dict[str, Any], name: str, size: int) -> int | None:
        """The address of page-locked memory for so many bytes, None where there is no more."""
        held = kept.get(name)
        have = 0 if held is None else int(held.shape[0])
        if have < size:
            wanted = min(max(size, 2 * have), have + self._room)
            if wanted < size:
                return None
            try:
                held = self._allocate(self._ffi.Shape((wanted,)), self._ffi.dtype("uint8"), self._host, None)
            except RuntimeError:
                self._room = 0
                self._cuda.cudaGetLastError()  # or others in this process would meet the error
                return None
            self._room -= wanted - have
            kept[name] = held
        return int(held.data_ptr()) if held is not None else None


def bytes_of(tensor: Any) -> int:
    """Bytes of a tensor."""
    return int(tensor.numel() * tensor.dtype.itemsize)
