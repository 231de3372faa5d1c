"""Scales moved between layers, so that the channels of a tensor have like ranges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from optkit.errors import UsageError
from optkit.tidy import infer_shapes
from optkit.transform import Finding, Pass, PassContext, Result, option
from optkit_passes.graph import add_constant, constant, is_op, replace, scalar

_HOMOGENEOUS = ("Relu", "LeakyRelu", "PRelu")
_PASSED = (*_HOMOGENEOUS, "MaxPool", "AveragePool", "GlobalAveragePool", "Dropout", "Identity")
"""What a positive factor a channel passes through: f(s x) = s f(x)."""


@dataclass(frozen=True)
class Equalize(Pass):
    """Give the channels between two layers like ranges, by factors that cancel (cross-layer equalization).

    For y = W2 f(W1 x + b1) with f positively homogeneous: W1/s, b1/s, W2 s with s = sqrt(r1 r2) / r2 a channel, r the
    largest weight of a channel on either side (Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization
    and Bias Correction", section 4.1). Pairs of convolutions and Gemms that nothing else reads in between, depthwise
    ones included, over and over until the factors are 1. The function stays the same but for rounding. Comes before
    `quantize`; needs no data.

    With `clip=relu`, ReLU6 becomes ReLU first, as in the paper, which changes the function where activations go
    beyond 6; else what is cut by a Clip is left alone.
    """

    name: ClassVar[str] = "equalize"

    clip: str = option("keep", "what becomes of ReLU6 between layers: keep, or relu (changes the function)")
    rounds: int = option(40, "times over all pairs at most")

    def run(self, model: ir.Model, context: PassContext) -> Result:
        """Scale the weights of `model` in place."""
        if self.clip not in ("keep", "relu"):
            raise UsageError(f"equalize: clip={self.clip!r} is neither keep nor relu")
        if self.rounds < 1:
            raise UsageError(f"equalize: rounds={self.rounds} is not at least 1")
        infer_shapes(model)
        findings: list[Finding] = []
        if self.clip == "relu":
            findings += _unclip(model)
        pairs: list[_Pair] = []
        for node in model.graph:
            found = _pair(node)
            if isinstance(found, _Pair):
                pairs.append(found)
            elif found is not None:
                findings.append(Finding("skipped", node.name or "", found))
        weights = {node: _Side(node) for pair in pairs for node in (pair.first, pair.second)}
        total = [np.ones(weights[pair.first].outputs().shape) for pair in pairs]
        for _ in range(self.rounds):
            furthest = 0.0
            for pair, product in zip(pairs, total, strict=True):
                s = _factors(weights[pair.first].outputs(), weights[pair.second].inputs())
                weights[pair.first].scale_outputs(1 / s)
                weights[pair.second].scale_inputs(s)
                product *= s
                furthest = max(furthest, float(np.abs(np.log(s)).max(initial=0.0)))
            if furthest < 1e-3:
                break
        changed = [p for p, s in zip(pairs, total, strict=True) if np.abs(np.log(s)).max(initial=0.0) > 1e-3]
        for side in weights.values():
            side.write()
        if changed:
            findings.append(Finding("changed", "", f"channels between {len(changed)} pairs of layers equalized"))
        return Result(model, bool(changed) or any(f.action == "changed" for f in findings), findings)


@dataclass(frozen=True)
class _Pair:
    first: ir.Node
    second: ir.Node


class _Side:
    """A layer's weight and bias while they are scaled, float64."""

    def __init__(self, node: ir.Node) -> None:
        self.node = node
        weight = constant(node.inputs[1])
        assert weight is not None
        self.weight = weight.astype(np.float64)
        bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        self.bias = None if bias is None else bias.astype(np.float64)
        gemm = node.op_type == "Gemm"
        flipped = gemm and node.attributes.get_int("transB", 0) == 0
        self.out_axis = 1 if flipped else 0
        self.in_axis = 1 - self.out_axis
        self.groups = 1 if gemm else node.attributes.get_int("group", 1)
        self.touched = False

    def outputs(self) -> np.ndarray:
        """Largest weight of every output channel."""
        others = tuple(a for a in range(self.weight.ndim) if a != self.out_axis)
        return np.asarray(np.abs(self.weight).max(axis=others))

    def inputs(self) -> np.ndarray:
        """Largest weight of every input channel."""
        return np.asarray(np.abs(self._by_input()).max(axis=tuple(range(2, self._by_input().ndim))).reshape(-1))

    def scale_outputs(self, factor: np.ndarray) -> None:
        """Multiply every output channel, bias included."""
        shape = [1] * self.weight.ndim
        shape[self.out_axis] = -1
        self.weight = self.weight * factor.reshape(shape)
        self.bias = None if self.bias is None else self.bias * factor
        self.touched = True

    def scale_inputs(self, factor: np.ndarray) -> None:
        """Multiply what reads every input channel."""
        split = self._by_input()
        scaled = split * factor.reshape(split.shape[:2] + (1,) * (split.ndim - 2))
        self.weight = self._from_input(scaled)
        self.touched = True

    def _by_input(self) -> np.ndarray:
        """(groups, inputs of a group, outputs of a group, ...)."""
        w = self.weight if self.out_axis == 0 else self.weight.swapaxes(0, 1)
        split = w.reshape(self.groups, w.shape[0] // self.groups, *w.shape[1:])
        return np.asarray(split.swapaxes(1, 2))

    def _from_input(self, split: np.ndarray) -> np.ndarray:
        w = split.swapaxes(1, 2)
        w = w.reshape(w.shape[0] * w.shape[1], *w.shape[2:])
        return np.ascontiguousarray(w if self.out_axis == 0 else w.swapaxes(0, 1))

    def write(self) -> None:
        """Give the node the scaled constants; those it had are not written to, others may share them."""
        graph = self.node.graph
        if not self.touched or graph is None:
            return
        arrays = [self.weight] if self.bias is None else [self.weight, self.bias]
        for index, array in enumerate(arrays, start=1):
            old = self.node.inputs[index]
            assert old is not None
            new = add_constant(graph, f"{old.name}_equalized", array.astype(np.float32))
            self.node.replace_input_with(index, new)


def _factors(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """s a channel; 1 where a side is zero there."""
    alive = (first > 0) & (second > 0)
    safe_first, safe_second = np.where(alive, first, 1.0), np.where(alive, second, 1.0)
    # what is nearly zero on one side would only make the other side's scales explode
    factors: np.ndarray = np.clip(np.sqrt(safe_first / safe_second), 1e-4, 1e4)
    return factors


def _pair(node: ir.Node) -> _Pair | str | None:
    """The pair that begins with `node`; a reason where a pair is refused; None where there is none."""
    if not _is_layer(node):
        return None
    value = node.outputs[0]
    while True:
        users = [user for user, _ in value.uses()]
        if value.is_graph_output() or len(users) != 1:
            return None
        user = users[0]
        if _is_layer(user) and user.inputs[0] is value:
            break
        if is_op(user, "Clip"):
            return "a Clip cuts what it makes at a fixed value: its channels cannot be scaled; clip=relu would drop it"
        if user.inputs[0] is not value or not (is_op(user, *_PASSED) or _flattens(user)):
            return None
        value = user.outputs[0]
    if _Side(node).outputs().shape != _Side(user).inputs().shape:
        return None  # a Flatten in between gave every channel many columns
    return _Pair(node, user)


def _flattens(node: ir.Node) -> bool:
    """Whether a reshape leaves the channels where they are: (n, c, 1, 1) to (n, c)."""
    if not is_op(node, "Flatten", "Reshape", "Squeeze"):
        return False
    before, after = node.inputs[0], node.outputs[0]
    if before is None or before.shape is None or after.shape is None or len(after.shape) < 2:
        return False
    return before.shape[1] == after.shape[1] and isinstance(after.shape[1], int)


def _is_layer(node: ir.Node) -> bool:
    if not is_op(node, "Conv", "Gemm"):
        return False
    arrays: Sequence[np.ndarray | None] = [constant(v) for v in node.inputs[1:] if v is not None]
    if not arrays or any(a is None or a.dtype != np.float32 or not np.isfinite(a).all() for a in arrays):
        return False
    if node.op_type == "Gemm":
        plain = all(node.attributes.get_float(name, 1.0) == 1.0 for name in ("alpha", "beta"))
        whole = len(arrays) < 2 or (arrays[1] is not None and arrays[1].ndim == 1 and arrays[0] is not None)
        return plain and whole and node.attributes.get_int("transA", 0) == 0
    return True


def _unclip(model: ir.Model) -> list[Finding]:
    """ReLU6 to ReLU where a layer comes before and behind."""
    findings = []
    for node in list(model.graph):
        if not is_op(node, "Clip") or node.inputs[0] is None:
            continue
        maker = node.inputs[0].producer()
        low = scalar(node.inputs[1]) if len(node.inputs) > 1 else None
        readers = [user for user, _ in node.outputs[0].uses()]
        if maker is None or not _is_layer(maker) or low != 0 or len(readers) != 1 or not _is_layer(readers[0]):
            continue
        replace(node, "Relu", [node.inputs[0]], {})
        findings.append(Finding("changed", node.name or "", "ReLU6 became ReLU: its channels can be scaled now"))
    return findings
