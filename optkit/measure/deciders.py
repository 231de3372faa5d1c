"""The values that decide how many rows an output has: what a detector's thresholds and suppression look at.

INT8 moves a score over a threshold, and an output has another number of rows than the FP32 original's, in every
runtime. Rows of both cannot be told apart then, but the values that chose them can: their shapes are fixed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from optkit.measure.compare import Comparison, Figures
from optkit.measure.reference import ModelSource, Reference
from optkit.model import load_model

_COUNTING = frozenset({"Compress", "NonMaxSuppression", "NonZero", "Unique"})
"""Operators whose output has as many rows as values say."""


def distance(
    source: ModelSource, emitted: ir.Model, output: str, samples: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, Figures]:
    """How far the emitted model's deciding values lie from the original's, by name, in ONNX Runtime.

    Compared are those that no other counting operator comes before; empty where the emitted model has none of them.

    Raises:
        ModelError, DataError: ONNX Runtime cannot load or run a model.
    """
    original = source if isinstance(source, ir.Model) else load_model(source)
    kept = {value.name for value in _values(emitted)}
    names = [name for name in deciding(original, output) if name in kept]
    comparisons = {name: Comparison() for name in names}
    if names:
        first, second = (_watch(model, names) for model in (original, emitted))
        for sample in samples:
            expected, found = first.run(sample), second.run(sample)
            for name, comparison in comparisons.items():
                comparison.add(expected[name], found[name])
    return {name: comparison.figures() for name, comparison in comparisons.items()}


def deciding(model: ir.Model, output: str) -> list[str]:
    """Names of the floats that the first counting operators before an output look at, in graph order."""
    ancestors = _ancestors(value for value in model.graph.outputs if value.name == output)
    counted: set[ir.Value] = set()
    found: dict[str, None] = {}
    for node in (node for node in model.graph if node in ancestors):
        if any(value in counted for value in node.inputs):
            counted.update(node.outputs)
        elif node.op_type in _COUNTING:
            counted.update(node.outputs)
            found.update((value.name or "", None) for value in _floats(node))
    return list(found)


def _ancestors(values: Iterator[ir.Value]) -> set[ir.Node]:
    found: set[ir.Node] = set()
    pending = [value.producer() for value in values]
    while pending:
        node = pending.pop()
        if node is not None and node not in found:
            found.add(node)
            pending.extend(value.producer() for value in node.inputs if value is not None)
    return found


def _floats(node: ir.Node) -> Iterator[ir.Value]:
    """The nearest floating-point values before a node that are no constants."""
    for value in node.inputs:
        if value is None or ir.convenience.get_const_tensor(value) is not None:
            continue
        producer = value.producer()
        if value.dtype is not None and value.dtype.is_floating_point():
            yield value
        elif producer is not None:
            yield from _floats(producer)


def _values(model: ir.Model) -> Iterator[ir.Value]:
    yield from model.graph.inputs
    for node in model.graph:
        yield from node.outputs


def _watch(model: ir.Model, names: Sequence[str]) -> Reference:
    """ONNX Runtime on the model with these values as further outputs."""
    outputs = model.graph.outputs
    present = {value.name for value in outputs}
    extra = [value for value in _values(model) if value.name in names and value.name not in present]
    outputs.extend(extra)
    try:
        return Reference(model)
    finally:
        del outputs[len(outputs) - len(extra) :]
