"""Windows over blocks of 4, 8 and 16 channels: what threads do, and that it is what the unscheduled kernel computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
import tvm_ffi
from optkit_targets.cuda.kernels.window import DepthwiseRule, PoolRule
from tvm import te, tirx

from optkit.compiler.operators.conv import Window, depthwise2d
from optkit.compiler.operators.pool import global_sum, max_pool2d
from optkit.compiler.tiling import Tile
from optkit.registry import find_target
from tests.targets.cuda.simulate import serial

WINDOW = Window((3, 3), (1, 1), (1, 1), (1, 1, 1, 1))


def depthwise(b: int, dtype: str, size: int) -> list[te.Tensor]:
    data = te.placeholder((2, 6, size, size, b), dtype, "data")
    weight = te.placeholder((6, 3, 3, b), "int8" if dtype == "uint8" else dtype, "weight")
    sums = depthwise2d(data, weight, WINDOW, 0, Tile(1, 1, size))
    return [data, weight, te.compute(sums.shape, lambda *i: sums(*i) * te.const(2, str(sums.dtype)), "scaled")]


def highest(b: int, dtype: str, size: int) -> list[te.Tensor]:
    data = te.placeholder((2, 6, size, size, b), dtype, "data")
    return [data, max_pool2d(data, WINDOW, ceil=False)]


def whole(b: int, dtype: str, size: int) -> list[te.Tensor]:
    data = te.placeholder((2, 6, size, size, b), dtype, "data")
    sums = global_sum(data)
    return [data, te.compute(sums.shape, lambda *i: sums(*i) * te.const(2, str(sums.dtype)), "scaled")]


RULES = {depthwise: DepthwiseRule(), highest: PoolRule(), whole: PoolRule()}


def scheduled(build: Any, b: int, dtype: str, size: int) -> tuple[Any, Any, list[te.Tensor]]:
    """The function, its schedule and its tensors."""
    tensors = build(b, dtype, size)
    func, target = te.create_prim_func(tensors), find_target("cuda:sm_90")
    choices = RULES[build].choices(func, target)
    assert choices
    return func, choices[0].apply(func, choices[0].params), tensors


@pytest.mark.parametrize("build", RULES, ids=lambda b: b.__name__)
@pytest.mark.parametrize("b", [4, 8, 16])
@pytest.mark.parametrize("dtype", ["float16", "uint8"])
def test_windows_over_blocks_of_any_width(build: Any, b: int, dtype: str) -> None:
    func, made, tensors = scheduled(build, b, dtype, 14)
    rng = np.random.default_rng(3)
    feed = [rng.integers(0, 9, [int(n) for n in t.shape]).astype(str(t.dtype)) for t in tensors[:-1]]
    found = []
    for f in (func, serial(made)):
        out = tvm.runtime.empty([int(n) for n in tensors[-1].shape], str(tensors[-1].dtype))
        main = tvm.IRModule({"main": f.with_attr("global_symbol", "main")})
        tvm.compile(main, "llvm")["main"](*map(tvm.runtime.tensor, feed), out)
        found.append(out.numpy())
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("build", [depthwise, highest])
@pytest.mark.parametrize("size", [7, 14, 28, 112])
def test_no_thread_is_idle_and_a_window_is_read_at_once(build: Any, size: int) -> None:
    """Behind a condition, as in a partly idle block, every tap would wait for the one before."""
    _, made, _ = scheduled(build, 8, "float16", size)
    predicates, order = [], []

    def realize(node: Any) -> None:
        predicates.append(isinstance(node.predicate, tirx.IntImm) and int(node.predicate) == 1)
        if node.block.name_hint.startswith(("pad", "depthwise_update", "pool_update")):
            order.append(node.block.name_hint)

    tvm_ffi.structural_walk(made.body, (tvm.s_tir.SBlockRealize, realize))
    assert all(predicates)
    # One nest that reads, and then one that sums.
    assert [name.split("_")[0] for name in order] in (["pad", "depthwise"], ["pad", "pool"])


def test_lanes_of_a_warp_share_an_image() -> None:
    _, made, _ = scheduled(whole, 8, "float16", 14)
    extents = {}

    def loop(node: Any) -> None:
        if node.kind == tirx.ForKind.THREAD_BINDING:
            extents[str(node.thread_binding.thread_tag)] = int(node.extent)

    tvm_ffi.structural_walk(made.body, (tirx.For, loop))
    assert extents["threadIdx.x"] == 32
    assert extents["blockIdx.x"] * extents["threadIdx.y"] == 2 * 6 * 8 // 4
