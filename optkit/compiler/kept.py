"""Values that fusion leaves as they are: kernels end with them, and others begin by reading them."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from tvm import relax


@relax.expr_functor.mutator
class _Keep(relax.PyExprMutator):  # type: ignore[misc]
    """Makes variables outputs of their block, which fusion does not reach beyond."""

    def __init__(self, kept: Set[Any]) -> None:
        super().__init__()
        self.kept = kept

    def visit_dataflow_var_def_(self, var: Any) -> Any:
        """The variable as it is outside of the block."""
        if var not in self.kept:
            return super().visit_dataflow_var_def_(var)
        made = relax.Var(str(var.name), var.ty)
        self.set_var_remap(var, made)
        return made


def keep(func: Any, kept: Set[Any]) -> Any:
    """The Relax function with these of its variables left as they are; itself where there are none."""
    return _Keep(kept).visit_expr(func) if kept else func
