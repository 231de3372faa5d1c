"""Every fused function asks the target's rules for a schedule; none reaches the build without one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax, tirx

from optkit.errors import CompileError
from optkit.kernel import Choice
from optkit.target import Target

ATTRIBUTE = "optkit.rule"


@dataclass
class Kernel:
    """One scheduled function of the module.

    Attributes:
        calls: the names of the graph values it computes, one a call.
    """

    name: str
    rule: str
    template: str
    params: dict[str, int]
    compute: str
    calls: list[str]
    layout: str = ""

    def as_dict(self) -> dict[str, Any]:
        """JSON form for the manifest."""
        return {
            "name": self.name,
            "rule": self.rule,
            "template": self.template,
            "params": dict(self.params),
            "compute": self.compute,
            "layout": self.layout,
            "calls": self.calls,
        }


def choose(func: Any, target: Target) -> Choice:
    """The first choice of the first rule that has one."""
    for rule in target.rules():
        choices = rule.choices(func, target)
        if choices:
            return choices[0]
    raise CompileError(f"no rule of target {target.name!r} answers for a kernel; the last one must")


def schedule_module(module: Any, target: Target, params: Mapping[str, Mapping[str, int]]) -> tuple[Any, list[Kernel]]:
    """Schedule every PrimFunc; `params` overrides a kernel's parameters by its name."""
    calls = _calls(module)
    kernels = []
    scheduled = {}
    for var, func in sorted(module.functions.items(), key=lambda item: str(item[0].name_hint)):
        if not isinstance(func, tirx.PrimFunc):
            scheduled[var] = func
            continue
        name = str(var.name_hint)
        choice = choose(func, target)
        chosen = {**choice.params, **params.get(name, {})}
        try:
            result = choice.apply(func, chosen)
        except (RuntimeError, ValueError, IndexError) as error:
            raise CompileError(f"{choice.rule} cannot schedule kernel {name!r}: {_last_line(error)}") from error
        mark = json.dumps({"rule": choice.rule, "template": choice.template, "params": chosen}, sort_keys=True)
        attrs = dict(func.attrs.items()) if func.attrs else {}
        scheduled[var] = result.with_attrs({**attrs, ATTRIBUTE: mark})
        kernels.append(
            Kernel(name, choice.rule, choice.template, chosen, choice.compute, calls.get(name, []), choice.layout)
        )
    # A function inlined at two places brings its `let` variables twice; names must be single again.
    complete = tvm.s_tir.transform.ConvertSSA()(tirx.transform.BF16ComputeLegalize()(tvm.IRModule(scheduled)))
    refuse_naked(complete)
    return complete, kernels


def refuse_naked(module: Any) -> None:
    """Raise CompileError where a PrimFunc has no schedule of ours."""
    for var, func in module.functions.items():
        if isinstance(func, tirx.PrimFunc) and ATTRIBUTE not in (func.attrs or {}):
            raise CompileError(f"kernel {var.name_hint!r} reached the build without a schedule")


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _calls(module: Any) -> dict[str, list[str]]:
    """Which values each kernel computes, from main's bindings."""
    found: dict[str, list[str]] = {}
    call_tir = tvm.ir.Op.get("relax.call_tir")
    for block in module["main"].body.blocks:
        for binding in block.bindings:
            value = getattr(binding, "value", None)
            if isinstance(value, relax.Call) and value.op == call_tir:
                found.setdefault(str(value.args[0].name_hint), []).append(str(binding.var.name))
    return found


__all__ = ["ATTRIBUTE", "Kernel", "choose", "refuse_naked", "schedule_module"]
