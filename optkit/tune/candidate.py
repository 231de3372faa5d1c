"""One candidate: an operator computed by one plan, as a shared library with one function."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tvm
from tvm import tirx

from optkit.artifact.link import link_library
from optkit.compiler.build import prepare, source_of_devices, stage, tvm_target
from optkit.compiler.operator import Operator, Plan
from optkit.compiler.schedule import operator_of, schedule_module
from optkit.compiler.stack import pipeline
from optkit.errors import CompileError
from optkit.target import Target
from optkit.tune.sample import sample_model

FUNCTION = "candidate"


@dataclass(frozen=True)
class Only:
    """Records that know one plan."""

    operator: Operator
    plan: Plan

    def best(self, operator: Operator, target: Target, templates: Collection[str]) -> Plan | None:
        return self.plan if operator == self.operator and self.plan.template in templates else None


@dataclass(frozen=True)
class Argument:
    """A parameter of a candidate's function.

    Attributes:
        constant: it is a weight, which a model reads from memory once a run.
    """

    shape: tuple[int, ...]
    dtype: str
    constant: bool

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


def build_candidate(operator: Operator, plan: Plan, target: Target, out: Path) -> list[Argument]:
    """Compile a candidate into the shared library `out`, whose function is `FUNCTION`; its parameters in order.

    Raises:
        CompileError: the plan does not fit the operator, or does not compile.
    """
    ready = prepare(sample_model(operator), target, Only(operator, plan))
    if operator not in ready.lowered.operators:
        raise CompileError(f"no model has the operator {operator}")
    functions = {v: f for v, f in ready.module.functions.items() if isinstance(f, tirx.PrimFunc)}
    (var,) = (v for v, f in functions.items() if operator_of(f) == str(operator))
    func = functions[var]
    machine = tvm_target(target)
    with machine, stage(f"{plan} does not compile"):
        module, (kernel,) = schedule_module(tvm.IRModule({var: func}), target, tuned=Only(operator, plan))
        if kernel.template != plan.template or dict(kernel.params) != dict(plan.params):
            refused = "; ".join(kernel.refused) or f"became {kernel.template} {dict(kernel.params)}"
            raise CompileError(f"{plan}: {refused}")
        named = module[var].with_attr("global_symbol", FUNCTION)
        with source_of_devices():
            compiled = tvm.compile(tvm.IRModule({FUNCTION: named}), machine, tir_pipeline=pipeline())
    link_library(target.package(compiled), out)
    weights = {tuple(array.shape) for _, array in ready.weights}
    return [
        Argument(shape, str(p.dtype), shape in weights)
        for p in func.params
        for shape in (tuple(int(d) for d in p.shape),)
    ]
