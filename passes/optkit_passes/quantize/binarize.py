"""Binary weights: one bit a weight and one scale an output channel. Experimental."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from optkit.errors import UsageError, nearest
from optkit.tidy import infer_shapes
from optkit.transform import Finding, Pass, PassContext, Result, option
from optkit_passes.quantize.anchors import Anchor, make_anchor
from optkit_passes.quantize.ends import ends
from optkit_passes.quantize.roles import ANCHORS, constant

_ENDS = ("float", "same")


@dataclass(frozen=True)
class Binarize(Pass):
    """Binary weights, alpha * sign(W) for every output channel (experimental: accuracy is lost without training).

    W ~ alpha B with B in {-1, 1} and alpha = mean |W| of the channel, which together have the smallest squared error
    (Rastegari et al., "XNOR-Net", 2016, section 3.1). A weight of zero counts as positive. The result is a float
    model. `quantize` after this pass makes int8 of it, one step to the left or right of zero, which an artifact stores
    as one bit a weight and computes as int8. The first and the last layers stay as they are unless told otherwise, as
    in the paper (section 4.1).

    Findings: every layer that became binary with the share of its weights' energy that is lost, every one that stayed
    and why, and a warning.

    Raises:
        UsageError: an option is out of range, or names nothing in the model.
    """

    name: ClassVar[str] = "binarize"

    first_last: str = option("float", "the first and last layers: 'float', they stay, or 'same', binary as the others")
    exclude: tuple[str, ...] = option((), "names of nodes whose weights stay")
    op_types: tuple[str, ...] = option(ANCHORS, "operator types whose weights become binary")

    def run(self, model: ir.Model, context: PassContext) -> Result:
        """Replace the weights of `model` in place."""
        self._check_options(model)
        infer_shapes(model)
        nodes = [n for n in model.graph if n.op_type in ANCHORS and n.domain in ("", "ai.onnx")]
        anchors = {
            node: made for node in nodes if isinstance(made := make_anchor(node), Anchor) and made.weight is not None
        }
        outer = ends(model.graph, set(anchors)) if self.first_last == "float" else set()
        findings, lost, total = [], 0.0, 0.0
        for node in nodes:
            reason = self._why_not(node, anchors.get(node), outer)
            if reason is not None:
                findings.append(Finding("skipped", _where(node), f"{node.op_type} keeps its weights: {reason}"))
                continue
            weight = np.asarray(constant(node.inputs[1]), np.float32)
            binary = binarize(weight, anchors[node].axis)
            error, energy = (float(np.square(a.astype(np.float64)).sum()) for a in (weight - binary, weight))
            lost, total = lost + error, total + energy
            _replace(model.graph, node, binary)
            share = 100 * error / energy if energy else 0.0
            findings.append(Finding("changed", _where(node), f"binary weights: {share:.0f} % of their energy is lost"))
        changed = sum(f.action == "changed" for f in findings)
        if changed:
            text = (
                f"experimental: {changed} layers have binary weights, {100 * lost / total if total else 0.0:.0f} % of "
                "their energy is lost; unless the network was trained with such weights, its accuracy is too"
            )
            findings.append(Finding("warning", "", text))
        return Result(model, changed > 0, findings)

    def _check_options(self, model: ir.Model) -> None:
        if self.first_last not in _ENDS:
            raise UsageError(f"binarize: unknown first_last {self.first_last!r}; {nearest(self.first_last, _ENDS)}")
        for op_type in self.op_types:
            if op_type not in ANCHORS:
                raise UsageError(f"binarize: {op_type!r} has no weights to binarize; {nearest(op_type, ANCHORS)}")
        names = {_where(n) for n in model.graph}
        for name in self.exclude:
            if name not in names:
                raise UsageError(f"binarize: no node {name!r} to exclude; list them with `optkit inspect`")

    def _why_not(self, node: ir.Node, anchor: Anchor | None, outer: Iterable[ir.Node]) -> str | None:
        if _where(node) in self.exclude:
            return "excluded by name"
        if node.op_type not in self.op_types:
            return f"operator type {node.op_type} is excluded"
        if anchor is None:
            made = make_anchor(node)
            return made if isinstance(made, str) else "both operands are activations"
        if not anchor.per_channel:
            return "its output channels share weights' axes (grouped ConvTranspose)"
        if node in outer:
            return "it is first or last"
        value = node.inputs[1]
        return "its weight is shared with another node" if value is not None and len(value.uses()) > 1 else None


def binarize(weight: np.ndarray, axis: int) -> np.ndarray:
    """alpha * sign(w), alpha = mean |w| of each channel along `axis`; float32 of the weight's shape.

    >>> binarize(np.array([[1.0, -2.0, 3.0], [0.0, 0.5, -1.0]]), 0).tolist()
    [[2.0, -2.0, 2.0], [0.5, 0.5, -0.5]]
    """
    others = tuple(a for a in range(weight.ndim) if a != axis)
    alpha = np.abs(weight.astype(np.float64)).mean(axis=others, keepdims=True).astype(np.float32)
    binary: np.ndarray = np.where(weight >= 0, alpha, -alpha).astype(np.float32)
    return binary


def _replace(graph: ir.Graph, node: ir.Node, array: np.ndarray) -> None:
    """Give the node a weight of its own, under the old name where that is free then."""
    old = node.inputs[1]
    assert old is not None
    name, producer = old.name or "weight", old.producer()
    if producer is None and name in graph.initializers:
        old.const_value = ir.tensor(array, name=name)
        return
    value = ir.Value(name=f"{name}_binary", shape=ir.Shape(array.shape), type=ir.TensorType(ir.DataType.FLOAT))
    value.const_value = ir.tensor(array, name=value.name)
    graph.register_initializer(value)
    node.replace_input_with(1, value)
    if producer is not None and not any(output.uses() for output in producer.outputs):
        graph.remove(producer, safe=True)


def _where(node: ir.Node) -> str:
    return node.name or node.outputs[0].name or node.op_type
