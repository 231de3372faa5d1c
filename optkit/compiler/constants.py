"""Weights become parameters of `main`, so that they live beside the code and not in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator


@mutator
class _Lift(PyExprMutator):  # type: ignore[misc]
    """Replaces every constant of more than one element by a variable."""

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self.lifted: list[tuple[Any, Any]] = []
        self.owners: dict[str, str] = {}
        self._binding = ""

    def visit_var_binding_(self, binding: Any) -> None:
        """Remember whose constants are met."""
        self._binding = str(binding.var.name)
        super().visit_var_binding_(binding)

    def visit_generic_const_(self, op: Any) -> Any:
        """One variable a constant; equal objects share it."""
        if int(np.prod([int(d) for d in op.value.shape], dtype=np.int64)) <= 1:
            return op
        for var, data in self.lifted:
            if data.same_as(op.value):
                return var
        var = relax.Var(f"w{len(self.lifted)}", op.ty)
        self.lifted.append((var, op.value))
        self.owners[str(var.name)] = self._binding
        return var


@dataclass(frozen=True)
class Lifted:
    """A module with its weights as trailing parameters of `main`.

    Attributes:
        weights: name and value of each, in that order.
        owners: the name of the graph value that is computed with a weight, by the weight's name.
    """

    module: Any
    weights: list[tuple[str, np.ndarray]]
    owners: dict[str, str]


def lift_constants(module: Any) -> Lifted:
    """Make the weights of a module parameters."""
    visitor = _Lift(module)
    main = module["main"]
    body = visitor.visit_expr(main.body)
    params = [*main.params, *[var for var, _ in visitor.lifted]]
    function = relax.Function(params, body, main.ret_ty, main.is_pure, main.attrs)
    changed = tvm.IRModule({**dict(module.functions.items()), module.get_global_var("main"): function})
    changed = relax.transform.Normalize()(changed)
    return Lifted(changed, [(str(var.name), data.numpy()) for var, data in visitor.lifted], visitor.owners)
