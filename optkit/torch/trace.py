"""A module as a torch.fx graph whose convolutions and linear layers are QuantizedLayers, normalizations in them."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import fx

from optkit.errors import ModelError
from optkit.torch.layers import NORMS, PRODUCTS, QuantizedLayer
from optkit.torch.recipe import Recipe


def trace(module: torch.nn.Module, recipe: Recipe) -> fx.GraphModule:
    """A traced copy of `module` that computes what it computes; every layer is still float.

    Raises:
        ModelError: torch.fx cannot trace it.
    """
    training = module.training
    try:
        traced = fx.symbolic_trace(copy.deepcopy(module))
    except Exception as error:  # the user's own code runs in there
        text = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(
            f"torch.fx cannot trace {type(module).__name__}: {text[:200]}; "
            "move what depends on values into a module of its own, or mark it with torch.fx.wrap"
        ) from error
    _layers(traced, recipe)
    traced.graph.lint()
    traced.recompile()
    for made in (traced, *layers_of(traced).values()):
        made.training = training  # not train(): the user may have frozen parts
    return traced


def layers_of(traced: fx.GraphModule) -> dict[str, QuantizedLayer]:
    """Layers by name, which is the name of the user's module."""
    return {name: m for name, m in traced.named_modules() if isinstance(m, QuantizedLayer)}


def calls_of(traced: fx.GraphModule, target: str) -> list[fx.Node]:
    """Nodes that call the module of that name."""
    return [n for n in traced.graph.nodes if n.op == "call_module" and n.target == target]


def _layers(traced: fx.GraphModule, recipe: Recipe) -> None:
    modules = dict(traced.named_modules())
    made: dict[int, QuantizedLayer] = {}
    for node in list(traced.graph.nodes):
        if node.op != "call_module" or type(modules[node.target]) not in PRODUCTS or len(node.args) != 1:
            continue
        layer: Any = modules[node.target]
        if id(layer) not in made:
            norm = _norm_behind(traced, node, modules)
            made[id(layer)] = QuantizedLayer(layer, None if norm is None else modules[str(norm.target)], recipe)
            if norm is not None:
                norm.replace_all_uses_with(node)
                traced.graph.erase_node(norm)
                _put(traced, str(norm.target), torch.nn.Identity())
        _put(traced, str(node.target), made[id(layer)])


def _norm_behind(traced: fx.GraphModule, node: fx.Node, modules: dict[str, torch.nn.Module]) -> fx.Node | None:
    """The batch normalization that is the only reader of `node` and folds into it."""
    if len(node.users) != 1 or len(calls_of(traced, str(node.target))) != 1:
        return None
    (reader,) = node.users
    if reader.op != "call_module" or len(calls_of(traced, str(reader.target))) != 1:
        return None
    norm: Any = modules[str(reader.target)]
    layer: Any = modules[str(node.target)]
    if type(norm) not in NORMS or not norm.track_running_stats:
        return None
    if layer.weight.ndim > 2 and layer.transposed and layer.groups > 1:
        return None  # its weight has no axis of all output channels
    # of a linear layer on (batch, tokens, features) a BatchNorm1d would normalize tokens
    return reader if norm.num_features == _channels(layer) else None


def _channels(layer: Any) -> int:
    return int(layer.out_features if isinstance(layer, torch.nn.Linear) else layer.out_channels)


def _put(traced: fx.GraphModule, target: str, module: torch.nn.Module) -> None:
    parent, _, name = target.rpartition(".")
    setattr(traced.get_submodule(parent), name, module)
