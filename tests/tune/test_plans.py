"""Every plan that tuning may choose computes what its unscheduled self does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optkit.compiler.build import prepare
from optkit.compiler.check import check_prepared
from optkit.compiler.host import host_variant
from optkit.compiler.operator import Operator
from optkit.compiler.planning import TILES, candidates, default_plan, predicted_cycles, templates
from optkit.registry import find_target
from optkit.tune.candidate import Only
from optkit.tune.sample import sample_model
from tests.compiler.bundle import BUNDLED
from tests.targets.cpu.products import in_vectors


@st.composite
def operators(draw: st.DrawFn, b: int, pairs: bool) -> Operator:
    """A product of every kind, small."""
    compute = draw(st.sampled_from(["float32", "int8", *(["bfloat16"] if pairs else [])]))
    kind = draw(st.sampled_from(["conv2d", "conv2d", "depthwise", "matmul", "batch_matmul"]))
    size = st.integers(1, 40)
    if kind == "matmul":
        return Operator(kind, compute, (draw(size), draw(size), draw(size)))
    if kind == "batch_matmul":
        return Operator(kind, "float32", (draw(st.integers(1, 3)), draw(size), draw(size), draw(size)))
    side, stride = draw(st.sampled_from([1, 3, 5])), draw(st.integers(1, 2))
    pads = [draw(st.integers(0, side // 2)) for _ in range(4)]
    image = (draw(st.integers(6, 19)), draw(st.integers(6, 19)))
    blocks = draw(st.integers(1, 3)) * b
    window = (side, side, stride, stride, 1, 1, *pads)
    if kind == "depthwise":
        return Operator(kind, compute, (1, blocks, *image, *window))
    filters = draw(st.integers(1, 4)) * b
    if draw(st.booleans()):
        return Operator(kind, compute, (draw(st.integers(1, 2)), blocks, *image, filters, *window, 1, b))
    first = {"float32": (3, 1), "int8": (4, 4), "bfloat16": (4, 4)}[compute]
    return Operator(kind, compute, (1, first[0], *image, filters, *window, 1, first[1]))


@pytest.mark.parametrize("name", ["cpu", "x86-64-v3"])
@BUNDLED
@given(st.data())
def test_candidates_compute_the_same(name: str, data: st.DataObject) -> None:
    target = in_vectors(find_target(name))
    if target.runs_here():
        pytest.skip(target.runs_here() or "")
    for _ in range(4):
        operator = data.draw(operators(target.lanes, target.has("bf16_pairs")))
        allowed = templates(operator, 4 if "kh=3 kw=3 sh=1" in str(operator) and operator.compute == "float32" else 0)
        plans = candidates(operator, target, allowed)
        assert plans[0] == default_plan(operator, target, allowed)
        assert len(set(plans)) == len(plans)
        assert all(predicted_cycles(operator, plan, target) > 0 for plan in plans)
        plan = data.draw(st.sampled_from(plans))
        ready = prepare(sample_model(operator), target, Only(operator, plan))
        assert ready.lowered.operators[operator].plan == plan
        assert check_prepared(ready, target) == []


@pytest.mark.parametrize(
    "text",
    [
        "conv2d int8 n=1 c=64 h=9 w=9 o=96 kh=3 kw=3 sh=2 sw=2 dh=1 dw=1 pt=1 pl=1 pb=1 pr=1 groups=1 b=64",
        "conv2d int8 n=1 c=32 h=9 w=21 o=64 kh=1 kw=1 sh=1 sw=1 dh=1 dw=1 pt=0 pl=0 pb=0 pr=0 groups=1 b=32",
        "conv2d int8 n=1 c=4 h=19 w=17 o=32 kh=5 kw=5 sh=2 sw=2 dh=1 dw=1 pt=2 pl=2 pb=2 pr=2 groups=1 b=4",
        "conv2d bfloat16 n=1 c=64 h=9 w=21 o=32 kh=3 kw=3 sh=1 sw=1 dh=1 dw=1 pt=1 pl=1 pb=1 pr=1 groups=1 b=32",
        "matmul int8 m=19 k=96 n=48",
        "batch_matmul bfloat16 batch=2 m=19 k=64 n=48",
    ],
)
def test_samples_meet_operators_in_tile_registers(text: str) -> None:
    operator, target = Operator.parse(text), host_variant(find_target("sapphirerapids"))
    for plan in candidates(operator, target, (TILES,))[::7]:
        ready = prepare(sample_model(operator), target, Only(operator, plan))
        assert ready.lowered.operators[operator].plan == plan
        assert check_prepared(ready, target) == []


def test_a_text_that_is_no_operator_is_refused() -> None:
    for text in ("", "conv2d", "matmul float32 m=1 k=2", "matmul float32 m=1 k=2 n=x", "sum float32 m=1"):
        with pytest.raises(ValueError):
            Operator.parse(text)
