"""Every GPU schedule against the unscheduled kernel, with threads run as loops on the CPU."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import pytest
import tvm
import tvm_ffi
from tvm import tirx

from optkit.api import transform
from optkit.compiler.build import prepare
from optkit.compiler.check import check_prepared
from optkit.compiler.operator import Operator, Plan
from optkit.compiler.schedule import choose, schedule_module
from optkit.kernel import TunableRule
from optkit.pipeline import Pipeline
from optkit.plan import choose_pipeline
from optkit.registry import find_target
from optkit.target import Target
from tests.graphs import build, weights
from tests.targets.cuda.joined import cropped, skip
from tests.targets.cuda.models import (
    cnn,
    deep,
    far_apart,
    grouped,
    groups,
    mixed,
    narrow,
    open_tokens,
    others,
    rows,
    tokens,
)
from tests.targets.cuda.reduced import reductions
from tests.targets.cuda.simulate import simulated
from tests.targets.cuda.transformers import attention, encoder, heads

MODELS: dict[str, Callable[[], ir.Model]] = {
    "cnn": cnn,
    "cnn-batch": lambda: cnn("n"),
    "deep": deep,
    "deep-batch": lambda: deep("n"),
    "tokens": tokens,
    "tokens-batch": lambda: tokens("n"),
    "tokens-open": open_tokens,
    "attention": attention,
    "attention-batch": lambda: attention("n"),
    "heads": heads,
    "heads-batch": lambda: heads("n"),
    "rows": rows,
    "reductions": reductions,
    "reductions-batch": lambda: reductions("n"),
}
UNEVEN = {
    f"groups of {channels} to {out}": functools.partial(grouped, groups, channels=channels, out=out)
    for groups, channels, out in ((16, 2, 17), (10, 3, 13), (32, 1, 4), (5, 20, 12), (3, 8, 32), (2, 64, 1))
}
"""Groups of channels that are no whole blocks or tiles."""
OF_SOME: dict[str, Callable[[], ir.Model]] = {
    **UNEVEN,
    "encoder": encoder,
    "groups": groups,
    "skip": skip,
    "cropped": cropped,
    "skip-batch": lambda: skip("n"),
    "narrow": narrow,
    "mixed": mixed,
}
"""Models for some precisions each."""
REDUCED = ("reductions", "reductions-batch")
"""Without a layer that INT8 is for."""
CORNERS = [
    ("deep", "int8"),
    ("deep", "fp16"),
    ("tokens", "int8"),
    ("tokens", "fp16"),
    ("heads", "fp16"),
    ("heads", "bf16"),
    ("deep", "bf16"),
    ("deep", "tf32"),
    ("tokens", "tf32"),
    ("cnn", "default"),
    ("cnn", "int8"),
    ("attention", "int8"),
    ("rows", "default"),
    ("rows", "int8"),
    ("reductions", "default"),
    ("groups", "fp16"),
    ("skip", "fp16"),
]
CASES = [
    *((name, pipeline) for name in MODELS for pipeline in ("default", "fp16" if name in REDUCED else "int8")),
    ("cnn", "fp16"),
    ("cnn", "bf16"),
    ("cnn", "tf32"),
    *(
        (name, "fp16")
        for name in ("deep", "deep-batch", "tokens", "tokens-batch", "tokens-open", "heads", "heads-batch")
    ),
    *((name, kind) for name in ("deep", "tokens", "heads") for kind in ("bf16", "tf32")),
    ("heads-batch", "bf16"),
    ("attention", "bf16"),
    ("encoder", "int8-fp16"),
    ("encoder", "bf16"),
    ("narrow", "fp16"),
    *(("groups", pipeline) for pipeline in ("int8", "fp16", "tf32")),
    *(("skip", pipeline) for pipeline in ("int8", "fp16", "bf16")),
    ("skip-batch", "fp16"),
    ("cropped", "fp16"),
    *((name, "int8") for name in UNEVEN),
    *(("mixed", pipeline) for pipeline in ("int8", "fp16", "bf16")),
]


def passed(model: ir.Model, pipeline: str) -> ir.Model:
    """The model after a named pipeline."""
    chosen: Pipeline = choose_pipeline(pipeline, {})
    return transform(model, chosen).model


@pytest.mark.parametrize(("name", "pipeline"), CASES)
def test_schedules_compute_what_the_unscheduled_kernels_do(name: str, pipeline: str) -> None:
    target = find_target("cuda:sm_80")
    ready = prepare(passed((MODELS | OF_SOME)[name](), pipeline), target)
    assert check_prepared(ready, simulated(target)) == []


@pytest.mark.parametrize(
    ("name", "pipeline", "arch"),
    [*((*case, "sm_80") for case in CORNERS), ("deep", "fp16", "sm_90"), ("tokens", "int8", "sm_90")],
)
def test_the_largest_tiles_compute_it_too(name: str, pipeline: str, arch: str) -> None:
    target = find_target(f"cuda:{arch}")
    ready = prepare(passed((MODELS | OF_SOME)[name](), pipeline), target)
    assert check_prepared(ready, simulated(target, largest=True)) == []


def test_an_integer_convolution_ends_with_the_silu_behind_it() -> None:
    target = find_target("cuda:sm_80")
    ready = prepare(passed(mixed(), "int8"), target)
    with tvm.target.Target(dict(target.tvm)):
        _, kernels = schedule_module(ready.module, target, ready.labels)
    (found,) = (kernel for kernel in kernels if "sigmoid" in kernel.name)
    assert found.rule == "cuda.tensor_conv"
    assert "quantize" in found.name and "multiply" in found.name


@dataclass(frozen=True)
class Divided:
    """Records of which every one divides a tile among eight thread blocks."""

    def best(self, operator: Operator, target: Target, templates: Collection[str]) -> Plan | None:
        plans = (
            plan for rule in target.rules() if isinstance(rule, TunableRule) for plan in rule.plans(operator, target)
        )
        return next((p for p in plans if p.template in templates and p.params["parts"] == 8), None)


@pytest.mark.parametrize(("batch", "parts"), [("2", 8), ("n", 1)])
def test_thread_blocks_share_a_tile_only_where_the_batch_is_known(batch: str, parts: int) -> None:
    target = find_target("cuda:sm_80")
    ready = prepare(passed(deep(batch), "fp16"), target)
    with tvm.target.Target(dict(target.tvm)):
        _, kernels = schedule_module(ready.module, target, ready.labels, Divided())
    found = [kernel for kernel in kernels if kernel.rule == "cuda.tensor_conv"]
    assert [kernel.params["parts"] for kernel in found] == [parts] * 4
    assert all(kernel.tuned and not kernel.refused for kernel in found)


@dataclass(frozen=True)
class InBulk:
    """Records of which every one lets weights come in bulk where the operator allows it."""

    def best(self, operator: Operator, target: Target, templates: Collection[str]) -> Plan | None:
        plans = (
            plan for rule in target.rules() if isinstance(rule, TunableRule) for plan in rule.plans(operator, target)
        )
        return next((p for p in plans if p.template in templates and p.params["cast"]), None)


def transposed() -> ir.Model:
    """Channels out in blocks of four, though there are sixteen fours of them with all phases."""
    return build(
        "y = ConvTranspose<strides=[2,2], pads=[1,1,1,1]>(x, w)",
        inputs="float[1,64,9,9] x",
        outputs="float[1,12,18,18] y",
        w=weights(64, 12, 4, 4, seed=0, scale=0.1),
    )


def test_records_that_do_not_suit_a_function_leave_it_to_the_model() -> None:
    target = find_target("cuda:sm_90")
    ready = prepare(passed(transposed(), "fp16"), target)
    with tvm.target.Target(dict(target.tvm)):
        _, kernels = schedule_module(ready.module, target, ready.labels, InBulk())
    (found,) = (kernel for kernel in kernels if kernel.operator)
    assert found.rule == "cuda.tensor_conv"
    assert not found.params["cast"]
    assert found.refused == ["cuda.tensor_conv: the tile does not suit these channels and layouts"]


@pytest.mark.parametrize(("pipeline", "rows"), [("fp16", "n"), ("int8", "n"), ("fp16", "64")])
def test_what_no_gpu_has_run_is_no_default(pipeline: str, rows: str) -> None:
    target = find_target("cuda:sm_90")
    product = build(
        "y = MatMul(x, w)",
        inputs=f"float[{rows},2048] x",
        outputs=f"float[{rows},512] y",
        w=weights(2048, 512, seed=0, scale=0.02),
    )
    ready = prepare(passed(product, pipeline), target)
    with tvm.target.Target(dict(target.tvm)):
        _, kernels = schedule_module(ready.module, target, ready.labels)
    (found,) = (kernel for kernel in kernels if kernel.rule == "cuda.tensor_matmul")
    assert not found.params["cast"]


def test_the_comparison_sees_a_wrong_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    from optkit_targets.cuda.kernels import conv

    monkeypatch.setattr(conv, "use_dp4a", lambda func: func)
    monkeypatch.setattr(conv, "finish", _without_first_step)
    target = find_target("cuda:sm_80")
    found = check_prepared(prepare(passed(cnn(), "int8"), target), simulated(target))
    assert {m.rule.split("/")[0] for m in found} == {"cuda.conv"}


def _without_first_step(sch: Any) -> Any:
    """A convolution that forgets the first step of each reduction over kernel columns."""

    def loop(node: Any) -> Any:
        if node.kind == tirx.ForKind.SERIAL and int(node.extent) > 1 and isinstance(node.body, tirx.SeqStmt):
            return tirx.For(node.loop_var, 1, node.extent - 1, node.kind, node.body)
        return node

    func = sch.mod["main"]
    return func.with_body(tvm_ffi.structural_map(func.body, (tirx.For, loop)))


@pytest.mark.parametrize("build", [cnn, attention, others, far_apart], ids=lambda b: b.__name__)
def test_launches_keep_to_the_limits_of_every_gpu(build: Callable[[], ir.Model]) -> None:
    target = find_target("cuda:sm_75")
    ready = prepare(passed(build(), "default"), target)
    functions = {v.name_hint: f for v, f in ready.module.functions.items() if isinstance(f, tirx.PrimFunc)}
    assert functions
    for name, func in functions.items():
        choice = choose(func, target)
        with tvm.target.Target(dict(target.tvm)):
            extents = _launch(choice.apply(func, choice.params))
        threads = 1
        for axis in "xyz":
            threads *= extents.get(f"threadIdx.{axis}", 1)
        assert any(tag.startswith(("threadIdx", "blockIdx")) for tag in extents), name
        assert threads <= 1024, (name, extents)
        assert max(extents.get("blockIdx.y", 1), extents.get("blockIdx.z", 1)) <= 65535, (name, extents)


@pytest.mark.parametrize("batch", ["70000", "n"])
def test_attention_of_any_batch_keeps_to_the_limits_of_a_grid(batch: str) -> None:
    """Along one axis only a grid has more than 65535 blocks."""
    model = build(
        """
        s = MatMul(x, k)
        p = Softmax<axis=-1>(s)
        y = MatMul(p, v)
        """,
        inputs=f"float[{batch},9,8] x, float[{batch},8,9] k, float[{batch},9,8] v",
        outputs=f"float[{batch},9,8] y",
    )
    target = find_target("cuda:sm_80")
    ready = prepare(passed(model, "fp16"), target)
    (func,) = [f for v, f in ready.module.functions.items() if "attention" in v.name_hint]
    choice = choose(func, target)
    assert choice.rule == "cuda.tensor_attention"
    with tvm.target.Target(dict(target.tvm)):
        extents = _launch(choice.apply(func, choice.params))
    assert extents == {"blockIdx.x": 1 if batch == "n" else 70000, "threadIdx.x": 128}


def _launch(func: Any) -> dict[str, int]:
    """The largest extent of each thread axis in the function's launches; symbolic ones are left out."""
    found: dict[str, int] = {}

    def note(tag: str, extent: Any) -> None:
        size = int(extent) if isinstance(extent, (int, tirx.IntImm)) else 1
        found[tag] = max(found.get(tag, 1), size)

    def loop(node: Any) -> None:
        if node.kind == tirx.ForKind.THREAD_BINDING:
            note(str(node.thread_binding.thread_tag), node.extent)

    def attribute(node: Any) -> None:
        if node.attr_key == "thread_extent":
            note(str(node.node.thread_tag), node.value)

    tvm_ffi.structural_walk(func.body, [(tirx.For, loop), (tirx.AttrStmt, attribute)])
    return found
