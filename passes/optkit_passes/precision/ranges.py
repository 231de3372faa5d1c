"""The range of every float tensor of a model, measured by running it.

The model is run by ONNX Runtime with a ReduceMin and a ReduceMax behind each tensor, so what comes back is
two numbers a tensor and sample, and memory grows neither with the number of samples nor with the tensors.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from optkit.errors import DataError
from optkit.measure.extents import accepted_extents, open_names
from optkit.model import save_model
from optkit.tidy import one_line
from optkit.transform import PassContext, Sample


@dataclass
class Range:
    """Smallest and largest value seen. ONNX Runtime's reductions overlook most NaNs, so these do too."""

    low: float = np.inf
    high: float = -np.inf

    def add(self, low: float, high: float) -> None:
        """Widen the range by another sample's."""
        self.low, self.high = float(np.minimum(self.low, low)), float(np.maximum(self.high, high))

    @property
    def magnitude(self) -> float:
        """Largest absolute value; 0 where nothing was seen."""
        return 0.0 if self.low > self.high else float(np.maximum(abs(self.low), abs(self.high)))


def measure_ranges(model: ir.Model, context: PassContext, samples: int) -> tuple[dict[str, Range], int, bool]:
    """Ranges of all float32 tensors of the main graph by name, the samples used, and whether they were real.

    Uses `context.calibration`, at most `samples` of it (0 is all); without it, four seeded random inputs.
    Raises DataError where the model cannot be run on a sample, or there is none.
    """
    feeds = context.calibration() if context.calibration is not None else random_samples(model, context.seed, 4)
    names = [value.name for value in _floats(model) if value.name]
    session = _session(model, names)
    ranges = {name: Range() for name in names}
    inputs = {value.name for value in model.graph.inputs}
    wanted = [f"{kind}:{name}" for name in names for kind in ("low", "high")]
    count = 0
    for sample in itertools.islice(feeds, samples or None):
        context.progress("measuring ranges", count, samples or None)
        feed = {name: np.asarray(array) for name, array in sample.items() if name in inputs}
        try:
            found = session.run(wanted, feed)
        except Exception as error:  # onnxruntime has exceptions of its own for each kind of failure
            raise DataError(f"calibration sample {count} does not run: {one_line(error)}") from error
        for name, low, high in zip(names, found[::2], found[1::2], strict=True):
            ranges[name].add(float(low), float(high))
        count += 1
    if not count:
        raise DataError("the calibration data is empty; give at least one sample")
    return ranges, count, context.calibration is not None


def _floats(model: ir.Model) -> Iterator[ir.Value]:
    """Float32 inputs and intermediate results of the main graph."""
    for value in (*model.graph.inputs, *(o for node in model.graph for o in node.outputs)):
        if value.dtype == ir.DataType.FLOAT and isinstance(value.type, ir.TensorType):
            yield value


def _session(model: ir.Model, names: list[str]) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    # Idle workers that spin would slow everything else down (FACTS: twofold and more).
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Nodes in their order, each reduction behind its tensor: by default all of them come last, and all tensors are
    # kept until then. Blocked layouts would have nodes of their own behind all others.
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    with tempfile.TemporaryDirectory(prefix="optkit-") as folder:
        # Through a file, because a model past 2 GB keeps its weights outside of it.
        path = Path(folder) / "model.onnx"
        save_model(model, path)
        proto = onnx.load(path, load_external_data=False)
        _watch(proto, names)
        path.write_bytes(proto.SerializeToString())
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _watch(proto: onnx.ModelProto, names: list[str]) -> None:
    """Make the smallest and largest value of each named tensor the model's only outputs."""
    wanted = set(names)
    nodes: list[onnx.NodeProto] = []
    del proto.graph.output[:]

    def watch(name: str) -> None:
        for kind, op_type in (("low", "ReduceMin"), ("high", "ReduceMax")):
            nodes.append(onnx.helper.make_node(op_type, [name], [f"{kind}:{name}"], keepdims=0))
            proto.graph.output.append(onnx.helper.make_tensor_value_info(f"{kind}:{name}", onnx.TensorProto.FLOAT, []))

    for value in proto.graph.input:
        if value.name in wanted:
            watch(value.name)
    for node in proto.graph.node:
        nodes.append(node)
        for name in wanted.intersection(node.output):
            watch(name)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def random_samples(model: ir.Model, seed: int, count: int) -> Iterator[Sample]:
    """Seeded inputs: normal floats, zeros and ones for integers; open axes have extents that the model takes."""
    shapes = [[d if isinstance(d, int) else d.value for d in v.shape or ()] for v in model.graph.inputs]
    extents: Mapping[str, int] = {}
    if names := open_names(shapes):
        extents = accepted_extents(model, shapes, lambda sizes: _draw(model, seed, 1, sizes), dict.fromkeys(names, 1))
    return _draw(model, seed, count, extents)


def _draw(model: ir.Model, seed: int, count: int, extents: Mapping[str, int]) -> Iterator[Sample]:
    for number in range(count):
        generator = np.random.default_rng([seed, number])
        sample: dict[str, np.ndarray] = {}
        for value in model.graph.inputs:
            shape = [d if isinstance(d, int) else extents.get(d.value or "", 1) for d in value.shape or ()]
            kind = (value.dtype or ir.DataType.FLOAT).numpy()
            if np.issubdtype(kind, np.floating):
                sample[value.name or ""] = generator.standard_normal(shape).astype(kind)
            else:
                sample[value.name or ""] = generator.integers(0, 2, shape).astype(kind)
        yield sample
