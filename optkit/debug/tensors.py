"""Intermediate tensors of a model, shown by ONNX Runtime sample by sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from optkit.measure.compare import Comparison
from optkit.measure.reference import Reference
from optkit.transform import Sample

GROUP_BYTES = 256 << 20
"""Tensors are exposed in groups whose values of one sample take no more than this."""
_UNKNOWN_BYTES = GROUP_BYTES // 32

OpenSamples = Callable[[], Iterator[Sample]]
Progress = Callable[[str, int, int | None], None]


def tensor_names(model: ir.Model) -> list[str]:
    """Names of the floating-point tensors that the main graph's nodes make, in graph order."""
    return [
        v.name
        for node in model.graph
        for v in node.outputs
        if v.name and v.dtype is not None and v.dtype.is_floating_point()
    ]


def expose(model: ir.Model, names: Iterable[str]) -> ir.Model:
    """A copy of the model with the tensors of these names as further outputs; weights are shared with the original.

    Names of tensors that it lacks, of inputs, and of tensors whose type is not known are left out.
    """
    copy = model.clone()
    wanted = dict.fromkeys(names)
    made = {v.name: v for node in copy.graph for v in node.outputs if v.name in wanted}
    for name in wanted:
        value = made.get(name)
        if value is not None and not value.is_graph_output() and value.type is not None:
            copy.graph.outputs.append(value)
    return copy


def groups(model: ir.Model, names: Sequence[str], extents: Mapping[str, int]) -> list[list[str]]:
    """`names` cut, in order, so that one sample's values of a group fit GROUP_BYTES.

    Args:
        extents: of the open axes, by name.
    """
    values = {v.name: v for node in model.graph for v in node.outputs}
    found: list[list[str]] = [[]]
    used = 0
    for name in names:
        size = _bytes(values.get(name), extents)
        if found[-1] and used + size > GROUP_BYTES:
            found.append([])
            used = 0
        used += size
        found[-1].append(name)
    return found


def open_extents(model: ir.Model, sample: Sample) -> dict[str, int]:
    """What the open axes of the model's inputs are in this sample."""
    found: dict[str, int] = {}
    for value in model.graph.inputs:
        if value.shape is not None and value.name is not None and value.name in sample:
            pairs = zip(value.shape, np.asarray(sample[value.name]).shape, strict=False)
            found.update((str(d), n) for d, n in pairs if not isinstance(d, int))
    return found


def _bytes(value: ir.Value | None, extents: Mapping[str, int]) -> int:
    if value is None or value.shape is None:
        return _UNKNOWN_BYTES  # only running tells
    return 4 * math.prod(d if isinstance(d, int) else extents.get(str(d), 1) for d in value.shape)


@dataclass(frozen=True)
class Pair:
    """Two tensors to compare.

    Attributes:
        key: what the result is called.
        first, second: names in the two models.
        decode: from the second one's integers to what they stand for.
    """

    key: str
    first: str
    second: str
    decode: Callable[[np.ndarray], np.ndarray] | None = None

    def take(self, sums: dict[str, Comparison], first: Sample, second: Sample) -> None:
        """Add one sample, where both models have the tensor and it has one shape."""
        if self.first not in first or self.second not in second:
            return
        a, b = first[self.first], second[self.second]
        b = b if self.decode is None else self.decode(b)
        if a.shape == b.shape:
            sums.setdefault(self.key, Comparison()).add(a, b)


def same_names(model: ir.Model) -> list[Pair]:
    """Every floating-point tensor of the model with the one of its name."""
    return [Pair(name, name, name) for name in tensor_names(model)]


def compare(
    first: ir.Model,
    second: ir.Model,
    pairs: Sequence[Pair],
    samples: OpenSamples,
    progress: Progress = lambda _what, _done, _total: None,
    what: str = "comparing",
) -> dict[str, Comparison]:
    """How far tensors of `second` lie from those of `first`, over all samples.

    Memory: both models, and one sample's tensors of a group. Pairs of which one is missing are left out.

    Raises:
        ModelError, DataError: ONNX Runtime cannot load or run one of both.
    """
    head = next(samples(), None)
    by_name: dict[str, list[Pair]] = {}
    for pair in pairs:
        by_name.setdefault(pair.first, []).append(pair)
    found: dict[str, Comparison] = {}
    parts = groups(first, list(by_name), {} if head is None else open_extents(first, head))
    for part in parts:
        wanted = [pair for name in part for pair in by_name[name]]
        left = Reference(expose(first, part))
        right = Reference(expose(second, [pair.second for pair in wanted]))
        for number, sample in enumerate(samples()):
            a, b = {**sample, **left.run(sample)}, {**sample, **right.run(sample)}
            for pair in wanted:
                pair.take(found, a, b)
            progress(what, number + 1, None)
    return found
