"""The float model behind a traced one: no quantizers, ordinary layers with the normalizations folded in."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import fx

from optkit.model import load_model
from optkit.pipeline import Pipeline
from optkit.torch.exporter import DynamicAxes, export
from optkit.torch.fake_quantize import ActivationQuantizer, step_of
from optkit.torch.layers import plain
from optkit.torch.trace import layers_of
from optkit.transform import PassContext

BEFORE_QUANTIZE = "fold,fuse,fold"
"""What runs before `quantize` in the pipeline `int8`."""

_DISTURBANCE = 0.1
_NUDGE = 2.0**-60


def twin_of(traced: fx.GraphModule, *, quantized: bool = False, disturbed: bool = False) -> fx.GraphModule:
    """A float copy in eval mode whose nodes have the same names.

    Args:
        quantized: weights and biases are the rounded ones, dequantized.
        disturbed: parameters are moved at random (seeded), so that no two tensors hold the same values by chance, as
            they do where a layer starts at zero.
    """
    twin = copy.deepcopy(traced).eval()
    for name, layer in layers_of(twin).items():
        with torch.no_grad():
            steps = input_step(twin, name)
            weight, bias = layer.quantized(steps)[1:] if quantized and layer.bits else layer.folded()
        parent, _, child = name.rpartition(".")
        setattr(twin.get_submodule(parent), child, plain(layer, weight, bias).eval())
    _drop_quantizers(twin)
    (_disturb if disturbed else _nudge)(twin)
    return twin


def export_twin(
    twin: fx.GraphModule, args: Sequence[Any], dynamic: DynamicAxes | None = None, names: dict[str, Any] | None = None
) -> ir.Model:
    """The twin as ONNX, folded and fused, ready for the pass `quantize`."""
    with tempfile.TemporaryDirectory(prefix="optkit-") as folder:
        path = export(twin, args, Path(folder) / "twin.onnx", dynamic=dynamic, verify=False, **(names or {}))
        model = load_model(path)
        # tensors of large models lie in a file of the folder
        for value in model.graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value = ir.tensor(value.const_value.numpy().copy(), name=value.name)
    return Pipeline.parse(BEFORE_QUANTIZE).run(model, PassContext()).model


def quantizer_nodes(traced: fx.GraphModule) -> list[fx.Node]:
    """Nodes that quantize an activation, in the order they run."""
    kinds = {name for name, m in traced.named_modules() if isinstance(m, ActivationQuantizer)}
    return [n for n in traced.graph.nodes if n.op == "call_module" and n.target in kinds]


def input_step(traced: fx.GraphModule, target: str) -> torch.Tensor | None:
    """Scale of the activation that a layer reads; None where its bias stays float, or calls of it read different ones.

    The pass `quantize` then rounds the bias for each call, as the layer does itself.
    """
    steps = [
        traced.get_submodule(node.args[1].args[0].target).step()
        for node in traced.graph.nodes
        if node.op == "call_module" and node.target == target and len(node.args) > 1
    ]
    return steps[0] if len({float(step) for step in steps}) == 1 else None


def _drop_quantizers(twin: fx.GraphModule) -> None:
    for node in quantizer_nodes(twin):
        node.replace_all_uses_with(node.args[0])
        twin.graph.erase_node(node)
    for node in list(twin.graph.nodes):
        if node.op == "call_function" and node.target is step_of:
            for reader in list(node.users):
                reader.args = reader.args[:1]
            get = node.args[0]
            twin.graph.erase_node(node)
            twin.graph.erase_node(get)
    twin.graph.lint()
    twin.recompile()
    twin.delete_all_unused_submodules()


@torch.no_grad()  # type: ignore[untyped-decorator]
def _nudge(twin: fx.GraphModule) -> None:
    """Keep parameters of zeros or ones from being folded away: what is quantized must not depend on their values.

    By less than float32 rounds in the sums they take part in.
    """
    for parameter in twin.parameters():
        if parameter.is_floating_point() and parameter.numel() and parameter.min() == parameter.max():
            value = parameter.flatten()[0].item()
            parameter[(0,) * parameter.ndim] = _NUDGE if value == 0 else value * (1 + 2.0**-23)


@torch.no_grad()  # type: ignore[untyped-decorator]
def _disturb(twin: fx.GraphModule) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in twin.parameters():
        if parameter.is_floating_point():
            size = parameter.square().mean().sqrt().item() or 1.0
            noise = torch.randn(parameter.shape, generator=generator)
            parameter += _DISTURBANCE * size * noise.to(parameter.device, parameter.dtype)
