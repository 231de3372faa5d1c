"""Memory between the kernels of one function is planned with the model's tensors.

A function of several kernels keeps what one leaves for the next in global memory. TVM would take it from a pool, while
the model runs: on a GPU that allocates inside a captured graph, and hands streams of the same thread the same memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm import relax, s_tir, tirx


def between_kernels(func: Any) -> list[Any]:
    """The tensors of known extents that one kernel of the function writes and another one reads."""
    if not isinstance(func.body, s_tir.SBlockRealize):
        return []
    root = func.body.block
    kernels = [_tensors(statement) for statement in root.body.seq] if isinstance(root.body, tirx.SeqStmt) else []
    return [
        buffer
        for buffer in root.alloc_buffers
        if buffer.scope() == "global"
        and all(isinstance(extent, int | tirx.IntImm) for extent in buffer.shape)
        and sum(any(buffer.same_as(tensor) for tensor in kernel) for kernel in kernels) > 1
    ]


def _tensors(statement: Any) -> list[Any]:
    found: list[Any] = []

    def block(node: Any) -> None:
        found.extend(region.source for region in (*node.reads, *node.writes))

    tvm_ffi.structural_walk(statement, (s_tir.SBlock, block))
    return found


@dataclass(frozen=True)
class _Planned:
    """A function that is given its workspaces, behind its other arguments."""

    var: Any
    func: Any
    workspaces: list[Any]


def _planned(var: Any, func: Any, workspaces: list[Any]) -> _Planned:
    root = func.body.block
    kept = [buffer for buffer in root.alloc_buffers if not any(buffer.same_as(w) for w in workspaces)]
    block = s_tir.SBlock(root.iter_vars, root.reads, root.writes, root.name_hint, root.body, root.init, kept)
    body = s_tir.SBlockRealize(func.body.iter_values, func.body.predicate, block)
    whole = tirx.PrimFunc([*func.params, *workspaces], body, func.ret_type, func.attrs, func.span)
    more = [relax.TensorType(list(map(int, w.shape)), str(w.dtype)) for w in workspaces]
    changed = tvm.ir.GlobalVar(var.name_hint)
    relax.expr._update_type(changed, relax.FuncType([*var.ty.params, *more], var.ty.ret, var.ty.purity))
    return _Planned(changed, whole, workspaces)


@relax.expr_functor.mutator
class _Allocate(relax.PyExprMutator):  # type: ignore[misc]
    """Gives calls the workspaces of what they call."""

    def __init__(self, planned: dict[Any, _Planned]) -> None:
        super().__init__()
        self.planned = planned

    def visit_call_(self, call: Any) -> Any:
        """The call, after allocations."""
        if call.op not in self.planned:
            return super().visit_call_(call)
        callee = self.planned[call.op]
        given = [
            self.builder_.emit(
                relax.op.builtin.alloc_tensor(relax.ShapeExpr(list(map(int, w.shape))), str(w.dtype), 0, "global")
            )
            for w in callee.workspaces
        ]
        whole = relax.Call(callee.var, [*call.args, *given], call.attrs, call.ty_args, call.span)
        return super().visit_call_(whole)


@tvm.transform.module_pass(opt_level=0, name="PlanWorkspaces")  # type: ignore[untyped-decorator]
def plan_workspaces(module: Any, _context: Any) -> Any:
    """The module, whose calls pass results already, with them passing workspaces too."""
    planned = {
        var: _planned(var, func, tensors)
        for var, func in module.functions.items()
        if isinstance(func, tirx.PrimFunc) and (tensors := between_kernels(func))
    }
    if not planned:
        return module
    functions = {}
    for var, func in module.functions.items():
        if var in planned:
            functions[planned[var].var] = planned[var].func
        else:
            functions[var] = _Allocate(planned).visit_expr(func) if isinstance(func, relax.Function) else func
    return tvm.IRModule(functions, attrs=module.attrs)


__all__ = ["plan_workspaces"]
