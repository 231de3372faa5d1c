"""Streams of one's own, memory that several models share, and page-locked memory, on an emulated GPU."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
from onnx import numpy_helper

import optkit
from optkit.errors import OptkitError
from optkit.model import to_proto
from optkit.runtime import staging
from tests.targets.cuda import models
from tests.targets.cuda.emulator.reports import sample, say


def new_stream() -> ctypes.c_void_p:
    """One that does not wait for the default stream, nor that for it, as those of torch."""
    stream = ctypes.c_void_p()
    ctypes.CDLL("libcudart.so.13").cudaStreamCreateWithFlags(ctypes.byref(stream), 1)
    return stream


def other_stream(path: Path) -> None:
    """Run on a stream of one's own, before and while it is captured, and after."""
    library, stream, graph = ctypes.CDLL("libcudart.so.13"), new_stream(), ctypes.c_void_p()
    with optkit.load(path) as runner:
        feed = sample(runner)
        wanted = runner.run(feed)

        def equal() -> bool:
            outputs = runner.run_on_device(feed, stream=stream.value)
            library.cudaStreamSynchronize(stream)
            return all(
                np.array_equal(runner._bridge.download(outputs[name], array.dtype), array)
                for name, array in wanted.items()
            )

        before = equal()
        library.cudaStreamBeginCapture(stream, 0)
        try:
            runner.run_on_device(feed, stream=stream.value)
            error = ""
        except OptkitError as refused:
            error = str(refused)
        library.cudaStreamEndCapture(stream, ctypes.byref(graph))
        say(reads=runner.manifest.reads_values, before=before, error=error, after=equal())


def several(path: Path) -> None:
    """A model twice on streams of their own, one given memory that the other gave back; and an input's odd address."""
    library, event = ctypes.CDLL("libcudart.so.13"), ctypes.c_void_p()
    library.cudaEventCreate(ctypes.byref(event))
    with optkit.load(path) as one, optkit.load(path) as other:
        first, second = new_stream(), new_stream()
        (name,), (result,) = [s.name for s in one.inputs], [s.name for s in one.outputs]
        array = sample(one)[name]
        wanted, negative = one.run({name: array})[result], other.run({name: -array})[result]
        bridge = one._bridge
        here, there = (bridge.to_device(bridge.from_array(values)) for values in (array, -array))
        output = one.run_on_device({name: here}, stream=first.value)[result]
        library.cudaEventRecord(event, first)
        place = output.data_ptr()
        with bridge.using(first.value):
            copy = bridge.copy(output)
        del output  # what reads it is queued; the next run lets go of it
        one.run_on_device({name: here}, stream=first.value)
        output = other.run_on_device({name: there}, stream=second.value)[result]
        shared = output.data_ptr() == place
        library.cudaEventSynchronize(event)
        library.cudaStreamSynchronize(second)
        library.cudaStreamSynchronize(first)
        found = [(copy, wanted), (output, negative)]
        long = bridge.to_device(bridge.from_array(np.concatenate([np.zeros(1, array.dtype), array.ravel()])))
        odd = bridge._view(long, bridge._ffi.Shape(array.shape), long.dtype, array.itemsize)
        found.append((one.run_on_device({name: odd})[result], wanted))
        one.synchronize()
        moved = bridge.from_input(one.inputs[0], odd)
        say(
            shared=shared and not np.array_equal(wanted, negative),
            equal=[np.array_equal(bridge.download(tensor, array.dtype), array) for tensor, array in found],
            addresses=[odd.data_ptr() % 16, moved.data_ptr() % 16],
        )


def stage(folder: Path, limit: str) -> None:
    """Arrays of changing extents through a model, with so many bytes page-locked at most."""
    path, out = folder / "passing.onnx", folder / "passing.optk"
    path.write_bytes(to_proto(models.passing()).SerializeToString())
    optkit.compile(path, target="cuda", passes="default", output=out, verify=False)
    staging.LIMIT = int(limit)
    library = ctypes.CDLL("libcudart.so.13")
    stream = new_stream()
    library.emulated_copies_on.argtypes = (ctypes.c_void_p,)
    weight = numpy_helper.to_array(to_proto(models.passing()).graph.initializer[0])
    rng = np.random.default_rng(0)
    feeds = [
        {"x": rng.standard_normal((n, 16)).astype("f"), "z": rng.standard_normal((n, 8)).astype("f")}
        for n in (2, 5, 5, 3)
    ]

    def right(found: dict[str, np.ndarray], feed: dict[str, np.ndarray]) -> bool:
        close = np.allclose(found["y"], feed["x"] @ weight + feed["z"], atol=1e-5)
        return close and np.array_equal(found["same"], feed["x"])

    with optkit.load(out) as runner:
        runner.run({name: array[:1] for name, array in feeds[0].items()})
        before = library.emulated_pageable()
        results = [runner.run(feed) for feed in feeds]
        pageable = library.emulated_pageable() - before
        locked = library.emulated_locked()
        # Nobody waits between these, and none may take another's memory.
        queued = [runner.run_on_device(feed, stream=stream.value) for feed in feeds]
        copied = library.emulated_copies_on(stream)
        runner.synchronize()
        kept = [{n: runner._bridge.download(t, np.dtype("f")) for n, t in outputs.items()} for outputs in queued]
        say(
            pageable=pageable,
            locked=locked,
            right=[right(found, feed) for found, feed in zip(results, feeds, strict=True)],
            kept=[right(found, feed) for found, feed in zip(kept, feeds, strict=True)],
            copied=copied,
            error=library.cudaPeekAtLastError(),
        )
    say(left=library.emulated_locked())
