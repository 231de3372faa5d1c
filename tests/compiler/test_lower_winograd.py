"""Winograd convolution: against a float64 reference over random geometry, and where it is chosen."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import onnx
import pytest
import tvm
from hypothesis import given
from hypothesis import strategies as st
from optkit_targets.cpu.kernels.winograd import WinogradRule
from tvm import te

from optkit.compiler.build import build, tvm_target
from optkit.compiler.check import check_kernels
from optkit.compiler.host import host_variant
from optkit.compiler.operator import Operator, Plan
from optkit.compiler.operators.conv import Window
from optkit.compiler.operators.winograd import winograd, winograd_by_rows, winograd_weight
from optkit.compiler.planning import candidates
from optkit.compiler.tiling import choose_tile
from optkit.compiler.values import block_array
from optkit.registry import find_target
from optkit.target import Target
from tests.compiler.bundle import BUNDLED, Bundle, relative
from tests.compiler.bundle import run as run_model
from tests.compiler.test_lower_conv import conv
from tests.graphs import build as graph
from tests.graphs import session, weights

TARGETS = ["cpu", "x86-64-v3"]
LIMIT = {2: 1e-6, 4: 5e-6}


def reference(x: np.ndarray, weight: np.ndarray, pads: tuple[int, int, int, int]) -> np.ndarray:
    """The convolution in float64."""
    top, left, bottom, right = pads
    full = np.pad(x.astype("float64"), [(0, 0), (0, 0), (top, bottom), (left, right)])
    height, width = full.shape[2] - 2, full.shape[3] - 2
    total = np.zeros((x.shape[0], weight.shape[0], height, width))
    for r in range(3):
        for s in range(3):
            taps = weight[:, :, r, s].astype("float64")
            total += np.einsum("oc,nchw->nohw", taps, full[:, :, r : r + height, s : s + width])
    return total


def run(
    target: Target, m: int, x: np.ndarray, weight: np.ndarray, pads: tuple[int, int, int, int], by_rows: bool
) -> np.ndarray:
    """The scheduled kernel, its output in plain layout."""
    b = target.lanes
    window = Window((3, 3), (1, 1), (1, 1), pads)
    oh, ow = window.output(*x.shape[2:])
    packed, blocked = winograd_weight(weight, m, b), block_array(x, b)
    tile = choose_tile(x.shape[0] * -(-oh // m) * -(-ow // m), packed.shape[1], target.registers)
    data, kernel = te.placeholder(blocked.shape, "float32", "x"), te.placeholder(packed.shape, "float32", "w")
    if by_rows:
        tile = replace(choose_tile(-(-ow // m), packed.shape[1], target.registers), more=(("by_rows", 1),))
    define = winograd_by_rows if by_rows else winograd
    func = te.create_prim_func([data, kernel, out := define(data, kernel, window, m, tile)])
    (choice,) = WinogradRule().choices(func, target) or []
    assert choice.template == f"winograd{m}x3"
    library = tvm.compile(
        tvm.IRModule({"main": choice.apply(func, choice.params).with_attr("global_symbol", "main")}), tvm_target(target)
    )
    y = tvm.runtime.tensor(np.full([int(d) for d in out.shape], np.nan, "float32"))
    library["main"](tvm.runtime.tensor(blocked), tvm.runtime.tensor(packed), y)
    plain = np.moveaxis(y.numpy(), -1, 2)
    return plain.reshape(x.shape[0], -1, oh, ow)[:, : weight.shape[0]]


@BUNDLED
@given(
    data=st.data(),
    n=st.integers(1, 2),
    channels=st.integers(1, 40),
    filters=st.integers(1, 40),
    height=st.integers(1, 11),
    width=st.integers(1, 11),
)
@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize("target", TARGETS)
def test_any_geometry(
    target: str, m: int, data: st.DataObject, n: int, channels: int, filters: int, height: int, width: int
) -> None:
    top, left = (data.draw(st.integers(0, 2)) for _ in "yx")
    bottom, right = (data.draw(st.integers(max(0, 3 - size), 2)) for size in (height + top, width + left))
    edges = (top, left, bottom, right)
    generator = np.random.default_rng(channels * 41 + filters)
    x = generator.standard_normal((n, channels, height, width), dtype="float32")
    weight = generator.standard_normal((filters, channels, 3, 3), dtype="float32")
    expected = reference(x, weight, edges)
    for by_rows in (False, True):
        found = run(find_target(target), m, x, weight, edges, by_rows)
        assert np.linalg.norm(found - expected) <= LIMIT[m] * np.linalg.norm(expected)


def templates(b: Bundle, target: Target, compute: str = "") -> list[str]:
    """Templates of the model's convolutions."""
    model = b.model()
    for node in model.graph:
        if compute and node.op_type == "Conv":
            node.metadata_props["optkit.compute_type"] = compute
    kernels = build(model, target).kernels
    return [k.template for k in kernels if k.template in ("direct", "pointwise") or k.template.startswith("winograd")]


