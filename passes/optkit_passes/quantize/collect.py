"""Runs the float model on calibration samples and shows every tensor of interest to its observer."""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from optkit.errors import DataError
from optkit.transform import Sample

Observe = Callable[[np.ndarray], tuple[float, float] | None]
"""Takes in a tensor of one run. It may return the smallest and largest value, which saves looking for NaN and Inf;
each tensor has an observer of its own, for those of one run are called at the same time in several threads."""

GROUP_BYTES = 256 << 20
"""Tensors are exposed in groups whose values of one sample take no more than this."""

_INLINE_LIMIT = 1_000_000_000
_THREADS = 8
_WORTH_THREADS = 1 << 20
"""Bytes of one run's tensors from which it pays to look at them in several threads."""


def collect(
    model: ir.Model,
    observers: Mapping[ir.Value, Observe],
    open_samples: Callable[[], Iterator[Sample]],
    *,
    samples: int | None = None,
    progress: Callable[[str, int, int | None], None] = lambda _what, _done, _total: None,
) -> int:
    """Show each tensor's values to its observer, sample by sample; returns the number of samples.

    Memory: the model, one sample's tensors of interest, and the observers.

    Args:
        observers: by float32 tensor of the main graph, in graph order.
        open_samples: opened once, or once a group of tensors where they are many.
        samples: use at most so many.

    Raises:
        DataError: no sample, one that the model does not take, or NaN or Inf, named by tensor and sample.
    """
    count = 0
    groups = _groups(model, list(observers), open_samples)
    with ThreadPoolExecutor(min(_THREADS, len(os.sched_getaffinity(0)))) as pool:
        for number, group in enumerate(groups):
            what = "calibrating" if len(groups) == 1 else f"calibrating, part {number + 1} of {len(groups)}"
            with exposed_session(model, group) as session:
                count = 0
                for sample in islice(open_samples(), samples):
                    _show(_run(session, group, sample, count), observers, count, pool)
                    count += 1
                    progress(what, count, samples)
            if count == 0:
                raise DataError("calibration data is empty")
    return count


def _show(
    arrays: Mapping[ir.Value, np.ndarray], observers: Mapping[ir.Value, Observe], index: int, pool: ThreadPoolExecutor
) -> None:
    """Every array to its observer; of those that hold NaN or Inf, the first is named."""

    def look(item: tuple[ir.Value, np.ndarray]) -> bool:
        value, array = item
        if array.size == 0:
            return True
        ends = observers[value](array) or (float(array.min()), float(array.max()))
        return math.isfinite(ends[0]) and math.isfinite(ends[1])  # NaN is both the least and the largest to numpy

    worth = sum(a.nbytes for a in arrays.values()) >= _WORTH_THREADS
    finite = (pool.map if worth else map)(look, arrays.items())
    for (value, array), fine in zip(arrays.items(), finite, strict=True):
        if not fine:
            bad = "NaN" if np.isnan(array).any() else "Inf"
            raise DataError(f"calibration sample {index}: tensor {value.name!r} holds {bad}")


def _groups(
    model: ir.Model, values: list[ir.Value], open_samples: Callable[[], Iterator[Sample]]
) -> list[list[ir.Value]]:
    """Cut `values`, in graph order, so that a sample's worth of a group fits GROUP_BYTES."""
    first = next(open_samples(), None)
    if first is None:
        raise DataError("calibration data is empty")
    axes: dict[object, int] = {}  # what the open axes of the model's inputs are in this data
    for value in model.graph.inputs:
        if value.shape is not None and value.name is not None and value.name in first:
            have = np.asarray(first[value.name]).shape
            axes.update((d, n) for d, n in zip(value.shape, have, strict=False) if isinstance(d, ir.SymbolicDim))
    groups: list[list[ir.Value]] = [[]]
    used = 0
    for value in values:
        size = _bytes(value, axes)
        used += size
        if groups[-1] and used > GROUP_BYTES:
            groups.append([])
            used = size
        groups[-1].append(value)
    return groups


def _bytes(value: ir.Value, axes: Mapping[object, int]) -> int:
    if value.shape is None:
        return GROUP_BYTES // 32  # only running tells
    return 4 * math.prod(d if isinstance(d, int) else axes.get(d, 1) for d in value.shape)


@contextlib.contextmanager
def exposed_session(model: ir.Model, values: Sequence[ir.Value]) -> Iterator[Any]:
    """An ONNX Runtime session of `model` whose outputs include `values`."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised, in one line
    # between runs the cores look at the tensors; ONNX Runtime's threads would keep them busy waiting
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    outputs = model.graph.outputs
    extra = [v for v in values if not v.is_graph_output() and not v.is_graph_input()]
    before = len(outputs)
    outputs.extend(extra)
    try:
        weights = [v.const_value for v in model.graph.initializers.values() if v.const_value is not None]
        if sum(t.nbytes for t in weights) < _INLINE_LIMIT and not any(
            isinstance(t, ir.ExternalTensor) for t in weights
        ):
            source = ir.to_proto(model).SerializeToString()
            yield ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        else:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model.onnx"
                ir.save(model, path, external_data="weights.bin")
                yield ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    finally:
        while len(outputs) > before:
            outputs.pop()  # deleting a slice would leave the values marked as outputs (onnx_ir 1.1)


def _run(session: Any, values: Sequence[ir.Value], sample: Sample, index: int) -> dict[ir.Value, np.ndarray]:
    names = [v.name for v in values if not v.is_graph_input()]
    try:
        found = dict(zip(names, session.run(names, dict(sample)) if names else (), strict=True))
    except Exception as error:  # ONNX Runtime's own exceptions share no base
        text = " ".join(str(error).split())[:300]
        raise DataError(f"calibration sample {index}: the model does not take it: {text}") from error
    return {v: np.asarray(sample[v.name or ""]) if v.is_graph_input() else found[v.name] for v in values}
