"""Small networks with one thing wrong in them, and passes and kernels that are wrong."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import onnx
import onnx_ir as ir

from optkit.transform import Finding, Pass, PassContext, Result, option
from tests.graphs import proto, weights

BODY = """
    c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
    r1 = Relu (c1)
    c2 = Conv <pads = [1, 1, 1, 1]> (r1, w2, b2)
    r2 = Relu (c2)
    c3 = Conv <pads = [1, 1, 1, 1]> (r2, w3, b3)
    r3 = Relu (c3)
    p = GlobalAveragePool (r3)
    f = Flatten (p)
    y = Gemm <transB = 1> (f, w4, b4)
"""


def network(body: str = BODY, **changed: np.ndarray) -> onnx.ModelProto:
    """Three convolutions and a classifier; nodes are named after what they make."""
    constants = {
        "w1": weights(8, 3, 3, 3, seed=1, scale=0.3),
        "b1": weights(8, seed=2, scale=0.1),
        "w2": weights(8, 8, 3, 3, seed=3, scale=0.2),
        "b2": weights(8, seed=4, scale=0.1),
        "w3": weights(8, 8, 3, 3, seed=5, scale=0.2),
        "b3": weights(8, seed=6, scale=0.1),
        "w4": weights(5, 8, seed=7),
        "b4": weights(5, seed=8, scale=0.1),
        **changed,
    }
    model = proto(body, outputs="float[n,5] y", **constants)
    for node in model.graph.node:
        node.name = f"{node.op_type}_{node.output[0]}"
    return model


def images(count: int = 8) -> dict[str, np.ndarray]:
    """Calibration data for it."""
    return {"x": weights(count, 3, 8, 8, seed=20)}


@dataclass(frozen=True)
class Spoil(Pass):
    """Add to one number of a weight."""

    name: ClassVar[str] = "spoil"
    weight: str = option("w2", "the initializer to spoil")
    by: float = option(1.0, "what to add")

    def run(self, model: ir.Model, context: PassContext) -> Result:
        """Spoil it where the model has it."""
        value = model.graph.initializers.get(self.weight)
        if value is None or value.const_value is None:
            return Result(model, False)
        array = value.const_value.numpy().copy()
        array.flat[0] += self.by
        value.const_value = ir.tensor(array, name=self.weight)
        return Result(model, True, [Finding("changed", self.weight, "spoiled")])


def tanh_for(own: Any, only_inside: bool = False) -> Any:
    """A converter of Sigmoid that computes a hyperbolic tangent; `only_inside`: where its output is not the model's."""

    def wrong(low: Any, node: Any, inputs: Any) -> Any:
        if only_inside and node.source.outputs[0].is_graph_output():
            return own(low, node, inputs)
        return own(low, replace(node, op_type="Tanh"), inputs)

    return wrong