@pytest.mark.parametrize("target", TARGETS)
def test_where_it_is_chosen(target: str) -> None:
    """Many channels, stride and dilation one, no groups: nowhere else."""
    machine = find_target(target)
    pads = {"pads": [1, 1, 1, 1]}

    def one(kernel: int = 3, group: int = 1, free: str | None = None, channels: int = 64, **more: object) -> Bundle:
        b = Bundle()
        x = b.input(1, channels, 28, 28, **({"free": free} if free else {}))
        b.case(conv(b, x, channels, 64, (kernel, kernel), group, **pads, **more), "conv")
        return b

    assert templates(one(), machine) == ["winograd4x3"]
    assert templates(one(strides=[2, 2]), machine) == ["direct"]
    assert templates(one(dilations=[2, 2]), machine) == ["direct"]
    assert templates(one(kernel=5), machine) == ["direct"]
    assert templates(one(group=4), machine) == ["direct"]
    assert templates(one(channels=3), machine) == ["direct"]
    assert templates(one(free="n"), machine) == ["winograd4x3"]
    for step, more in (("Floor", {}), ("Cast", {"to": onnx.TensorProto.INT64})):
        stepped = one()
        stepped.case(stepped.op(step, stepped.input(1, 4), **more), step)
        assert templates(stepped, machine) == ["winograd2x3"]
    if machine.has("bf16_vector") and not machine.has("bf16_tiles"):
        assert templates(one(channels=16), machine, "bfloat16") == ["direct"]
        assert templates(one(channels=256), machine, "bfloat16") == ["winograd2x3"]


@pytest.mark.parametrize("target", TARGETS)
def test_any_number_of_images(target: str) -> None:
    """Row by row, also where a known number of images would be computed all at once."""
    body = "c = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(c) d = Conv<pads=[1,0,1,0]>(r, v) y = Add(d, d)"
    constants = {"w": weights(100, 64, 3, 3, scale=0.05), "v": weights(100, 100, 3, 3, seed=2, scale=0.05)}
    model = graph(body, inputs="float[n,64,14,15] x", outputs="float[n,100,14,13] y", b=weights(100), **constants)
    built = build(model, find_target(target))
    assert [k.rule for k in built.kernels].count("cpu.winograd") == 2
    for images in (0, 1, 3):
        x = weights(images, 64, 14, 15, seed=images)
        expected = session(model).run(None, {"x": x})[0]
        (found,) = run_model(built, [x])
        assert found.shape == expected.shape and relative(expected, found) < 1e-5


def test_whole_numbers_stay_whole_in_bfloat16() -> None:
    """Direct sums of what bfloat16 holds are exact; tiles of it would not be."""
    numbers = np.random.default_rng(0)
    b = Bundle()
    x = b.input(1, 256, 14, 14, values=numbers.integers(0, 256, (1, 256, 14, 14)).astype("float32"))
    weight = numbers.integers(-8, 9, (256, 256, 3, 3)).astype("float32")
    b.case(b.op("Floor", b.op("Conv", x, b.const(weight), pads=[1, 1, 1, 1])), "floor")
    model = b.model()
    for node in model.graph:
        node.metadata_props["optkit.compute_type"] = "bfloat16"
    (found,) = run_model(build(model, find_target("cpu")), [b.feeds[x]])
    np.testing.assert_array_equal(found, reference(b.feeds[x], weight, (1, 1, 1, 1)))


