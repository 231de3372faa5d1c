"""Between arrays of the caller and tensors of the TVM runtime, without copies where that is possible."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from optkit.artifact.manifest import ALIGNMENT
from optkit.artifact.spec import TensorSpec, numpy_dtype, numpy_has, storage
from optkit.errors import DataError, UsageError
from optkit.runtime.failures import abandon, explained
from optkit.runtime.order import in_order
from optkit.runtime.staging import Staging, bytes_of

_CPU = 1  # kDLCPU
GPU_ALIGNMENT = 16
"""Bytes; the widest load of a thread."""
_BYTE, _TWO_BYTES = np.dtype(np.uint8), np.dtype(np.uint16)


class TensorBridge:
    """Converts arrays to tensors on one device and back."""

    def __init__(self, ffi: Any, device: Any) -> None:
        self._ffi = ffi
        self.device = device
        self.on_cpu = device.dlpack_device_type() == _CPU
        self._view = ffi.get_global_func("runtime.TVMTensorCreateView")
        self._to_bytes = ffi.get_global_func("runtime.TVMTensorCopyToBytes")
        self._copy = ffi.get_global_func("runtime.TVMTensorCopyFromTo")
        self._allocate = ffi.get_global_func("runtime.TVMTensorAllocWithScope")
        self._wait = ffi.get_global_func("runtime.Device_StreamSync")
        self._follow = ffi.get_global_func("runtime.Device_StreamSyncFromTo")
        self._last = 0  # stream
        self._staging = None if self.on_cpu else Staging(ffi, device)

    def from_array(self, array: np.ndarray) -> Any:
        """A tensor on the CPU over the array's own memory, which must be contiguous and 64-byte aligned."""
        dtype = array.dtype
        if numpy_has(dtype.name):
            return self._ffi.from_dlpack(array)
        # numpy exports no type of ml_dtypes; the bits travel as unsigned integers of their size.
        if dtype.itemsize == 1:
            return self._ffi.from_dlpack(array.view(_BYTE))
        bits = self._ffi.from_dlpack(array.view(_TWO_BYTES))
        return self._view(bits, self._ffi.Shape(array.shape), self._ffi.dtype(dtype.name), 0)

    def to_array(self, tensor: Any, dtype: np.dtype | None = None) -> np.ndarray:
        """An array over the tensor's memory (copied from a device), writable, keeping it alive."""
        # numpy takes half the time of a small model to name a dtype: who knows it, says it.
        if self.on_cpu and dtype is not None and dtype.isbuiltin == 1:
            return np.from_dlpack(tensor)
        dtype = numpy_dtype(str(tensor.dtype)) if dtype is None else dtype
        if tensor.__dlpack_device__()[0] != _CPU:
            self.synchronize()
            with explained("copying from the GPU failed"):
                return self.download(tensor, dtype)
        if numpy_has(dtype.name):
            return np.from_dlpack(tensor)
        if dtype.itemsize == 1:
            return np.from_dlpack(self._as(tensor, "uint8")).view(dtype)
        return np.from_dlpack(self._as(tensor, "uint16")).view(dtype)

    def _as(self, tensor: Any, dtype: str) -> Any:
        """The tensor's own memory as another type of that size."""
        if str(tensor.dtype) == dtype:
            return tensor
        return self._view(tensor, self._ffi.Shape(tensor.shape), self._ffi.dtype(dtype), 0)

    def download(self, tensor: Any, dtype: np.dtype) -> np.ndarray:
        """A copy of a tensor of any device; waits for the device to have computed it."""
        array = np.empty(tensor.shape, dtype)
        self._to_bytes(tensor, ctypes.c_void_p(array.ctypes.data), array.nbytes)
        return array

    def to_arrays(
        self, specs: Sequence[TensorSpec], tensors: Sequence[Any], dtypes: Sequence[np.dtype]
    ) -> list[np.ndarray]:
        """Copies of a model's outputs on the GPU, when the stream used last has come there."""
        assert self._staging is not None
        names = [spec.name for spec in specs]
        with explained("copying from the GPU failed"):
            return self._staging.download(names, tensors, dtypes, self._last, self.synchronize)

    def as_type(self, tensor: Any, spec: TensorSpec) -> Any:
        """The tensor as what exports its values to others: of the type that the model declares."""
        return self._as(tensor, spec.dtype)

    def release(self) -> None:
        """Give back the memory kept for inputs and outputs.

        Raises:
            DeviceError: the device was lost, and the memory with it.
        """
        if self._staging is not None:
            self.synchronize()
            self._staging.release()

    def stream_of(self, values: Iterable[Any], stream: Any) -> int | None:
        """The address of a stream; where None is given, of torch's current one if a value is of torch and lies here."""
        if stream is not None:
            address = next((getattr(stream, a) for a in ("cuda_stream", "ptr") if hasattr(stream, a)), stream)
            if not isinstance(address, int):
                raise UsageError(f"{type(stream).__name__} is no CUDA stream")
            return self._not_captured(address)
        torch = sys.modules.get("torch")
        if torch is None or self.on_cpu:
            return None
        on_gpu = any(isinstance(value, torch.Tensor) and value.is_cuda for value in values)
        return self._not_captured(int(torch.cuda.current_stream().cuda_stream)) if on_gpu else None

    def _not_captured(self, stream: int) -> int:
        if stream and self._staging is not None and self._staging.capturing(stream):
            raise UsageError("a CUDA graph is being captured, which a model cannot be part of; run it outside")
        return stream

    @contextlib.contextmanager
    def using(self, stream: int | None, reads: bool = False) -> Iterator[None]:
        """Queue the block's work on a stream, after what this process queued before, which shares memory with it.

        Args:
            reads: the virtual machine looks at what is computed. It does so on the default stream, which other streams
                need not wait for: the work is queued there, between what was and what will be queued on `stream`.
        """
        if self.on_cpu:
            yield
            return
        asked = stream or 0
        address = self._last = 0 if reads else asked

        def follow(before: int, after: int) -> None:
            self._follow(self.device, before, after)

        with in_order(self.device.index, address, follow), self._ffi.use_raw_stream(self.device, address):
            if asked != address:
                follow(asked, address)
            yield
            if asked != address:
                follow(address, asked)

    def synchronize(self) -> None:
        """Wait for the work on the stream used last.

        Raises:
            OptkitError: it failed.
        """
        if not self.on_cpu:
            with explained("running the model failed"):
                self._wait(self.device, self._last)

    def copy(self, tensor: Any) -> Any:
        """The tensor in memory of its own, on its device."""
        copy = self._allocate(self._ffi.Shape(tensor.shape), tensor.dtype, tensor.device, None)
        if self._staging is None:
            self._copy(tensor, copy)
        else:
            with explained("copying on the GPU failed"), _kept_where_it_fails(copy):
                self._staging.queue(copy.data_ptr(), tensor.data_ptr(), bytes_of(tensor), self._last)
        return copy

    def to_device(self, tensor: Any, name: str | None = None) -> Any:
        """The tensor itself if it lies on this device, else a copy there: the input's of that name, or a new one."""
        if self.on_cpu or tensor.device == self.device:
            return tensor
        with explained("copying to the GPU failed"):
            if self._staging is not None and name is not None:
                return self._staging.upload(name, tensor, self._last)
            copy = self._allocate(self._ffi.Shape(tensor.shape), tensor.dtype, self.device, None)
            with _kept_where_it_fails(copy):
                self._copy(tensor, copy)
            return copy

    def from_input(self, spec: TensorSpec, value: Any, dtype: np.dtype | None = None, *, staged: bool = False) -> Any:
        """A tensor on this bridge's device with what the caller passed for an input.

        numpy arrays and whatever exports DLPack are used where they lie if they are contiguous, aligned
        and on the device; else they are copied. `dtype` is the input's, for a shorter way through. `staged`: on a
        GPU the copy is in memory kept for this input, and lasts until the next run.

        Raises:
            DataError: no array, or an element type other than the input's.
        """
        name = spec.name if staged else None
        if (
            isinstance(value, np.ndarray)
            and value.dtype is dtype
            and dtype.isbuiltin == 1
            and value.flags.c_contiguous
            and value.flags.writeable
            and value.size
        ):
            return self.to_device(self._aligned(self._ffi.from_dlpack(value), value), name)
        if isinstance(value, np.generic):
            value = np.asarray(value)
        if isinstance(value, np.ndarray):
            _check_dtype(spec, value.dtype.name)
            if not value.size:
                # numpy exports strides of an empty array that kernels do not take for contiguous.
                kind = self._ffi.dtype(storage(spec.dtype))
                return self._allocate(self._ffi.Shape(value.shape), kind, self.device, None)
            if not value.flags.c_contiguous or not value.flags.writeable or not value.dtype.isnative:
                value = _aligned_copy(value)
            tensor = self.from_array(value)
            return self.to_device(self._aligned(tensor, value), name)
        if not hasattr(value, "__dlpack__"):
            raise DataError(
                f"input {spec.name!r} must be an array (numpy, or anything with DLPack), not {type(value).__name__}"
            )
        try:
            tensor = self._ffi.from_dlpack(value)
        except Exception as e:
            raise DataError(f"input {spec.name!r}: its memory cannot be shared through DLPack: {e}") from e
        _check_dtype(spec, str(tensor.dtype))
        if tensor.dtype.bits < 8 and spec.dtype != "bool":
            raise DataError(f"input {spec.name!r} is {spec.dtype}, packed; pass a numpy array of one byte an element")
        device = tensor.device
        if device != self.device and device.dlpack_device_type() != _CPU:
            raise DataError(f"input {spec.name!r} is on {device}, the artifact runs on {self.device}; copy it")
        if not tensor.is_contiguous():
            if device.dlpack_device_type() != _CPU or not numpy_has(spec.dtype):
                raise DataError(f"input {spec.name!r} is not contiguous; make it so")
            tensor = self.from_array(_aligned_copy(np.from_dlpack(tensor)))
        aligned = self._aligned(tensor, None)
        return self.to_device(self._as(aligned, storage(spec.dtype)), name)

    def _aligned(self, tensor: Any, array: np.ndarray | None) -> Any:
        """Kernels use aligned vector loads: a tensor that they read where it lies is copied if it is not aligned."""
        if not self.on_cpu:
            here = tensor.device == self.device
            return self.copy(tensor) if here and tensor.data_ptr() % GPU_ALIGNMENT else tensor
        if tensor.data_ptr() % ALIGNMENT == 0:
            return tensor
        return self.from_array(_aligned_copy(self.to_array(tensor) if array is None else array))


@contextlib.contextmanager
def _kept_where_it_fails(tensor: Any) -> Iterator[None]:
    """Where a copy to a tensor fails the device may be lost, and the tensor's memory cannot be given back."""
    try:
        yield
    except Exception:
        abandon(tensor)
        raise


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An uninitialized array whose first byte is 64-byte aligned."""
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def _aligned_copy(array: np.ndarray) -> np.ndarray:
    copy = aligned_empty(array.shape, numpy_dtype(array.dtype.name))
    copy[...] = array
    return copy


def _check_dtype(spec: TensorSpec, found: str) -> None:
    if found != spec.dtype:
        raise DataError(f"input {spec.name!r} must be {spec.dtype}, got {found}")
