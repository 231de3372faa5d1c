"""Accumulators stay in registers: no workspace, and no reduction unrolled as a whole."""

from __future__ import annotations

import re

import pytest
import tvm
from tvm import tirx

from optkit.compiler.build import prepare, tvm_target
from optkit.compiler.operator import Operator, Plan
from optkit.compiler.schedule import operator_of, schedule_module
from optkit.compiler.stack import pipeline
from optkit.registry import find_target
from optkit.tune.candidate import Only
from optkit.tune.sample import sample_model

SHORT = "conv2d {} n=1 c={} h=12 w=12 o=64 kh=1 kw=1 sh=1 sw=1 dh=1 dw=1 pt=0 pl=0 pb=0 pr=0 groups=1 b=16"


def assembly(text: str, plan: Plan) -> str:
    """A kernel's code for AVX-512, which need not run here."""
    target = find_target("icelake-server")
    operator = Operator.parse(text)
    ready = prepare(sample_model(operator), target, Only(operator, plan))
    functions = {v: f for v, f in ready.module.functions.items() if isinstance(f, tirx.PrimFunc)}
    (var,) = (v for v, f in functions.items() if operator_of(f) == text)
    machine = tvm_target(target)
    with machine:
        module, (kernel,) = schedule_module(tvm.IRModule({var: functions[var]}), target)
        assert kernel.params == plan.params
        named = module[var].with_attr("global_symbol", "f")
        library = tvm.compile(tvm.IRModule({"f": named}), machine, tir_pipeline=pipeline())
    return str(library.mod.inspect_source("asm"))


@pytest.mark.parametrize("channels", [16, 32, 128])
@pytest.mark.parametrize(("compute", "product"), [("float32", "vfmadd"), ("int8", "vpdpbusd")])
def test_a_tile_of_twenty_accumulators_is_never_spilled(compute: str, product: str, channels: int) -> None:
    code = assembly(SHORT.format(compute, channels), Plan("pointwise", {"rows": 5, "blocks": 4, "order": 0}))
    lines = code.splitlines()
    assert sum(product in line for line in lines) >= 20
    spills = [line for line in lines if re.search(r"vmov\w+\s+%zmm\d+, -?\d*\(%r[sb]p\)", line)]
    assert len(spills) <= 4
    assert "AllocWorkspace" not in code
