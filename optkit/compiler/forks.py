"""Normalizations that write what is rounded behind them, too.

A normalized row is read twice where a residual goes on from it: as it is, and as the integers that the next product
multiplies. Fusion ends at what several read, so the integers would be another kernel's, which reads all of it again.
"""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import relax, s_tir, tirx

from optkit.compiler.operators.common import OP

_ELEMENTWISE = 0
_CALL = "relax.call_tir"
_PRIMITIVE = "Primitive"


@tvm.transform.module_pass(opt_level=0, name="optkit.fork_rows")  # type: ignore[untyped-decorator]
def fork_rows(module: Any, _context: Any) -> Any:
    """The module, between FuseOps and FuseTIR, with groups of such two kernels, which have two results."""
    return _Forks(module).module()


class _Forks:
    """Rewrites a module after fusion."""

    def __init__(self, module: Any) -> None:
        self.old = module
        self.builder = relax.BlockBuilder(module)

    def module(self) -> Any:
        """The module with such kernels merged."""
        for name, func in self.old.functions.items():
            if isinstance(func, relax.Function) and isinstance(func.body, relax.SeqExpr) and not _primitive(func):
                changed = self._function(func)
                if changed is not None:
                    self.builder.update_func(name, changed)
        return self.builder.get()

    def _function(self, func: Any) -> Any | None:
        bindings = [b for block in func.body.blocks for b in block.bindings if isinstance(b, relax.VarBinding)]
        # What leaves its block is left as it is.
        made = {b.var: b.value for b in bindings if isinstance(b.var, relax.DataflowVar)}
        partners: dict[Any, Any] = {}
        for var, call in made.items():
            source = self._rounds(call)
            if source in made and source not in partners and self._normalizes(made[source]):
                partners[source] = var
        if not partners:
            return None
        gone = set(partners.values())
        blocks = []
        for block in func.body.blocks:
            found = []
            for binding in block.bindings:
                if binding.var in partners:
                    found += self._merged(binding, partners[binding.var], made)
                elif binding.var not in gone:
                    found.append(binding)
            kind = relax.DataflowBlock if isinstance(block, relax.DataflowBlock) else relax.BindingBlock
            blocks.append(kind(found))
        body = relax.SeqExpr(blocks, func.body.body)
        return relax.Function(func.params, body, func.ret_ty, func.is_pure, func.attrs)

    def _rounds(self, call: Any) -> Any | None:
        """What a kernel element by element makes integers of, and reads nothing else."""
        kernel = self._kernel(call)
        if kernel is None or int(kernel.attrs.get("op_pattern", -1)) != _ELEMENTWISE:
            return None
        given = list(call.args[1].fields)
        if len(given) != 1 or not isinstance(call.ty, relax.TensorType) or str(call.ty.dtype) != "uint8":
            return None
        return given[0] if tvm_ffi.structural_equal(given[0].ty.shape, call.ty.shape) else None

    def _normalizes(self, call: Any) -> bool:
        """Whether a kernel, alone or with others fused to it, has sums of rows."""
        kernel = self._kernel(call)
        if kernel is not None:
            return _whole_rows(kernel)
        if not isinstance(call, relax.Call) or not isinstance(call.op, tvm.ir.GlobalVar):
            return False
        group = self.old[call.op]
        inside = [b.value for block in group.body.blocks for b in block.bindings]
        return _primitive(group) and any((k := self._kernel(c)) is not None and _whole_rows(k) for c in inside)

    def _kernel(self, call: Any) -> Any | None:
        """The kernel that an expression calls."""
        if not isinstance(call, relax.Call) or call.op != tvm.ir.Op.get(_CALL):
            return None
        return self.old[call.args[0]]

    def _merged(self, binding: Any, integers: Any, made: dict[Any, Any]) -> list[Any]:
        """Bindings of both results to one call of a group of both kernels."""
        first, second = binding.value, made[integers]
        alone = self._kernel(first) is not None
        kernel, given = (first.args[0], list(first.args[1].fields)) if alone else (first.op, list(first.args))
        params = [relax.Var(f"p{i}", value.ty) for i, value in enumerate(given)]
        inner = relax.BlockBuilder()
        with inner.function("group", params):
            with inner.dataflow():
                rows = inner.emit(_of(first, params)) if alone else self._inlined(inner, self.old[kernel], params)
                out = inner.emit_output(relax.Tuple([rows, inner.emit(_of(second, [rows]))]))
            inner.emit_func_output(out)
        group = inner.get()["group"].with_attr(_PRIMITIVE, True).without_attr("global_symbol")
        name = self.builder.add_func(group, f"{kernel.name_hint}_{second.args[0].name_hint}")
        both = relax.DataflowVar(str(binding.var.name), relax.TupleType([binding.var.ty, integers.ty]))
        call = relax.Call(name, given)
        relax.expr._update_type(call, both.ty)
        parts = [relax.VarBinding(var, relax.TupleGetItem(both, i)) for i, var in enumerate((binding.var, integers))]
        return [relax.VarBinding(both, call), *parts]

    def _inlined(self, inner: Any, group: Any, params: list[Any]) -> Any:
        """What a group makes of these, its calls emitted one by one."""
        known = dict(zip(group.params, params, strict=True))
        for block in group.body.blocks:
            for binding in block.bindings:
                known[binding.var] = inner.emit(_with(binding.value, known))
        return known[group.body.body]


def _of(call: Any, given: list[Any]) -> Any:
    """A call of the same kernel with other arguments."""
    return relax.Call(call.op, [call.args[0], relax.Tuple(given), *call.args[2:]], call.attrs, call.ty_args)


def _with(expr: Any, known: dict[Any, Any]) -> Any:
    return tvm_ffi.structural_map(expr, [(relax.Var, lambda var: known.get(var, var))])


def _primitive(func: Any) -> bool:
    return bool(func.attrs and func.attrs.get(_PRIMITIVE))


def _whole_rows(kernel: Any) -> bool:
    """Whether a kernel has a sum of a row that threads may divide."""
    found: list[Any] = []

    def look(block: Any) -> None:
        if str(block.annotations.get(OP, "")) == "row_whole":
            found.append(block)

    if isinstance(kernel, tirx.PrimFunc):
        tvm_ffi.structural_walk(kernel.body, [(s_tir.SBlock, look)])
    return bool(found)