def test_bfloat16_is_multiplied_only_in_small_tiles() -> None:
    """F(2, 3) of bfloat16 as accurate as its products, F(4, 3) in float32, and the records say which."""
    machine = find_target("cooperlake")
    if reason := machine.runs_here():
        pytest.skip(reason)
    for size, template, compute, least, most in ((14, 2, "bfloat16", 1e-3, 6e-3), (56, 4, "float32", 0, 5e-6)):
        b = Bundle()
        x = b.input(1, 64, size, size)
        weight = b.normal(128, 64, 3, 3)
        b.case(b.op("Conv", x, b.const(weight), pads=[1, 1, 1, 1]), "conv")
        model = b.model()
        for node in model.graph:
            node.metadata_props["optkit.compute_type"] = "bfloat16"
        built = build(model, machine, tuned=Wanted(f"winograd{template}x3"))
        (found,) = run_model(built, [b.feeds[x]])
        expected = reference(b.feeds[x], weight, (1, 1, 1, 1))
        error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        assert least <= error <= most, error
        assert [record.compute for record in built.nodes] == [compute]
        assert [k.compute for k in built.kernels if k.template == f"winograd{template}x3"] == [compute]


class Wanted:
    """Records that know one template."""

    def __init__(self, template: str) -> None:
        self.template = template

    def best(self, operator: Operator, target: Target, templates: Collection[str]) -> Plan:
        """The first plan of the template."""
        assert self.template in templates
        return next(p for p in candidates(operator, target, templates) if p.template == self.template)


@pytest.mark.parametrize("target", [*TARGETS, "cortex-a76"])
def test_epilogues_are_fused_and_schedules_change_nothing(target: str) -> None:
    """Bias, residual and activation, SiLU's two reads of its input among them, against ONNX Runtime."""
    machine = find_target(target)
    machine = machine if machine.runs_here() is None else host_variant(machine)
    b = Bundle()
    x = b.input(1, 48, 13, 10)
    first = b.op("Relu", b.op("Add", conv(b, x, 48, 48, (3, 3), pads=[1, 1, 1, 1]), x))
    second = conv(b, first, 48, 80, (3, 3), pads=[1, 1, 1, 1])
    b.case(b.op("Mul", second, b.op("Sigmoid", second)), "residual and SiLU")
    built = b.check(machine)
    kernels = [k for k in built.kernels if k.template.startswith("winograd")]
    assert len(kernels) == 2 and all("fused" in k.name for k in kernels)
    assert [str(m) for m in check_kernels(b.model(), machine)] == []


def test_other_cpus_get_their_vectors() -> None:
    b = Bundle()
    x = b.input(1, 64, 14, 14)
    b.case(conv(b, x, 64, 64, (3, 3), pads=[1, 1, 1, 1]), "conv")
    built = b.build("cortex-a76")
    assert any(k.template.startswith("winograd") for k in built.kernels)
    assert "fmla" in built.assembly()


def test_whole_numbers_stay_whole() -> None:
    """Where a model counts or compares, sums of whole numbers are exact, as direct ones are."""
    b = Bundle()
    x = b.input(1, 64, 28, 28, values=np.random.default_rng(0).integers(-9, 10, (1, 64, 28, 28)).astype("float32"))
    weight = np.random.default_rng(1).integers(-4, 5, (64, 64, 3, 3)).astype("float32")
    b.case(b.op("Floor", b.op("Conv", x, b.const(weight), pads=[1, 1, 1, 1])), "floor")
    built = b.build()
    assert any(k.template == "winograd2x3" for k in built.kernels)
    (found,) = run_model(built, [b.feeds[x]])
    np.testing.assert_array_equal(found, reference(b.feeds[x], weight, (1, 1, 1, 1)))
