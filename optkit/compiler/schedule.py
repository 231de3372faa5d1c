"""Every fused function asks the target's rules for a schedule; none reaches the build without one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import relax, tirx

from optkit.compiler.extents import name_extents
from optkit.errors import CompileError
from optkit.kernel import Choice
from optkit.target import Target

ATTRIBUTE = "optkit.rule"


@dataclass
class Kernel:
    """One scheduled function of the module.

    Attributes:
        calls: the names of the graph values it computes, one a call.
        refused: rules that were asked before and could not schedule it, each with its reason.
    """

    name: str
    rule: str
    template: str
    params: dict[str, int]
    compute: str
    calls: list[str]
    layout: str = ""
    refused: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """JSON form for the manifest."""
        return {
            "name": self.name,
            "rule": self.rule,
            "template": self.template,
            "params": dict(self.params),
            "compute": self.compute,
            "layout": self.layout,
            "refused": self.refused,
            "calls": self.calls,
        }


def choose(func: Any, target: Target) -> Choice:
    """The first choice of the first rule that has one."""
    return next(offers(func, target))


def offers(func: Any, target: Target) -> Iterator[Choice]:
    """Every rule's choices, in the order they are asked."""
    answered = False
    for rule in target.rules():
        choices = rule.choices(func, target) or []
        answered = answered or bool(choices)
        yield from choices
    if not answered:
        raise CompileError(f"no rule of target {target.name!r} answers for a kernel; the last one must")


def _schedule(
    func: Any, name: str, target: Target, params: Mapping[str, int]
) -> tuple[Any, Choice, dict[str, int], list[str]]:
    """Apply the first choice that works: the function, the choice, its parameters, and who refused and why.

    A template that meets an epilogue it was not made for costs speed and not the whole compilation; what it
    said stays with the kernel.
    """
    refused: list[str] = []
    for choice in offers(func, target):
        chosen = {**choice.params, **params}
        try:
            return choice.apply(func, chosen), choice, chosen, refused
        except (RuntimeError, ValueError, IndexError) as error:
            refused.append(f"{choice.rule}: {_last_line(error)}")
    raise CompileError(f"no rule can schedule kernel {name!r}: {'; '.join(refused)}")


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
        func = name_extents(func)
        result, choice, chosen, refused = _schedule(func, name, target, params.get(name, {}))
        mark = json.dumps({"rule": choice.rule, "template": choice.template, "params": chosen}, sort_keys=True)
        attrs = dict(func.attrs.items()) if func.attrs else {}
        scheduled[var] = result.with_attrs({**attrs, ATTRIBUTE: mark})
        made = calls.get(name, [])
        kernels.append(Kernel(name, choice.rule, choice.template, chosen, choice.compute, made, choice.layout, refused))
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
    """Which values each kernel computes, from the bindings of main and of the functions it calls."""
    found: dict[str, list[str]] = {}
    call_tir = tvm.ir.Op.get("relax.call_tir")
    functions = {str(v.name_hint): f for v, f in module.functions.items() if isinstance(f, relax.Function)}
    for name in sorted(functions, key=lambda n: (n != "main", n)):
        for block in functions[name].body.blocks:
            for binding in block.bindings:
                value = getattr(binding, "value", None)
                if isinstance(value, relax.Call) and value.op == call_tir:
                    found.setdefault(str(value.args[0].name_hint), []).append(str(binding.var.name))
    return found


__all__ = ["ATTRIBUTE", "Kernel", "choose", "offers", "refuse_naked", "schedule_module"]
