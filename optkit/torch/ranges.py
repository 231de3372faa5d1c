"""The scales that training starts from: those of post-training quantization."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import fx

from optkit.errors import DataError, ModelError, UsageError
from optkit.model import load_model
from optkit.torch.match import record, run_onnx
from optkit.torch.plan import Plan, run_quantize
from optkit.torch.qdq import read_products, read_tensors
from optkit.torch.recipe import Recipe
from optkit.torch.twin import export_twin, twin_of
from optkit.transform import GivenScales, PassContext, Sample

_NOISE = 0.5
"""Distance, of the norm, between a tensor of the float model and the same one computed with rounded weights."""


def first_scales(
    traced: fx.GraphModule,
    plan: Plan,
    args: Sequence[Any],
    recipe: Recipe,
    calibration: Iterable[Any] | None,
    ranges: str | Path | ir.Model | None,
) -> GivenScales:
    """What the pass `quantize` chooses for the float model: activations by tensor and weights by node.

    Args:
        calibration: batches; by default `args` alone.
        ranges: a model with Q/DQ nodes whose activation scales are taken instead.
    """
    twin = twin_of(traced)
    model = export_twin(twin, args)
    inputs = [v.name or "" for v in model.graph.inputs]
    batches = list(itertools.islice(calibration, recipe.calibration_batches)) if calibration is not None else [args]

    def samples() -> Iterator[Sample]:
        for number, batch in enumerate(batches):
            yield from _samples(batch, inputs, args, number)

    given = None if ranges is None else _given(ranges, twin, plan, args)
    context = PassContext(calibration=samples, given=given)
    options = {"method": recipe.activation_range, "weight_range": recipe.weight_range}
    quantized = run_quantize(model, recipe, plan.exclude, context, **options)
    found = GivenScales(
        {t.name: (t.scale, t.zero_point) for t in read_tensors(quantized)},
        {p.name: p.scale for p in read_products(quantized)},
    )
    check_names(plan, found.activations, found.weights)
    return found


def check_names(plan: Plan, tensors: Iterable[str], products: Iterable[str]) -> None:
    """ModelError where the model is quantized elsewhere than planned."""
    want = {t.name for t in plan.tensors} | {p.name for p in plan.layers}
    for name in sorted(want ^ {*tensors, *products}):
        raise ModelError(
            f"{name!r} is quantized only with some values of the weights; exclude the module it belongs to"
        )


def _samples(batch: Any, inputs: Sequence[str], args: Sequence[Any], number: int) -> Iterator[Sample]:
    """The inputs of a batch, cut to the length of the example's."""
    if isinstance(batch, Mapping):
        missing = [name for name in inputs if name not in batch]
        if missing:
            raise DataError(f"calibration batch {number} has no {missing[0]!r}; it holds {', '.join(map(str, batch))}")
        tensors = [batch[name] for name in inputs]
    else:
        # of (inputs, labels), as loaders give them, the labels come last
        tensors = list(batch)[: len(inputs)] if isinstance(batch, tuple | list) else [batch]
    if len(tensors) < len(inputs):
        raise DataError(f"calibration batch {number} holds {len(tensors)} inputs, the model takes {len(inputs)}")
    arrays = [t.detach().cpu().numpy() if isinstance(t, torch.Tensor) else np.asarray(t) for t in tensors]
    length = args[0].shape[0]
    for array, arg in zip(arrays, args, strict=True):
        if array.shape[1:] != tuple(arg.shape[1:]):
            raise DataError(
                f"calibration batch {number} has shape {list(array.shape)}, the example input {list(arg.shape)}"
            )
    if len(arrays[0]) < length:
        raise DataError(
            f"calibration batch {number} holds {len(arrays[0])} samples, the example input {length}; "
            "give an example of fewer"
        )
    for start in range(0, len(arrays[0]) - length + 1, length):
        yield {name: array[start : start + length] for name, array in zip(inputs, arrays, strict=True)}


def _given(source: str | Path | ir.Model, twin: fx.GraphModule, plan: Plan, args: Sequence[Any]) -> GivenScales:
    """Activation scales of a model with Q/DQ nodes, its tensors found by their values."""
    model = source.clone() if isinstance(source, ir.Model) else load_model(source)
    tensors = read_tensors(model)
    if not tensors:
        raise UsageError("ranges: the model holds no quantized tensor; give one that `quantize` wrote")
    _bypass(model)
    try:
        arrays = run_onnx(model, args, [t.name for t in tensors])
    except ModelError:
        raise
    except Exception as error:  # ONNX Runtime's own exceptions share no base
        raise UsageError(f"ranges: the model does not take the example inputs: {str(error)[:200]}") from error
    values = record(twin, args)
    pairs: dict[str, tuple[float, int]] = {}
    for tensor in tensors:
        node = values.find(arrays[tensor.name], _NOISE)
        if node is not None:
            pairs[node] = (tensor.scale, tensor.zero_point)
    of_group = {t.group: pairs[t.node] for t in plan.tensors if t.node in pairs}
    for planned in plan.tensors:
        if planned.group not in of_group:
            raise UsageError(
                f"ranges: the model has no scale for what {planned.node!r} makes; quantize the same module with the "
                "same options, or calibrate instead"
            )
    return GivenScales({t.name: of_group[t.group] for t in plan.tensors})


def _bypass(model: ir.Model) -> None:
    """Take the activations' Q/DQ pairs out; weights stay rounded."""
    graph = model.graph
    for node in list(graph):
        source = node.inputs[0].producer() if node.op_type == "DequantizeLinear" and node.inputs[0] else None
        if source is not None and source.op_type == "QuantizeLinear" and source.inputs[0] is not None:
            ir.convenience.replace_all_uses_with(node.outputs[0], source.inputs[0], replace_graph_outputs=True)
            graph.remove(node, safe=True)
    for node in list(graph):
        if node.op_type == "QuantizeLinear" and not node.outputs[0].uses():
            graph.remove(node, safe=True)
