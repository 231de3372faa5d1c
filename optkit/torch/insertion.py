"""Puts fake-quantizers into a module, where the compiler wants them; the user's own loop trains what comes out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from optkit.errors import ModelError, UsageError, nearest
from optkit.torch.fake_quantize import ActivationQuantizer, step_of
from optkit.torch.layers import QuantizedLayer
from optkit.torch.plan import Plan, make_plan
from optkit.torch.ranges import first_scales
from optkit.torch.recipe import Recipe
from optkit.torch.trace import layers_of, trace
from optkit.torch.twin import twin_of
from optkit.transform import GivenScales

if TYPE_CHECKING:
    import onnx_ir as ir

RECIPE = "optkit.recipe"
"""Key of the recipe in a prepared module's `meta`."""

LEFT = "optkit.left_float"
"""Key of the layers that stay float, with the reason, in a prepared module's `meta`."""

_QUANTIZERS = "activation_quantizers"
_FOLD_TOLERANCE = 1e-4


def prepare(
    module: torch.nn.Module,
    recipe: Recipe,
    args: Sequence[Any],
    *,
    calibration: Iterable[Any] | None = None,
    ranges: str | Path | ir.Model | None = None,
) -> fx.GraphModule:
    """A traced copy of `module` that computes as its quantized form will, and can be trained.

    Quantized is what the pass `quantize` quantizes, at the same places. Parameters are the module's own, in copies,
    and the learned scales (`scale_parameters`). Layers that stay float are in `prepared.meta["optkit.left_float"]`.

    Args:
        args: example inputs, positional; real data where neither `calibration` nor `ranges` is given.
        calibration: batches that the first activation ranges come from: tensors, (inputs, ...) tuples, or mappings
            by input name; a torch DataLoader will do.
        ranges: a model with Q/DQ nodes, or its path, that the pass `quantize` made of the same module: training
            starts from its activation scales.

    Raises:
        UsageError: an unknown module in `exclude`; `ranges` does not fit; both `calibration` and `ranges`.
        ModelError: torch.fx or torch.export cannot trace the module, or nothing in it can be quantized.
        DataError: calibration data does not fit the module.
    """
    if calibration is not None and ranges is not None:
        raise UsageError("calibration and ranges exclude each other: both give the first activation ranges")
    _check_excluded(module, recipe)
    tensors = tuple(args)
    traced = trace(module, recipe)
    _check_twin(module, traced, tensors)
    plan = make_plan(traced, tensors, recipe)
    if not plan.tensors:
        why = "; ".join(f"{name}: {reason}" for name, reason in list(plan.left.items())[:3])
        raise ModelError(f"nothing in {type(module).__name__} can be quantized" + (f" ({why})" if why else ""))
    scales = first_scales(traced, plan, tensors, recipe, calibration, ranges)
    _insert(traced, plan, recipe, scales)
    traced.meta[RECIPE], traced.meta[LEFT] = recipe, dict(plan.left)
    return traced


def scale_parameters(module: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Learned scales of a prepared module, for an optimizer group of their own (no weight decay)."""
    owners = [m for m in module.modules() if isinstance(m, ActivationQuantizer | QuantizedLayer)]
    return [m.scale for m in owners if isinstance(getattr(m, "scale", None), torch.nn.Parameter)]


def freeze_batch_norm(module: torch.nn.Module) -> None:
    """From now on batch normalizations of a prepared module keep their statistics, in training too."""
    for part in module.modules():
        if isinstance(part, QuantizedLayer):
            part.frozen = True


def _check_excluded(module: torch.nn.Module, recipe: Recipe) -> None:
    names = {name for name, _ in module.named_modules() if name}
    for name in recipe.exclude:
        if name not in names:
            raise UsageError(f"recipe: no module {name!r} to exclude; {nearest(name, names)}")


@torch.no_grad()  # type: ignore[untyped-decorator]
def _check_twin(module: torch.nn.Module, traced: fx.GraphModule, args: tuple[Any, ...]) -> None:
    """The traced and folded module must answer as the user's does."""
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        want = _tensors(module(*args))
    except Exception as error:  # the user's own code
        raise ModelError(f"{type(module).__name__} does not run on the example inputs: {error}") from error
    finally:
        for part, training in modes:
            part.training = training
    got = _tensors(twin_of(traced)(*args))
    for index, (a, b) in enumerate(zip(got, want, strict=True)):
        if not torch.linalg.vector_norm((a - b).float()) <= _FOLD_TOLERANCE * torch.linalg.vector_norm(b.float()):
            raise ModelError(
                f"output {index} of {type(module).__name__} changes when it is traced by torch.fx: its forward depends "
                "on values or on the mode; move that into a module of its own"
            )


def _tensors(answer: Any) -> list[torch.Tensor]:
    from torch.utils import _pytree

    return [leaf for leaf in _pytree.tree_leaves(answer) if isinstance(leaf, torch.Tensor)]


def _insert(traced: fx.GraphModule, plan: Plan, recipe: Recipe, scales: GivenScales) -> None:
    device = next((p.device for p in traced.parameters()), torch.device("cpu"))
    nodes = {n.name: n for n in traced.graph.nodes}
    holder = torch.nn.ModuleList()
    traced.add_submodule(_QUANTIZERS, holder)
    groups: dict[str, str] = {}
    for tensor in plan.tensors:
        if tensor.group not in groups:
            groups[tensor.group] = f"{_QUANTIZERS}.{len(holder)}"
            made = ActivationQuantizer(recipe, *scales.activations[tensor.name]).to(device)
            made.training = traced.training
            holder.append(made)
    layers = layers_of(traced)
    for planned in plan.layers:
        layer = layers[planned.layer]
        if not layer.bits:
            layer.quantize_weights(planned.bits, torch.from_numpy(scales.weights[planned.name].copy()))
    for tensor in plan.tensors:
        for insertion in tensor.insertions:
            node = nodes[insertion.node]
            readers = [
                n for n in node.users if n.op != "output" and (insertion.readers is None or n.name in insertion.readers)
            ]
            _quantize_node(traced, node, groups[tensor.group], readers)
    of_node = {t.node: groups[t.group] for t in plan.tensors}
    for planned in plan.layers:
        if planned.bias:
            _tell_step(traced, nodes[planned.call], of_node[planned.node])
    traced.graph.lint()
    traced.recompile()


def _quantize_node(traced: fx.GraphModule, node: fx.Node, target: str, readers: Sequence[fx.Node]) -> None:
    """`readers` of `node` read it quantized by the module `target`."""
    with traced.graph.inserting_after(node):
        made = traced.graph.call_module(target, (node,))
    for reader in readers:
        reader.replace_input_with(node, made)


def _tell_step(traced: fx.GraphModule, call: fx.Node, target: str) -> None:
    """The layer that `call` calls is given the scale of its input, that of the quantizer `target`."""
    with traced.graph.inserting_before(call):
        step = traced.graph.call_function(step_of, (traced.graph.get_attr(target),))
    call.args = (call.args[0], step)
