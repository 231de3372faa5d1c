"""What the error of one layer does to the model's outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from optkit.debug.judge import Outputs
from optkit.measure.reference import Reference
from optkit.transform import Sample

_PREFIX = "optkit_debug_error_"


class Effects:
    """A model with something to be added at the output of every layer, one at a time.

    In the float model that is a layer's own error: then all others are float. In the quantized one it is what
    repairs a layer: then all others are quantized.

    Args:
        tensors: names of the layers' outputs in it.
    """

    def __init__(self, model: ir.Model, tensors: Sequence[str]) -> None:
        copy = model.clone()
        names = [v.name for v in copy.graph.outputs]
        made = {v.name: v for node in copy.graph for v in node.outputs}
        self._inputs: dict[str, str] = {}
        for number, name in enumerate(dict.fromkeys(tensors)):
            value = made.get(name)
            if value is None or value.dtype != ir.DataType.FLOAT:
                continue
            error = ir.Value(name=f"{_PREFIX}{number}", type=ir.TensorType(ir.DataType.FLOAT))
            copy.graph.inputs.append(error)
            _insert(value, error)
            self._inputs[name] = error.name or ""
        self._outputs = dict(zip((v.name or "" for v in copy.graph.outputs), (n or "" for n in names), strict=True))
        self._session = Reference(copy)
        self._zero = dict.fromkeys(self._inputs.values(), np.zeros((), np.float32))
        self._sums = {name: Outputs() for name in self._inputs}
        self._plain = Outputs()
        self._exact: Mapping[str, np.ndarray] = {}
        self._sample: Sample = {}

    def start(self, sample: Sample, exact: Mapping[str, np.ndarray] | None = None) -> Mapping[str, np.ndarray]:
        """Begin a sample whose exact outputs are `exact`, by default this model's own, which are returned."""
        self._sample = sample
        plain = self._run({})
        self._exact = plain if exact is None else exact
        self._plain.add(self._exact, plain)
        return plain

    def add(self, tensor: str, error: np.ndarray) -> None:
        """Run the sample with `error` added to one layer's output."""
        if tensor in self._inputs:
            found = self._run({self._inputs[tensor]: error.astype(np.float32)})
            self._sums[tensor].add(self._exact, found)

    def plain_db(self) -> float | None:
        """SQNR, dB, of the worst output with nothing added."""
        return self._plain.sqnr_db()

    def sqnr_db(self, tensor: str) -> float | None:
        """SQNR, dB, of the worst output over all samples; None where no output shows it."""
        return self._sums[tensor].sqnr_db() if tensor in self._sums else None

    def _run(self, errors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = self._session.run({**self._sample, **self._zero, **errors})
        return {self._outputs[name]: array for name, array in found.items()}


def _insert(value: ir.Value, error: ir.Value) -> None:
    """Let every reader of `value`, the model's outputs included, read value + error."""
    producer = value.producer()
    assert producer is not None and producer.graph is not None
    out = ir.Value(name=f"{value.name}_{error.name}", shape=value.shape, type=value.type)
    ir.convenience.replace_all_uses_with(value, out, replace_graph_outputs=True)
    node = ir.Node("", "Add", [value, error], outputs=[out], name=f"{error.name}_add")
    producer.graph.insert_after(producer, node)
