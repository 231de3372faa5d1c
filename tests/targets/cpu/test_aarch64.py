"""The main templates as 64-bit Arm code, really executed: held to the sums that the code for x86 is held to.

Those of whole numbers are exact, so both compute the same bits. The second CPU has dot products of signed bytes, the
third of unsigned by signed ones; the first has none, and the emulator would refuse them.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import strategies as st

from optkit.compiler.build import prepare
from optkit.compiler.operator import Plan
from optkit.registry import find_target
from tests.targets.cpu.foreign import needs_emulator, run_foreign
from tests.targets.cpu.geometry import cases
from tests.targets.cpu.products import DIRECT_LIMIT, Drawn, Products, explore, misused

CASES = 3
"""Of every kind."""
DIRECT = ["direct", "pointwise", "depthwise", "packed"]
FORMS = [("float32", [*DIRECT, "batch_matmul"]), ("float32", ["winograd2x3"]), ("int8", DIRECT)]


@needs_emulator
@pytest.mark.parametrize(("compute", "kinds"), FORMS, ids=lambda value: value if isinstance(value, str) else value[0])
@pytest.mark.parametrize("target", ["cortex-a72", "cortex-a76", "neoverse-v1"])
def test_any_plan_of_any_geometry(target: str, compute: str, kinds: list[str], tmp_path: Path) -> None:
    machine = find_target(target)

    def check(data: st.DataObject) -> None:
        products = Products(compute)
        for kind in kinds:
            for case in data.draw(st.lists(cases(kind), min_size=CASES, max_size=CASES, unique=True)):
                products.add(case)

        def pick(plans: list[Plan]) -> Plan:
            return data.draw(st.sampled_from(plans))

        drawn = Drawn(pick, *(kind for kind in kinds if kind != "batch_matmul"))
        ready = prepare(products.marked(), machine, drawn)
        assert {operator: sites.plan for operator, sites in ready.lowered.operators.items()} == drawn.plans
        feeds = [products.feeds[name] for name in ready.lowered.input_names]
        found, kernels = run_foreign(ready, machine, feeds, tmp_path)
        assert misused(drawn, kernels, lambda _: compute) == []
        problems = products.problems(found, DIRECT_LIMIT)
        assert not problems, "\n".join(problems)

    explore(f"{target} {compute} {kinds}", check)
