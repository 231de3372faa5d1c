"""A loaded model."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import numpy as np

from optkit.artifact.manifest import WITHOUT_GRAPH, Manifest
from optkit.artifact.spec import TensorSpec
from optkit.errors import DeviceError, OptkitError, UsageError
from optkit.runtime.binding import bind_names, check_shapes
from optkit.runtime.failures import abandon, failure
from optkit.runtime.tensors import TensorBridge
from optkit.runtime.threads import checked, configure, default_threads


class Runner:
    """Runs one artifact. Made by `optkit.load`; may be shared between threads, which then take turns.

    Attributes:
        manifest: what the artifact says about itself.
    """

    def __init__(
        self,
        manifest: Manifest,
        ffi: Any,
        vm: Any,
        bridge: TensorBridge,
        weights: Sequence[Any],
        threads: int | None,
        parts: Callable[..., Any] | None = None,
    ) -> None:
        self.manifest = manifest
        self._ffi = ffi
        self._vm = vm
        self._bridge = bridge
        self._weights = tuple(weights)
        self._parts = parts
        self._main: tuple[Any, tuple[Any, ...]] = (parts, ())
        self._variants: dict[Any, tuple[Any, tuple[Any, ...]]] = {}
        self._seen: list[Any] = []
        self._choose_entries("")
        self._kept = {w.data_ptr() for w in weights}
        self._input_types = [spec.numpy for spec in manifest.inputs]
        self._output_types = [spec.numpy for spec in manifest.outputs]
        self._threads = default_threads() if threads is None else checked(threads)
        self._lock = threading.Lock()
        self._own_thread: ThreadPoolExecutor | None = None

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The model's inputs in order."""
        return self.manifest.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The model's outputs in order."""
        return self.manifest.outputs

    @property
    def threads(self) -> int:
        """Threads that one run uses; may be set between runs."""
        return self._threads

    @threads.setter
    def threads(self, count: int) -> None:
        self._threads = checked(count)

    def __call__(self, *positional: Any, **named: Any) -> dict[str, np.ndarray]:
        """Run with inputs in order or by name; see `run`."""
        return self._run(positional, named)

    def run(self, feed: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Run the model once.

        Args:
            feed: input name to numpy array, or to anything that exports DLPack (torch tensors). Not
                copied if contiguous, 64-byte aligned and on the artifact's device.

        Returns:
            Output name to an array of its own memory.

        Raises:
            DataError: a wrong name, rank, shape or element type.
            OptkitError: the model itself failed, for example out of memory.
        """
        return self._run((), feed)

    def run_on_device(self, feed: Mapping[str, Any], stream: Any = None) -> dict[str, Any]:
        """Run the model once and leave the outputs where they were computed.

        On a GPU the work is only queued: on the stream that is given, else on torch's current one where an input is a
        tensor of torch on that GPU, else on the default stream. Nothing passes through the host but inputs that lie
        there.

        Args:
            feed: as for `run`.
            stream: a CUDA stream as its address, or an object with one (torch.cuda.Stream, cupy.cuda.Stream).

        Returns:
            Output name to a tensor that exports DLPack: `torch.from_dlpack(y)`, `cupy.from_dlpack(y)`.

        Raises:
            DataError, OptkitError: as for `run`; what the GPU meets later is raised by whoever waits for it.
            UsageError: the stream is being captured as a CUDA graph.
        """
        bridge, values = self._bridge, bind_names(self.inputs, (), feed)
        address = bridge.stream_of(feed.values(), stream)
        if bridge.on_cpu:
            results = self._owned(*self._on_cpu(values))
        else:
            with self._lock, self._on_device(address):
                tensors = self._placed(values)
                results = self._owned(tensors, self._call(tensors))
        return {spec.name: bridge.as_type(t, spec) for spec, t in zip(self.outputs, results, strict=True)}

    def synchronize(self) -> None:
        """Wait for what was queued on a GPU.

        Raises:
            OptkitError: it failed.
        """
        with self._surviving():
            self._bridge.synchronize()

    def instrument(self, note: Callable[..., int] | None) -> None:
        """Call `note(function, name, before, result, *arguments)` before and after every call of a run; None: stop.

        For measuring; see `optkit.runtime.profile`. Meanwhile no CUDA graph is used: every kernel is a call.
        """
        if self._vm is None:
            raise UsageError("the runner is closed; load the artifact again")
        self._vm["set_instrument"](note if note is not None else lambda *_: 0)
        self._choose_entries("" if note is None else WITHOUT_GRAPH)

    def _choose_entries(self, ending: str) -> None:
        """Use the entries with this behind their names, where there are such."""
        manifest, self._seen = self.manifest, []
        if not self._parts:
            self._main = self._function(manifest.entry, ending), self._weights[: manifest.entry_weights]
        self._variants = {
            v.shapes: (self._function(v.entry, ending), tuple(self._weights[i] for i in v.weights))
            for v in manifest.variants
        }
        self._entry, self._arguments = self._main

    def _function(self, name: str, ending: str) -> Any:
        try:
            return self._vm[name + ending]
        except AttributeError:
            return self._vm[name]

    def _run(self, positional: Sequence[Any], named: Mapping[str, Any]) -> dict[str, np.ndarray]:
        values, bridge = bind_names(self.inputs, positional, named), self._bridge
        if not bridge.on_cpu:
            with self._lock:
                with self._on_device(None):
                    results = self._call(self._placed(values))
                with self._surviving():
                    arrays = bridge.to_arrays(self.outputs, results, self._output_types)
            return {spec.name: array for spec, array in zip(self.outputs, arrays, strict=True)}
        tensors, results = self._on_cpu(values)
        # What a model passes through is the caller's memory or the weights': the caller gets a copy.
        shared = self._kept | {t.data_ptr() for t in tensors}
        outputs = {}
        for spec, tensor, dtype in zip(self.outputs, results, self._output_types, strict=True):
            array = bridge.to_array(tensor, dtype)
            address = tensor.data_ptr()
            outputs[spec.name] = array.copy() if address in shared else array
            shared.add(address)
        return outputs

    @contextlib.contextmanager
    def _on_device(self, stream: int | None) -> Iterator[None]:
        """Queue the block's work on a stream of the GPU."""
        with self._surviving(), self._bridge.using(stream, self.manifest.reads_values):
            yield

    @contextlib.contextmanager
    def _surviving(self) -> Iterator[None]:
        """What the block says of a lost GPU is raised; what lies there is left there."""
        try:
            yield
        except DeviceError:
            abandon(self._vm, self._entry, self._main, self._variants, self._weights, self._bridge)
            raise

    def _on_cpu(self, values: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """The inputs and the outputs of a run as tensors."""
        with self._lock:
            tensors = self._placed(values)
            return tensors, self._invoke(tensors)

    def _owned(self, tensors: Sequence[Any], results: Sequence[Any]) -> list[Any]:
        """The outputs, each in memory that neither inputs nor weights nor other outputs have."""
        taken, owned = self._kept | {t.data_ptr() for t in tensors}, []
        for tensor in results:
            own = self._bridge.copy(tensor) if tensor.data_ptr() in taken else tensor
            taken.add(own.data_ptr())
            owned.append(own)
        return owned

    def _placed(self, values: Sequence[Any]) -> list[Any]:
        """The inputs on the device, and the entry for their shapes chosen."""
        tensors = [
            self._bridge.from_input(spec, value, dtype, staged=True)
            for spec, value, dtype in zip(self.inputs, values, self._input_types, strict=True)
        ]
        shapes = [t.shape for t in tensors]
        if shapes != self._seen:
            check_shapes(self.inputs, shapes, self.manifest.ranges)
            self._seen = shapes
            self._entry, self._arguments = self._variants.get(tuple(map(tuple, shapes)), self._main)
        return tensors

    def _invoke(self, tensors: list[Any]) -> list[Any]:
        if self._own_thread is not None:
            return self._own_thread.submit(self._call_elsewhere, tensors).result()
        if configure(self._ffi, self._threads) < self._threads:
            # Something else in this thread made a smaller pool of TVM's, which cannot grow any more.
            self._own_thread = ThreadPoolExecutor(1, thread_name_prefix="optkit-runner")
            return self._invoke(tensors)
        return self._call(tensors)

    def _call_elsewhere(self, tensors: list[Any]) -> list[Any]:
        configure(self._ffi, self._threads)
        return self._call(tensors)

    def _call(self, tensors: list[Any]) -> list[Any]:
        if self._vm is None:
            raise UsageError("the runner is closed; load the artifact again")
        try:
            result = self._entry(*tensors, *self._arguments)
        except Exception as error:
            raise failure("running the model failed", error) from error
        return [result] if isinstance(result, self._ffi.Tensor) else list(result)

    def close(self) -> None:
        """Release the weights and the virtual machine; outputs stay valid. Closing twice is fine."""
        with self._lock:
            with contextlib.suppress(OptkitError), self._surviving():  # whoever runs the model was told
                self._bridge.release()
            self._vm = self._entry = self._parts = None
            self._main, self._variants = (None, ()), {}
            self._weights = self._arguments = ()
            if self._own_thread is not None:
                self._own_thread.shutdown()
                self._own_thread = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
