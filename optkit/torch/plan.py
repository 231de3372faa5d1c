"""Where a traced module is to be quantized: exactly where the pass `quantize` would, because the pass is asked.

A float twin is exported with disturbed weights, quantized by the pass, and every tensor that it quantizes is found
again among the nodes of the traced module by its values. What cannot be found, such as a product inside an operator
that torch.fx sees as one, stays float in both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from torch import fx

from optkit.errors import ModelError
from optkit.pipeline import Pipeline
from optkit.torch.exporter import DynamicAxes
from optkit.torch.layers import PRODUCTS
from optkit.torch.match import Values, record, run_onnx
from optkit.torch.qdq import QuantizedProduct, QuantizedTensor, read_products, read_tensors
from optkit.torch.recipe import Recipe
from optkit.torch.trace import calls_of
from optkit.torch.twin import export_twin, twin_of
from optkit.transform import PassContext, Sample


@dataclass(frozen=True)
class Insertion:
    """A quantizer behind a node, and which readers of the node read it; None: all but the module's outputs."""

    node: str
    readers: tuple[str, ...] | None


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor that is quantized.

    Attributes:
        name: in ONNX.
        group: tensors of one group share a scale.
        node: of the traced module, that makes it.
        insertions: where its quantizer goes.
    """

    name: str
    group: str
    node: str
    insertions: tuple[Insertion, ...]


@dataclass(frozen=True)
class PlannedLayer:
    """A call of a layer whose weights are quantized.

    Attributes:
        name: of the ONNX node.
        layer: of the module.
        call: node of the traced module.
        node: the one that makes the quantized tensor it reads.
        bits: of the weights.
        bias: whether the bias is an integer.
    """

    name: str
    layer: str
    call: str
    node: str
    bits: int
    bias: bool


@dataclass(frozen=True)
class Plan:
    """Everything that is quantized.

    Attributes:
        exclude: ONNX nodes that stay float though the pass would quantize them.
        left: layers that stay float, with the reason.
    """

    tensors: tuple[PlannedTensor, ...]
    layers: tuple[PlannedLayer, ...]
    exclude: tuple[str, ...]
    left: Mapping[str, str]


def make_plan(
    traced: fx.GraphModule,
    args: Sequence[Any],
    recipe: Recipe,
    dynamic: DynamicAxes | None = None,
    names: dict[str, Any] | None = None,
) -> Plan:
    """The plan for a traced module, prepared already or not.

    Raises:
        ModelError: it cannot be exported, or nothing of what the pass quantizes is found again.
    """
    twin = twin_of(traced, disturbed=True)
    model = export_twin(twin, args, dynamic, names)
    search = _Search(twin, model, args, recipe)
    exclude: dict[str, str] = {}  # ONNX node: why
    while True:
        found, failed = search.attempt(tuple(exclude))
        if not failed:
            break
        if not failed.keys() - exclude.keys():
            raise ModelError(f"cannot place a quantizer at node {next(iter(failed))!r}; exclude its module")
        exclude.update(failed)
    left = {search.layer_at(name) or name: why for name, why in exclude.items()}
    return replace(found, exclude=tuple(exclude), left=left)


def run_quantize(
    model: ir.Model, recipe: Recipe, exclude: Sequence[str], context: PassContext, **options: object
) -> ir.Model:
    """A quantized copy of a folded and fused float model; `context.unquantized` is its float self."""
    wanted = {
        "weight_bits": recipe.weight_bits,
        "first_last": recipe.first_last,
        "exact": recipe.exact,
        "exclude": tuple(exclude),
        **options,
    }
    pipeline = Pipeline.parse("quantize").with_options("quantize", **wanted)
    return pipeline.run(model.clone(), context).model


class _Search:
    def __init__(self, twin: fx.GraphModule, model: ir.Model, args: Sequence[Any], recipe: Recipe) -> None:
        self.twin, self.model, self.args, self.recipe = twin, model, args, recipe
        self.values: Values = record(twin, args)
        self.nodes = {n.name: n for n in twin.graph.nodes}
        self.weights: dict[str, np.ndarray] = {
            name: m.get_parameter("weight").detach().cpu().numpy()
            for name, m in twin.named_modules()
            if type(m) in PRODUCTS
        }

    def attempt(self, exclude: tuple[str, ...]) -> tuple[Plan, dict[str, str]]:
        """A plan with these nodes left float, and the nodes that must be left too, with the reason."""
        inputs = [v.name or "" for v in self.model.graph.inputs]
        sample = {n: a.detach().cpu().numpy() for n, a in zip(inputs, self.args, strict=True)}

        def samples() -> Iterator[Sample]:
            yield sample

        context = PassContext(calibration=samples)
        quantized = run_quantize(self.model, self.recipe, exclude, context, method="minmax", weight_range="max")
        tensors, products = read_tensors(quantized), read_products(quantized)
        if not tensors:
            return Plan((), (), (), {}), {}
        assert context.unquantized is not None
        plain = {n.name or "": n for n in context.unquantized.graph}
        outputs = {
            reader: str(plain[reader].outputs[0].name)
            for t in tensors
            if not t.everyone
            for reader in t.readers
            if reader in plain
        }
        arrays = run_onnx(
            context.unquantized, self.args, list(dict.fromkeys([t.name for t in tensors] + list(outputs.values())))
        )
        failed: dict[str, str] = {}
        made = {t.name: self.values.find(arrays[t.name]) for t in tensors}
        layers = []
        for product in products:
            layer, why = self._layer(product, plain[product.name], made)
            if isinstance(layer, PlannedLayer):
                layers.append(layer)
            else:
                failed[product.name] = why
        self._whole_layers(layers, failed)
        calls = {p.name: p.call for p in layers}
        placed = []
        for tensor in tensors:
            node = made[tensor.name]
            insertions = None if node is None else self._insertions(tensor, node, calls, outputs, arrays)
            if node is None or insertions is None:
                failed.update((r, "torch.fx does not see the tensor it reads") for r in tensor.readers)
            else:
                placed.append(PlannedTensor(tensor.name, tensor.group, node, insertions))
        return Plan(tuple(placed), tuple(layers), (), {}), failed

    def layer_at(self, name: str) -> str | None:
        """The module whose weight the ONNX node of that name holds."""
        node = next((n for n in self.model.graph if n.name == name), None)
        return None if node is None or len(node.inputs) < 2 else self._by_weight(node)

    def _by_weight(self, node: ir.Node) -> str | None:
        tensor = None if node.inputs[1] is None else ir.convenience.get_const_tensor(node.inputs[1])
        if tensor is None:
            return None
        weight = tensor.numpy()
        for name, own in self.weights.items():
            for candidate in (own, own.T) if own.ndim == 2 else (own,):
                if candidate.shape == weight.shape and np.array_equal(candidate, weight):
                    return str(name)
        return None

    def _layer(
        self, product: QuantizedProduct, node: ir.Node, made: Mapping[str, str | None]
    ) -> tuple[PlannedLayer | None, str]:
        name = self._by_weight(node)
        if name is None:
            return None, "its weight is not that of a convolution or linear module"
        for excluded in self.recipe.exclude:
            if name == excluded or name.startswith(f"{excluded}."):
                return None, "excluded by name"
        source = made.get(product.source or "")
        for call in calls_of(self.twin, name):
            if source is not None and self.values.first.get(call.args[0].name) == source:
                top = 2 ** (self.recipe.weight_bits - 1) - 1
                bits = self.recipe.weight_bits if np.abs(product.q.astype(int)).max() <= top else 8
                return PlannedLayer(product.name, name, call.name, source, bits, product.bias), ""
        return None, "torch.fx does not see the tensor it reads"

    def _whole_layers(self, layers: list[PlannedLayer], failed: dict[str, str]) -> None:
        """A weight that several calls share is quantized for all of them or for none."""
        for name in {p.layer for p in layers}:
            mine = [p for p in layers if p.layer == name]
            if len({p.call for p in mine}) < len(calls_of(self.twin, name)):
                failed.update((p.name, "it shares its weight with a call that stays float") for p in mine)

    def _insertions(
        self,
        tensor: QuantizedTensor,
        node: str,
        calls: Mapping[str, str],
        outputs: Mapping[str, str],
        arrays: Mapping[str, np.ndarray],
    ) -> tuple[Insertion, ...] | None:
        if tensor.everyone:
            return (Insertion(node, None),)
        readers: dict[str, list[str]] = {}
        for name in tensor.readers:
            reader = calls.get(name) or self.values.find(arrays[outputs[name]])
            if reader is None:
                return None
            read = [n.name for n in self.nodes[reader].all_input_nodes if self.values.first.get(n.name) == node]
            if not read:
                return None
            readers.setdefault(read[0], []).append(reader)
        return tuple(Insertion(at, tuple(dict.fromkeys(who))) for at, who in readers.items())
