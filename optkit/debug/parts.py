"""A layer's own error, by part: it alone is computed again, quantized and not, from the float model's inputs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from optkit.debug.account import Parts
from optkit.debug.structure import DEQUANTIZE, Grid, QuantizedLayer
from optkit.measure.compare import MAX_SQNR
from optkit.measure.reference import Reference

WEIGHTS, ACTIVATIONS, BIAS = "weights", "activations", "bias"
_MASS = 0.999


def sqnr(signal: float, noise: float) -> float:
    """dB, within MAX_SQNR."""
    if noise == 0:
        return MAX_SQNR
    if signal == 0:
        return -MAX_SQNR
    return max(-MAX_SQNR, min(MAX_SQNR, 10 * math.log10(signal / noise)))


@dataclass
class _Input:
    """What is known of one quantized input, over all samples."""

    inside: float = 0.0
    outside: float = 0.0
    clipped: int = 0
    elements: int = 0
    codes: dict[int, int] = field(default_factory=dict)
    largest: np.ndarray | None = None

    def add(self, x: np.ndarray, codes: np.ndarray, real: np.ndarray, grid: Grid, axis: int) -> None:
        error = np.square(real.astype(np.float64) - x)
        out = (codes < grid.low) | (codes > grid.high)
        self.outside += float(error[out].sum())
        self.inside += float(error[~out].sum())
        self.clipped += int(out.sum())
        self.elements += x.size
        values, counts = np.unique(np.clip(codes, grid.low, grid.high), return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            self.codes[value] = self.codes.get(value, 0) + count
        if x.ndim > 1:
            others = tuple(a for a in range(x.ndim) if a != axis % x.ndim)
            largest = np.abs(x).max(axis=others, initial=0.0)
            self.largest = largest if self.largest is None else np.maximum(self.largest, largest)

    def spread(self, grid: Grid) -> float:
        """Share of the integers within which 99.9 % of the values fall."""
        values = sorted(self.codes)
        counts = np.cumsum([self.codes[v] for v in values])
        cut = (1 - _MASS) / 2 * counts[-1]
        low = values[int(np.searchsorted(counts, cut, side="right"))]
        high = values[int(np.searchsorted(counts, counts[-1] - cut, side="left"))]
        return float((high - low + 1) / (grid.high - grid.low + 1))

    def channels(self) -> float | None:
        """Largest over median absolute maximum of the channels."""
        if self.largest is None or self.largest.size < 2:
            return None
        middle = float(np.median(self.largest))
        return float(self.largest.max() / middle) if middle > 0 else None


class LocalError:
    """One quantized layer, run on its own.

    Args:
        model: the layer's model, whose functions it may call.
        weights: the float model's arrays for `layer.constants`; None where they are not known.
    """

    def __init__(self, model: ir.Model, layer: QuantizedLayer, weights: Mapping[int, np.ndarray | None]) -> None:
        self.layer = layer
        self.known = {i: a for i, a in weights.items() if a is not None and a.shape == layer.constants[i].shape}
        self._session = Reference(_alone(model, layer.node))
        self._names = {i: f"input_{i}" for i, _ in _read(layer.node)}
        self._inputs = {a.index: _Input() for a in layer.activations}
        self._kinds = [k for k in (WEIGHTS, ACTIVATIONS, BIAS) if any(self._kind(i) == k for i in self._changes())]
        self._energy: dict[frozenset[str], float] = {}
        self._signal = 0.0

    def _changes(self) -> list[int]:
        return [*(a.index for a in self.layer.activations), *self.known]

    def _kind(self, index: int) -> str:
        if any(a.index == index for a in self.layer.activations):
            return ACTIVATIONS
        bias = index == 2 and self.layer.node.op_type in ("Conv", "ConvTranspose", "Gemm")
        return BIAS if bias else WEIGHTS

    def add(self, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
        """Take in one sample of the float model's tensors by name; returns the layer's own error at its output."""
        floats, codes = self._operands(tensors)
        rounded = self._rounded(floats, codes)
        for activation in self.layer.activations:
            x, index = floats[activation.index], activation.index
            axis = -1 if self.layer.node.op_type in ("MatMul", "Gemm") else 1
            self._inputs[index].add(x, codes[index], rounded[index], activation.grid, axis)
        exact = self._run(floats, rounded, frozenset())
        self._signal += float(np.square(exact).sum())
        own = np.zeros_like(exact)
        for kinds in self._subsets():
            error = self._run(floats, rounded, kinds) - exact
            self._energy[kinds] = self._energy.get(kinds, 0.0) + float(np.square(error).sum())
            if len(kinds) == len(self._kinds):
                own = error
        return own

    def repair(self, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
        """What to add to the layer's output so that it is as if computed in float, from one sample's tensors.

        Args:
            tensors: of the quantized model, before they are quantized.
        """
        floats, codes = self._operands(tensors)
        rounded = self._rounded(floats, codes)
        quantized = self._run(floats, rounded, frozenset(self._kinds))
        return np.asarray(self._run(floats, rounded, frozenset()) - quantized)

    def _operands(self, tensors: Mapping[str, np.ndarray]) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
        """Float inputs by place, and the integers of those that are quantized."""
        floats: dict[int, np.ndarray] = {}
        for index, value in _read(self.layer.node):
            if index in self.layer.constants:
                floats[index] = self.known.get(index, self.layer.constants[index])
            elif (tensor := self._tensor(index)) is not None:
                floats[index] = tensors[tensor]
            elif (fixed := ir.convenience.get_const_tensor(value)) is not None:
                floats[index] = fixed.numpy()
            else:
                floats[index] = tensors[value.name or ""]
        return floats, {a.index: a.grid.codes(floats[a.index]) for a in self.layer.activations}

    def _rounded(self, floats: Mapping[int, np.ndarray], codes: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
        rounded = {**floats, **{i: self.layer.constants[i] for i in self.known}}
        for activation in self.layer.activations:
            real = activation.grid.real(codes[activation.index])
            rounded[activation.index] = real.astype(floats[activation.index].dtype)
        return rounded

    def _tensor(self, index: int) -> str | None:
        return next((a.tensor for a in self.layer.activations if a.index == index), None)

    def _subsets(self) -> list[frozenset[str]]:
        sizes = range(1, len(self._kinds) + 1)
        return [frozenset(chosen) for size in sizes for chosen in itertools.combinations(self._kinds, size)]

    def _run(
        self, floats: Mapping[int, np.ndarray], rounded: Mapping[int, np.ndarray], kinds: frozenset[str]
    ) -> np.ndarray:
        changed = {i for i in self._changes() if self._kind(i) in kinds}
        feed = {name: (rounded if i in changed else floats)[i] for i, name in self._names.items()}
        return next(iter(self._session.run(feed).values())).astype(np.float64)

    def parts(self) -> Parts:
        """The figures of all samples so far."""
        everything = frozenset(self._kinds)

        def alone(kind: str) -> float | None:
            return sqnr(self._signal, self._energy.get(frozenset({kind}), 0.0)) if kind in self._kinds else None

        worst = max(self.layer.activations, key=lambda a: self._noise(a.index), default=None)
        found = None if worst is None else self._inputs[worst.index]
        inside = sum(i.inside for i in self._inputs.values())
        outside = sum(i.outside for i in self._inputs.values())
        elements = sum(i.elements for i in self._inputs.values())
        return Parts(
            own=sqnr(self._signal, self._energy.get(everything, 0.0)),
            weights=alone(WEIGHTS),
            activations=alone(ACTIVATIONS),
            bias=alone(BIAS),
            clipping=None if found is None else (outside / (inside + outside) if inside + outside else 0.0),
            clipped=None if found is None else sum(i.clipped for i in self._inputs.values()) / max(elements, 1),
            codes=None if found is None or worst is None or not found.codes else found.spread(worst.grid),
            channels=None if found is None else found.channels(),
        )

    def cause(self) -> str:
        """The part without which least error would be left; "" where there is no error.

        Not the largest part alone: a bias that was corrected for the weights' error is far from the float one, and
        the layer better for it.
        """
        everything = frozenset(self._kinds)
        if not self._energy.get(everything):
            return ""
        left = {kind: self._energy.get(everything - {kind}, 0.0) for kind in self._kinds}
        kind = min(self._kinds, key=lambda k: left[k])
        if kind != ACTIVATIONS:
            return kind
        inside = sum(i.inside for i in self._inputs.values())
        return "clipping" if sum(i.outside for i in self._inputs.values()) > inside else "rounding"

    def _noise(self, index: int) -> float:
        found = self._inputs[index]
        return found.inside + found.outside


def needed(layer: QuantizedLayer) -> Sequence[str]:
    """Names of the float model's tensors that the layer's inputs are."""
    own = {a.index: a.tensor for a in layer.activations}
    rest = [
        value.name
        for index, value in _read(layer.node)
        if index not in {*own, *layer.constants} and ir.convenience.get_const_tensor(value) is None
    ]
    return [*own.values(), *(name for name in rest if name)]


def _read(node: ir.Node) -> list[tuple[int, ir.Value]]:
    """The inputs that a layer computes on, with their places; a DequantizeLinear stands for a tensor as such."""
    count = 1 if node.op_type == DEQUANTIZE else None
    return [(i, v) for i, v in enumerate(node.inputs[:count]) if v is not None]


def _alone(model: ir.Model, node: ir.Node) -> ir.Model:
    """A model of the node only; its inputs are `input_0`, `input_1` and so on, of any shape."""
    inputs: list[ir.Value | None] = [None] * len(node.inputs)
    outputs = [ir.Value(name=f"output_{i}", type=v.type) for i, v in enumerate(node.outputs)]
    if node.op_type == DEQUANTIZE:
        inputs = [ir.Value(name="input_0", type=outputs[0].type)]
        copy = ir.Node("", "Identity", inputs, outputs=outputs, name=node.name)
    else:
        for index, value in _read(node):
            inputs[index] = ir.Value(name=f"input_{index}", type=value.type or ir.TensorType(ir.DataType.FLOAT))
        attributes = list(node.attributes.values())
        copy = ir.Node(node.domain, node.op_type, inputs, attributes, outputs=outputs, name=node.name)
    graph = ir.Graph(
        [v for v in inputs if v is not None],
        outputs[:1],
        nodes=[copy],
        opset_imports=dict(model.graph.opset_imports),
        name="layer",
    )
    return ir.Model(graph, ir_version=model.ir_version, functions=list(model.functions.values()))
