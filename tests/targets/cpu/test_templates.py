"""Every template in every arithmetic, by any of its plans, against exact sums: random geometry, on each level of x86.

What distinguishes the levels: vectors of 8 or 16 lanes, for int8 pairs of products or fours of them (VNNI, of either
width), for bfloat16 plain arithmetic or an instruction for pairs.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st

from optkit.compiler.build import build
from optkit.compiler.operator import Plan
from optkit.registry import find_target
from tests.compiler.bundle import run
from tests.targets.cpu.geometry import Conv, cases
from tests.targets.cpu.products import (
    DIRECT_LIMIT,
    LARGE_TILES_LIMIT,
    ROUNDED_TILES_LIMIT,
    Drawn,
    Products,
    explore,
    in_vectors,
    misused,
)
from tests.targets.cpu.test_scheduled_models import runnable

TARGETS = ["x86-64-v3", "alderlake", "x86-64-v4", "cpu"]
CASES = 4
DIRECT = ["direct", "pointwise", "depthwise", "packed"]
TILES = ["winograd2x3", "winograd4x3"]
FORMS = [
    *(("float32", template) for template in (*DIRECT, "batch_matmul", *TILES)),
    *(("int8", template) for template in DIRECT),
    *(("bfloat16", template) for template in (*DIRECT, "batch_matmul", *TILES)),
]


def limit(compute: str, template: str) -> float:
    """Of the error's norm."""
    if template == "winograd4x3":
        return LARGE_TILES_LIMIT
    return ROUNDED_TILES_LIMIT if (compute, template) == ("bfloat16", "winograd2x3") else DIRECT_LIMIT


@pytest.mark.parametrize(("compute", "template"), FORMS)
@pytest.mark.parametrize("target", TARGETS)
def test_any_plan_of_any_geometry(target: str, compute: str, template: str) -> None:
    machine = in_vectors(runnable(target))
    if template in TILES and compute == "bfloat16" and not machine.has("bf16_pairs"):
        pytest.skip(f"{target} computes Winograd's algorithm in float32")

    def check(data: st.DataObject) -> None:
        # The simplest example would be as many equal cases.
        chosen = data.draw(st.lists(cases(template), min_size=CASES, max_size=CASES, unique=True))
        products = Products(compute, template)
        for case in chosen:
            products.add(case)

        def pick(plans: list[Plan]) -> Plan:
            return data.draw(st.sampled_from(plans))

        def arithmetic(plan: Plan) -> str:
            return "float32" if plan.template == "winograd4x3" else compute

        drawn = Drawn(pick, "packed" if template == "batch_matmul" else template)
        built = build(products.marked(), machine, tuned=drawn)
        assert {operator: sites.plan for operator, sites in built.operators.items()} == drawn.plans
        assert misused(drawn, built.kernels, arithmetic) == []
        assert {r.compute for r in built.nodes} == {arithmetic(plan) for plan in drawn.plans.values()}
        found = run(built, [products.feeds[i.name] for i in built.inputs])
        problems = products.problems(found, limit(compute, template))
        assert not problems, "\n".join(problems)

    explore(f"{target} {compute} {template}", check)


def test_no_template_is_forgotten() -> None:
    """Products in tile registers have tests of their own, `test_tiles`."""
    assert {template for _, template in FORMS} - {"batch_matmul"} | {"tiles"} == set(find_target("cpu").templates())


@pytest.mark.parametrize("compute", ["float32", "int8", "bfloat16"])
def test_one_wrong_element_is_noticed(compute: str) -> None:
    """By one where numbers are whole, by little more than rounding elsewhere; a NaN; a shape."""
    products = Products(compute)
    products.add(Conv(1, 1, 8, 4, (5, 5), (3, 3), (1, 1), (1, 1), (0, 0, 0, 0), False, False, False))
    (case,) = products.expected
    right = case.exact.astype("int32" if compute == "int8" else "float32")
    assert products.problems([right], DIRECT_LIMIT) == []
    for error in [1] if compute == "int8" else [2 * DIRECT_LIMIT * case.norm, np.nan]:
        wrong = right.copy()
        wrong[0, 3, 2, 1] += error
        assert len(products.problems([wrong], DIRECT_LIMIT)) == 1
    assert len(products.problems([right[:, 1:]], DIRECT_LIMIT)) == 1
