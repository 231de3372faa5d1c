"""Writing function bodies: nodes one after the other, names made up on the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir


class Writer:
    """A body under construction.

    Attributes:
        inputs: one a input of the node the body is for; None where the node leaves it out.
    """

    def __init__(self, node: ir.Node) -> None:
        self.node = node
        self._inputs = [ir.Value(name=f"in{i}") for i in range(len(node.inputs))]
        self.inputs = [v if given is not None else None for v, given in zip(self._inputs, node.inputs, strict=True)]
        self._nodes: list[ir.Node] = []

    def __call__(self, op_type: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """Add a node with one output."""
        return self.several(op_type, 1, *inputs, **attributes)[0]

    def several(self, op_type: str, count: int, *inputs: ir.Value | None, **attributes: Any) -> Sequence[ir.Value]:
        """Add a node with `count` outputs."""
        outputs = [ir.Value(name=f"t{len(self._nodes)}_{i}") for i in range(count)]
        given = {k: v for k, v in attributes.items() if v is not None}
        domain = given.pop("domain", "")
        node = ir.node(op_type, inputs, given, domain=domain, outputs=outputs, name=f"n{len(self._nodes)}")
        self._nodes.append(node)
        return outputs

    def constant(self, value: Any, dtype: str = "int64") -> ir.Value:
        """A constant tensor."""
        return self("Constant", value=ir.tensor(np.asarray(value, dtype)))

    def like(self, number: float, value: ir.Value) -> ir.Value:
        """A number in the type of `value`."""
        return self("CastLike", self.constant(number, "float32"), value)

    def input(self, at: int) -> ir.Value | None:
        """An input, None where it is left out."""
        return self.inputs[at] if at < len(self.inputs) else None

    def need(self, at: int) -> ir.Value:
        """An input that must be there."""
        value = self.input(at)
        if value is None:
            raise ValueError(f"{self.node.op_type} needs its input {at}")
        return value

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute's value."""
        found = self.node.attributes.get(name)
        return default if found is None else found.value

    def finish(self, *outputs: ir.Value | None) -> ir.Function:
        """The function; outputs that the node does not have are left out."""
        kept = [v if v is not None else self("Identity", self.need(0)) for v in outputs[: len(self.node.outputs)]]
        graph = ir.Graph(self._inputs, kept, nodes=self._nodes, opset_imports={"": 1})
        return ir.Function(self.node.domain, self.node.op_type, graph=graph, attributes=[])


__all__ = ["Writer"]
