"""float16 stays float16 between kernels: every reader of a tensor widens it for itself.

Common subexpressions are one: without this, two readers share the float32 form of a float16 tensor, which fusion then
lets the kernel that makes the tensor write, in twice the bytes.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import tvm
from tvm import relax


@relax.expr_functor.mutator
class _Widen(relax.PyExprMutator):  # type: ignore[misc]
    def __init__(self, sources: dict[Any, Any]) -> None:
        super().__init__()
        self.sources = sources

    def visit_call_(self, call: Any) -> Any:
        """The call with conversions of its own for what it shares with others."""
        arguments = [self._own(argument) for argument in call.args]
        return super().visit_call_(relax.Call(call.op, arguments, call.attrs, call.ty_args, call.span))

    def _own(self, argument: Any) -> Any:
        if isinstance(argument, relax.Tuple):
            return relax.Tuple([self._own(field) for field in argument.fields])
        if isinstance(argument, relax.Var) and argument in self.sources:
            return self.builder_.emit(relax.op.astype(self.visit_expr(self.sources[argument]), "float32"))
        return argument


@tvm.transform.module_pass(opt_level=0, name="WidenPerUse")  # type: ignore[untyped-decorator]
def widen_per_use(module: Any, _context: Any) -> Any:
    """The module with a conversion from float16 to float32 for every call that reads its result."""
    changed = {}
    for name, func in module.functions.items():
        if not isinstance(func, relax.Function) or not isinstance(func.body, relax.SeqExpr):
            continue
        bindings = [b for block in func.body.blocks for b in block.bindings if isinstance(b, relax.VarBinding)]
        uses = Counter(var for binding in bindings for var in relax.analysis.free_vars(binding.value))
        sources = {b.var: b.value.args[0] for b in bindings if uses[b.var] > 1 and _widens(b.value)}
        if sources:
            changed[name] = _Widen(sources).visit_expr(func)
    return tvm.IRModule({**module.functions, **changed}, attrs=module.attrs) if changed else module


def _widens(call: Any) -> bool:
    """Whether a value is float32 made of a float16 variable."""
    if not isinstance(call, relax.Call) or call.op != tvm.ir.Op.get("relax.astype"):
        return False
    (source,) = call.args
    return isinstance(source, relax.Var) and str(source.ty.dtype) == "float16" and str(call.ty.dtype) == "float32"
