"""The quantized side of a sum of two convolutions stays integers in memory.

One of the two kernels computes the sum, and what the other makes goes through memory. Where that is quantized and the
sum its only reader, fusion would let the other kernel turn integers back into real numbers, in four times the bytes.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import tvm
from tvm import relax

from optkit.compiler.kept import keep
from optkit.compiler.values import OUT_FUSABLE

_BROADCAST = 1


class _Graph:
    """A function's variables: what they are made by, how much of it fuses, and how many read them."""

    def __init__(self, module: Any, func: Any) -> None:
        bindings = [b for block in func.body.blocks for b in block.bindings if isinstance(b, relax.VarBinding)]
        self.module = module
        self.made = {binding.var: binding.value for binding in bindings}
        self.order = {binding.var: i for i, binding in enumerate(bindings)}
        self.uses = Counter(var for binding in bindings for var in relax.analysis.free_vars(binding.value))

    def pattern(self, var: Any) -> int | None:
        """TVM's kind of the kernel that makes a variable."""
        call = self.made[var]
        if not isinstance(call, relax.Call) or call.op != tvm.ir.Op.get("relax.call_tir"):
            return None
        found = self.module[call.args[0]].attrs
        return int(found["op_pattern"]) if found and "op_pattern" in found else None

    def sources(self, var: Any) -> list[Any]:
        """What the kernel reads of what others here make."""
        return [field for field in self.made[var].args[1].fields if field in self.made]

    def quantized(self, var: Any) -> tuple[Any, Any] | None:
        """The convolution or product at the end of a chain that nothing else reads, and the last integers of it."""
        integers = None
        while self.uses[var] == 1 and (kind := self.pattern(var)) is not None:
            if kind == OUT_FUSABLE:
                return var, integers
            sources = self.sources(var)
            if kind > _BROADCAST or len(sources) != 1:
                return None
            if integers is None and str(var.ty.dtype) == "uint8":
                integers = var
            (var,) = sources
        return None


def _kept(graph: _Graph) -> set[Any]:
    found = set()
    for var in graph.made:
        kind = graph.pattern(var)
        if kind is None or kind > _BROADCAST or len(sides := graph.sources(var)) != 2:
            continue
        chains = [chain for side in sides if (chain := graph.quantized(side)) is not None]
        integers = [(graph.order[first], q) for first, q in chains if q is not None]
        if len(chains) == 2 and integers:
            found.add(min(integers, key=lambda entry: entry[0])[1])
    return found


def _keep(func: Any, module: Any, _context: Any) -> Any:
    kept = _kept(_Graph(module, func)) if isinstance(func.body, relax.SeqExpr) else set()
    return keep(func, kept)


keep_residuals: Any = relax.transform.function_pass(_keep, opt_level=0, name="optkit.keep_residuals")
"""A pass over kernels that are annotated with their kinds, before FuseOps: such integers are read from memory then."""

__all__ = ["keep_residuals"]
