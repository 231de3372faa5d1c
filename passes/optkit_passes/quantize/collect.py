"""Runs the float model on calibration samples and shows every tensor of interest to its observer."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from optkit.errors import DataError
from optkit.transform import Sample

Observe = Callable[[np.ndarray], None]

GROUP_BYTES = 256 << 20
"""Tensors are exposed in groups whose values of one sample take no more than this."""

_INLINE_LIMIT = 1_000_000_000


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
        observers: by float32 tensor of the main graph.
        open_samples: opened once, or once a group of tensors where they are many.
        samples: use at most so many.

    Raises:
        DataError: no sample, one that the model does not take, or NaN or Inf, named by tensor and sample.
    """
    count = 0
    groups = _groups(model, list(observers), open_samples)
    for number, group in enumerate(groups):
        what = "calibrating" if len(groups) == 1 else f"calibrating, part {number + 1} of {len(groups)}"
        with exposed_session(model, group) as session:
            count = 0
            for sample in islice(open_samples(), samples):
                for value, array in _run(session, group, sample, count).items():
                    observers[value](array)
                count += 1
                progress(what, count, samples)
        if count == 0:
            raise DataError("calibration data is empty")
    return count


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
    arrays: dict[ir.Value, np.ndarray] = {}
    for value in values:
        array = np.asarray(sample[value.name or ""]) if value.is_graph_input() else found[value.name]
        if array.size and not (math.isfinite(array.min()) and math.isfinite(array.max())):
            bad = "NaN" if np.isnan(array).any() else "Inf"
            raise DataError(f"calibration sample {index}: tensor {value.name!r} holds {bad}")
        arrays[value] = array
    return arrays
