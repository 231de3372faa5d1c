"""A model with open axes, with code of its own for one set of shapes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import tvm
from tvm import relax, tirx

from optkit.artifact.spec import Variant
from optkit.compiler.build import Built, interface, packaged, prepare, scheduled, tvm_target
from optkit.compiler.planning import Records
from optkit.target import Target


def build_with_optimum(
    model: ir.Model,
    fixed: ir.Model,
    target: Target,
    optimum: Mapping[str, tuple[int, ...]],
    tuned: Records | None = None,
) -> tuple[Built, tuple[Variant, ...]]:
    """Compile a model with open axes once as it is and once with inputs of shapes `optimum`, into one executable.

    Weights that both pack alike are kept once.

    Args:
        fixed: the model with these shapes.
        tuned: plans that were measured.
    """
    ready, best = prepare(model, target, tuned), prepare(fixed, target, tuned)
    with tvm_target(target):
        module, kernels = scheduled(ready, target, tuned)
        static, static_kernels = scheduled(best, target, tuned)
        names = new_names(static, set(_names(module)), "optimum")
        merged = tvm.IRModule({**renamed(module, {}), **renamed(static, names)})
        executable = packaged(merged, target)
    weights, indices = shared(ready.weights, best.weights, "optimum")
    order = [tuple(optimum[name]) for name in ready.lowered.input_names]
    all_kernels = [*kernels, *(replace(k, name=names[k.name]) for k in static_kernels)]
    count = len(ready.weights)
    built = Built(
        executable,
        weights,
        *interface(ready),
        all_kernels,
        best.lowered.records,
        merged,
        target,
        count,
        operators={**ready.lowered.operators, **best.lowered.operators},
        least=ready.lowered.least,
    )
    return built, (Variant(names["main"], tuple(order), tuple(indices)),)


def _names(module: Any) -> list[str]:
    return [str(v.name_hint) for v in module.functions]


def new_names(module: Any, taken: set[str], suffix: str) -> dict[str, str]:
    """A name that is not in `taken`, with a suffix, for every function of `module`; takes them all."""
    names = {}
    for name in _names(module):
        new = f"{name}_{suffix}"
        while new in taken:
            new += "_"
        taken.add(new)
        names[name] = new
    return names


@relax.expr_functor.mutator
class _Rename(relax.PyExprMutator):  # type: ignore[misc]
    def __init__(self, names: Mapping[str, Any]) -> None:
        super().__init__()
        self.names = names

    def visit_global_var_(self, var: Any) -> Any:
        return self.names.get(str(var.name_hint), var)


def renamed(module: Any, names: Mapping[str, str]) -> dict[Any, Any]:
    """The functions of `module`, and what they call, by their new names."""
    variables = {}
    for old in module.functions:
        new = tvm.ir.GlobalVar(names.get(str(old.name_hint), str(old.name_hint)))
        relax.expr._update_type(new, old.ty)
        variables[str(old.name_hint)] = new
    found = {}
    for old, function in module.functions.items():
        new = variables[str(old.name_hint)]
        if isinstance(function, relax.Function):
            function = _Rename(variables).visit_expr(function)
            if function.attrs and "global_symbol" in function.attrs:
                function = function.with_attr("global_symbol", new.name_hint)
        elif isinstance(function, tirx.PrimFunc) and function.attrs and "global_symbol" in function.attrs:
            function = function.with_attr("global_symbol", new.name_hint)
        found[new] = function
    return found


def shared(
    first: Sequence[tuple[str, np.ndarray]], second: Sequence[tuple[str, np.ndarray]], suffix: str
) -> tuple[list[tuple[str, np.ndarray]], list[int]]:
    """`first`, what `second` adds to it, and where each of `second` is found."""
    weights = list(first)
    known = {_key(array): i for i, (_, array) in enumerate(weights)}
    indices = []
    for name, array in second:
        key = _key(array)
        if key not in known:
            known[key] = len(weights)
            weights.append((f"{name}_{suffix}", array))
        indices.append(known[key])
    return weights, indices


def _key(array: np.ndarray) -> tuple[str, tuple[int, ...], bytes]:
    return array.dtype.name, array.shape, hashlib.sha256(np.ascontiguousarray(array).view(np.uint8).data).digest()
