"""Where there is no data: made-up inputs, corrected layer by layer to the statistics that batch norms have kept.

A batch norm remembers mean and variance of each of its input's channels over the training data. Made-up inputs give
others, more so with every layer. So they run through the source model with every BatchNormalization replaced by
gamma (x - m) / s + beta with m and s of the made-up batch itself: then every normalized channel has the mean beta
and the deviation gamma that it has on training data, as in Nagel et al. 2019, "Data-Free Quantization Through Weight
Equalization and Bias Correction", section 4.2.1 and appendix D; but what follows, shortcuts, clips and pooling, is
computed and not assumed to be normal, and so are the ends of the ranges, where that paper takes beta +- 6 gamma.
Cai et al. 2020, "ZeroQ", match the same statistics by optimizing the inputs, which takes gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import onnx_ir as ir

from optkit.errors import DataError
from optkit.tidy import infer_shapes
from optkit.transform import Sample
from optkit_passes.quantize.collect import Observe, collect
from optkit_passes.quantize.roles import constant

_AGREES = 1e-3
_FLOOR = 1e-5
"""Share of a channel's variance in training that counts as none."""


def renormalized(reference: ir.Model) -> ir.Model | None:
    """A copy in which every batch norm normalizes by its own batch, with an open batch axis; None without batch norms.

    Values keep their names.
    """
    if not any(n.op_type == "BatchNormalization" for n in reference.graph):
        return None
    model = reference.clone()
    infer_shapes(model)
    nodes = [n for n in model.graph if n.op_type == "BatchNormalization" and n.domain in ("", "ai.onnx")]
    replaced = [_replace(model.graph, node) for node in nodes]
    return _opened(model) if any(replaced) else None


def _replace(graph: ir.Graph, node: ir.Node) -> bool:
    source, constants = node.inputs[0], [None if v is None else constant(v) for v in node.inputs[1:5]]
    used = [v for v in node.outputs[1:] if v.uses() or v.is_graph_output()]
    if source is None or source.shape is None or len(source.shape) < 2 or used or any(c is None for c in constants):
        return False
    gamma, beta, _mean, variance = (np.asarray(c, np.float64) for c in constants if c is not None)
    epsilon = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5
    # what training data keep of a channel whose variance is as small as epsilon
    gamma = gamma * np.sqrt(variance / (variance + epsilon))
    build = _Builder(graph, node, len(source.shape))
    centered = build.op("Sub", source, build.mean(source))
    # a channel that made-up inputs leave (nearly) constant stays so, at beta
    floor = build.channels("floor", _FLOOR * variance + 1e-10)
    spread = build.op("Sqrt", build.op("Add", build.mean(build.op("Mul", centered, centered)), floor))
    scaled = build.op("Mul", build.op("Div", centered, spread), build.channels("scale", gamma))
    result = build.op("Add", scaled, build.channels("shift", beta))
    ir.convenience.replace_nodes_and_values(graph, node, [node], build.nodes, [node.outputs[0]], [result])
    return True


class _Builder:
    """Nodes in place of a batch norm, and their constants."""

    def __init__(self, graph: ir.Graph, node: ir.Node, rank: int) -> None:
        self.graph, self.name, self.rank = graph, node.outputs[0].name, rank
        self.nodes: list[ir.Node] = []

    def op(self, op_type: str, *inputs: ir.Value, **attributes: list[int]) -> ir.Value:
        node = ir.node(op_type, inputs, attributes)
        self.nodes.append(node)
        return node.outputs[0]

    def mean(self, value: ir.Value) -> ir.Value:
        """Over all axes but that of channels."""
        axes = [axis for axis in range(self.rank) if axis != 1]
        if self.graph.opset_imports.get("", 0) < 18:
            return self.op("ReduceMean", value, axes=axes)
        return self.op("ReduceMean", value, self._constant(f"axes{len(self.nodes)}", np.array(axes, np.int64)))

    def channels(self, what: str, values: np.ndarray) -> ir.Value:
        return self._constant(what, values.reshape(-1, *(1,) * (self.rank - 2)).astype(np.float32))

    def _constant(self, what: str, array: np.ndarray) -> ir.Value:
        tensor = ir.tensor(array, name=f"{self.name}.{what}")
        value = ir.Value(
            name=tensor.name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        self.graph.register_initializer(value)
        return value


def _opened(model: ir.Model) -> ir.Model:
    """With a batch axis of any extent; shapes that followed from the old one are forgotten."""
    for value in model.graph.inputs:
        if value.shape is not None and len(value.shape):
            value.shape = ir.Shape(["batch", *value.shape[1:]])
    for node in model.graph:
        for value in node.outputs:
            value.shape = None
    for value in model.graph.outputs:
        value.shape = None
    infer_shapes(model)  # with the open axis: what a group of tensors takes is judged by their shapes
    return model


def measure_by_batch_norms(
    model: ir.Model,
    reference: ir.Model | None,
    observers: Mapping[ir.Value, Observe],
    open_samples: Callable[[], Iterator[Sample]],
) -> set[ir.Value]:
    """Show those of `observers` their tensors that follow a batch norm; returns whose tensors were found.

    A tensor counts where the source model has one of its name that holds the same, which one sample tells: passes
    may have scaled or replaced it.

    Args:
        model: as it is to be quantized.
        reference: the source model, or None.
        open_samples: made-up samples, which become one batch where the model takes that.
    """
    fixed = None if reference is None else renormalized(reference)
    if reference is None or fixed is None:
        return set()
    first = next(open_samples())
    own, sources = (_by_name(m) for m in (model, reference))
    names = [v.name or "" for v in observers if v.name in sources and not v.is_graph_input()]
    here, there = (
        _values(m, [found[name] for name in names], first) for m, found in ((model, own), (reference, sources))
    )
    agreeing = [
        name
        for name in names
        if here[name].shape == there[name].shape
        and np.abs(here[name] - there[name]).max() <= _AGREES * max(np.abs(there[name]).max(), 1e-6)
    ]
    outputs = _by_name(fixed)
    wanted = {outputs[name]: observers[own[name]] for name in agreeing if name in outputs}
    if not wanted:
        return set()
    rows = list(open_samples())
    batch = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    try:
        _values(fixed, list(wanted)[-1:], batch)
    except DataError:  # some shape is fixed inside: every sample by itself, then
        collect(fixed, wanted, lambda: iter(rows))
    else:
        collect(fixed, wanted, lambda: iter([batch]))
    return {own[name] for name in agreeing if name in outputs}


def _by_name(model: ir.Model) -> dict[str, ir.Value]:
    return {v.name: v for n in model.graph for v in n.outputs if v.name}


def _values(model: ir.Model, values: list[ir.Value], sample: Sample) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}

    def keep(name: str) -> Observe:
        def observe(array: np.ndarray) -> None:
            found[name] = array

        return observe

    if values:
        collect(model, {v: keep(v.name or "") for v in values}, lambda: iter([sample]))
    return found
