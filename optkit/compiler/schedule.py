"""Every fused function asks the target's rules for a schedule; none reaches the build without one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import relax, s_tir, tirx

from optkit.compiler.extents import name_extents
from optkit.compiler.joining import Joining, join
from optkit.compiler.operator import OPERATOR, Operator
from optkit.compiler.planning import Records
from optkit.errors import CompileError
from optkit.kernel import Choice
from optkit.target import Target

ATTRIBUTE = "optkit.rule"
_LAUNCH = {"tirx.kernel_launch_params": ["tirx.use_programtic_dependent_launch"]}
"""TVM's attribute of a function whose kernels are launched before the one that they wait for has ended."""


@dataclass(frozen=True)
class Labels:
    """Nodes by the name of a variable of `main`: one that a node was lowered to, or a weight of it."""

    values: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Kernel:
    """One scheduled function of the module.

    Attributes:
        calls: what it computes, one name a call in their order: a node's, where it is known.
        refused: rules that were asked before and could not schedule it, each with its reason.
        version: of the template.
        operator: text of the product it computes (`optkit.compiler.operator.Operator`), "" for none.
        tuned: whether its parameters are of a tuning record.
    """

    name: str
    rule: str
    template: str
    params: dict[str, int]
    compute: str
    calls: list[str]
    layout: str = ""
    refused: list[str] = field(default_factory=list)
    version: int = 1
    operator: str = ""
    tuned: bool = False

    def as_dict(self) -> dict[str, Any]:
        """JSON form for the manifest."""
        return {
            "name": self.name,
            "rule": self.rule,
            "template": self.template,
            "version": self.version,
            "params": dict(self.params),
            "compute": self.compute,
            "layout": self.layout,
            "operator": self.operator,
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
    func: Any, name: str, target: Target, tuned: Records | None
) -> tuple[Any, Choice, Mapping[str, int], list[str]]:
    """Apply the first choice that works: the function, the choice, its parameters, and who refused and why.

    A template that meets an epilogue it was not made for costs speed and not the whole compilation; what it
    said stays with the kernel. So do parameters that were measured for the operator where another function has it.
    """
    refused: list[str] = []
    for choice in offers(func, target):
        measured = _params(choice, func, target, tuned)
        for params in (measured, choice.params) if measured != choice.params else (measured,):
            try:
                return choice.apply(func, params), choice, params, refused
            except (RuntimeError, ValueError, IndexError) as error:
                refused.append(f"{choice.rule}: {_last_line(error)}")
    raise CompileError(f"no rule can schedule kernel {name!r}: {'; '.join(refused)}")


def _params(choice: Choice, func: Any, target: Target, tuned: Records | None) -> Mapping[str, int]:
    """Those that were measured for the function's operator, else the model's; so one by one, too.

    An open batch has the operator of a single image, and not all values that are for one.
    """
    text = operator_of(func) if choice.tunable and tuned is not None else ""
    plan = tuned.best(Operator.parse(text), target, (choice.template,)) if tuned is not None and text else None
    if plan is None:
        return choice.params
    return {
        name: value if value in choice.space.get(name, (value,)) else choice.params[name]
        for name, value in plan.params.items()
    }


def schedule_module(
    module: Any,
    target: Target,
    labels: Labels | None = None,
    tuned: Records | None = None,
    place: bool = True,
) -> tuple[Any, list[Kernel]]:
    """Schedule every PrimFunc.

    Args:
        labels: what each computes.
        tuned: plans that were measured.
        place: whether kernels may write parts of concatenations, and read parts of splits, where they lie.
    """
    joining = join(module, target.has("async_copy")) if place else Joining(module)
    module = joining.module
    calls = _calls(module, labels or Labels())
    kernels = []
    scheduled = {}
    for var, func in sorted(module.functions.items(), key=lambda item: str(item[0].name_hint)):
        if not isinstance(func, tirx.PrimFunc):
            scheduled[var] = func
            continue
        name = str(var.name_hint)
        if name in joining.gone:
            continue
        func = name_extents(func)
        result, choice, params, refused = _schedule(func, name, target, tuned)
        chosen = dict(params)
        mark = json.dumps({"rule": choice.rule, "template": choice.template, "params": chosen}, sort_keys=True)
        attrs = dict(func.attrs.items()) if func.attrs else {}
        launch = _LAUNCH if target.has("early_launch") else {}
        scheduled[var] = joining.move(name, result.with_attrs({**attrs, **launch, ATTRIBUTE: mark}))
        kernels.append(
            Kernel(
                name,
                choice.rule,
                choice.template,
                chosen,
                choice.compute,
                calls.get(name, []),
                choice.layout,
                refused,
                choice.version,
                operator_of(func),
                params is not choice.params,
            )
        )
    # A function inlined at two places brings its `let` variables twice; names must be single again.
    complete = s_tir.transform.ConvertSSA()(
        tirx.transform.BF16ComputeLegalize()(tvm.IRModule(joining.rewrite(scheduled)))
    )
    refuse_naked(complete)
    return complete, kernels


def operator_of(func: Any) -> str:
    """The text of the product that a function computes; "" where there is none or its extents are open."""
    sch = s_tir.Schedule(func)
    try:
        blocks = sch.get_child_blocks(sch.get_sblock("root"))
    except s_tir.ScheduleError:
        return ""  # loops written by hand
    marks = (sch.get(block).annotations.get(OPERATOR) for block in blocks)
    return next((str(mark) for mark in marks if mark is not None), "")


def refuse_naked(module: Any) -> None:
    """Raise CompileError where a PrimFunc has no schedule of ours."""
    for var, func in module.functions.items():
        if isinstance(func, tirx.PrimFunc) and ATTRIBUTE not in (func.attrs or {}):
            raise CompileError(f"kernel {var.name_hint!r} reached the build without a schedule")


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _calls(module: Any, labels: Labels) -> dict[str, list[str]]:
    """Which values each kernel computes, from the bindings of main and of the functions it calls.

    Fusion forgets names: where the call has a weight, its owner's is known.
    """
    found: dict[str, list[str]] = {}
    call_tir = tvm.ir.Op.get("relax.call_tir")
    functions = {str(v.name_hint): f for v, f in module.functions.items() if isinstance(f, relax.Function)}
    for name in sorted(functions, key=lambda n: (n != "main", n)):
        for block in functions[name].body.blocks:
            for binding in block.bindings:
                value = getattr(binding, "value", None)
                if isinstance(value, relax.Call) and value.op == call_tir:
                    owner = next(filter(None, map(labels.weights.get, _names(value.args[1]))), None)
                    name = str(binding.var.name)
                    found.setdefault(str(value.args[0].name_hint), []).append(owner or labels.values.get(name, name))
    return found


def _names(arguments: Any) -> list[str]:
    """Names of a call's arguments that are variables."""
    fields = arguments.fields if isinstance(arguments, relax.Tuple) else [arguments]
    return [str(a.name) for a in fields if isinstance(a, relax.Var)]


__all__ = ["ATTRIBUTE", "Kernel", "choose", "offers", "operator_of", "refuse_naked", "schedule_module"]
