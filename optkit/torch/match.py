"""Which node of a traced module makes which tensor of its ONNX form: told by the values that both compute.

The exporter decomposes, names and fuses as it likes; on the same input, the same tensor holds the same values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import fx

from optkit.errors import ModelError
from optkit.model import to_proto

NORM_TOLERANCE = 1e-3
"""Of values that are the same but for the order of sums; different tensors differ by about 1."""


@dataclass(frozen=True)
class Values:
    """What the nodes of a traced module hold for one input.

    Attributes:
        arrays: by node, in the order they run; float tensors only.
        first: by node, the first one that holds the same values, such as what a dropout in eval mode reads.
    """

    arrays: Mapping[str, np.ndarray]
    first: Mapping[str, str]

    def find(self, want: np.ndarray, tolerance: float = NORM_TOLERANCE) -> str | None:
        """The node whose tensor is nearest to `want`, or None where none is as near as `tolerance` (of its norm)."""
        best, least = None, tolerance
        norm = max(float(np.linalg.norm(want)), 1e-30)
        for name, array in self.arrays.items():
            if array.shape == want.shape and self.first[name] == name:
                distance = float(np.linalg.norm(array - want)) / norm
                if distance < least:
                    best, least = name, distance
        return best


class _Recorder(fx.Interpreter):  # type: ignore[misc]
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.arrays: dict[str, np.ndarray] = {}

    def run_node(self, n: fx.Node) -> Any:
        answer = super().run_node(n)
        if n.op not in ("output", "get_attr") and isinstance(answer, torch.Tensor) and answer.dtype == torch.float32:
            self.arrays[n.name] = answer.detach().cpu().numpy().copy()
        return answer


def record(module: fx.GraphModule, args: Sequence[Any]) -> Values:
    """Run a traced module in eval mode and keep what every node makes."""
    recorder = _Recorder(module)
    with torch.no_grad():
        recorder.run(*args)
    first: dict[str, str] = {}
    for node in module.graph.nodes:
        if node.name in recorder.arrays:
            array = recorder.arrays[node.name]
            same = [
                first[source.name]
                for source in node.all_input_nodes
                if source.name in recorder.arrays and np.array_equal(recorder.arrays[source.name], array)
            ]
            first[node.name] = same[0] if same else node.name
    return Values(recorder.arrays, first)


def run_onnx(model: ir.Model, args: Sequence[Any], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Tensors of a float ONNX model by name, through ONNX Runtime, optimizations off."""
    import onnxruntime

    proto = to_proto(model)
    known = {o.name for o in proto.graph.output} | {i.name for i in proto.graph.input}
    proto.graph.output.extend(type(proto.graph.output[0])(name=name) for name in names if name not in known)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    inputs = [i.name for i in session.get_inputs()]
    if len(inputs) != len(args):
        raise ModelError(f"the exported model has {len(inputs)} inputs for {len(args)} example inputs")
    feed = {name: arg.detach().cpu().numpy() for name, arg in zip(inputs, args, strict=True)}
    wanted = [name for name in names if name not in feed]
    found = dict(zip(wanted, session.run(wanted, feed) if wanted else (), strict=True))
    return {name: feed[name] if name in feed else np.asarray(found[name]) for name in names}
