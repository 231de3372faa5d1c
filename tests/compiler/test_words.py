"""Int8 kernels on words of four bytes: against exact integers, over random geometry."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from hypothesis import given
from hypothesis import strategies as st
from tvm import te

from optkit.compiler import packing
from optkit.compiler.build import tvm_target
from optkit.compiler.host import host_variant
from optkit.compiler.operators.conv import Window, channel_words, conv2d, depthwise2d_words
from optkit.compiler.operators.quant import to_uint8
from optkit.compiler.schedule import schedule_module
from optkit.compiler.stack import pipeline
from optkit.compiler.tiling import Tile
from optkit.compiler.values import block_array
from optkit.registry import find_target
from optkit.target import Target
from tests.compiler.bundle import BUNDLED

GEOMETRY = st.tuples(
    st.sampled_from([(1, 1), (3, 3), (1, 5), (5, 5), (7, 7), (2, 4)]),
    st.sampled_from([(1, 1), (2, 2), (1, 3)]),
    st.sampled_from([(1, 1), (2, 1), (1, 3)]),
    st.tuples(*[st.integers(0, 3)] * 4),
    st.sampled_from([(15, 15), (16, 21), (20, 17)]),
    st.integers(1, 6),
)


def targets() -> list[Target]:
    """This machine where it has the instruction, and one that has it, with plain arithmetic."""
    here = find_target("cpu")
    return [*([here] if here.has("int8_dot") else []), host_variant(find_target("icelake-server"))]


def reference(x: np.ndarray, weight: np.ndarray, window: Window, zero: int, depthwise: bool) -> np.ndarray:
    """The convolution of uint8 (1, C, H, W) whose padding reads as `zero`, in int64."""
    top, left, bottom, right = window.pads
    full = np.pad(x.astype("int64"), [(0, 0), (0, 0), (top, bottom), (left, right)], constant_values=zero)
    oh, ow = window.output(*x.shape[2:])
    (sy, sx), (dy, dx) = window.strides, window.dilations
    total = np.zeros((1, weight.shape[0], oh, ow), "int64")
    for r in range(weight.shape[2]):
        for s in range(weight.shape[3]):
            part = full[:, :, r * dy : r * dy + oh * sy : sy, s * dx : s * dx + ow * sx : sx][:, :, :oh, :ow]
            tap = weight[:, :, r, s].astype("int64")
            total += part * tap[:, 0][None, :, None, None] if depthwise else np.einsum("oc,nchw->nohw", tap, part)
    return total


def run(tensors: list[te.Tensor], out: te.Tensor, arrays: list[np.ndarray], target: Target, rule: str) -> np.ndarray:
    """A scheduled kernel's output, channels second again."""
    machine = tvm_target(target)
    with machine:
        module, (kernel,) = schedule_module(tvm.IRModule({"f": te.create_prim_func([*tensors, out])}), target)
        assert (kernel.rule, kernel.compute, kernel.refused) == (rule, "int8", [])
        named = module["f"].with_attr("global_symbol", "f")
        library = tvm.compile(tvm.IRModule({"f": named}), machine, tir_pipeline=pipeline())
    y = tvm.runtime.tensor(np.full([int(d) for d in out.shape], 7, "int32"))
    library["f"](*[tvm.runtime.tensor(a) for a in arrays], y)
    blocked = np.moveaxis(y.numpy(), -1, 2)
    return blocked.reshape(1, -1, *blocked.shape[3:])


def extremes(generator: np.random.Generator, shape: tuple[int, ...], low: int, high: int) -> np.ndarray:
    """Whole numbers with many of the smallest and the largest."""
    values = generator.integers(low, high, shape, endpoint=True)
    return np.where(generator.random(shape) < 0.3, generator.choice([low, high], shape), values)


@BUNDLED
@given(GEOMETRY, st.integers(1, 40), st.integers(0, 255))
def test_depthwise_words_are_exact(geometry: tuple, channels: int, zero: int) -> None:
    kernel, strides, dilations, pads, size, rows = geometry
    generator = np.random.default_rng(channels)
    window = Window(kernel, strides, dilations, pads)
    x = extremes(generator, (1, channels, *size), 0, 255).astype("uint8")
    weight = extremes(generator, (channels, 1, *kernel), -128, 127).astype("int8")
    expected = reference(x, weight, window, zero, depthwise=True)
    for target in targets():
        b = target.lanes
        packed, blocked = packing.depthwise_words(weight, b), block_array(x, b)
        data, taps = te.placeholder(blocked.shape, "uint8", "x"), te.placeholder(packed.shape, "int32", "w")
        tile = Tile(min(rows, expected.shape[3]), 1, -(-expected.shape[3] // rows) * rows)
        out = depthwise2d_words(data, taps, window, zero, tile)
        found = run([data, taps], out, [blocked, packed], target, "cpu.depthwise")
        np.testing.assert_array_equal(found[:, :channels], expected)


@BUNDLED
@given(GEOMETRY, st.integers(1, 7), st.integers(1, 40), st.integers(0, 255))
def test_channel_words_are_exact(geometry: tuple, channels: int, filters: int, zero: int) -> None:
    kernel, strides, dilations, pads, size, rows = geometry
    generator = np.random.default_rng(channels)
    window = Window(kernel, strides, dilations, pads)
    x = extremes(generator, (1, channels, *size), 0, 255).astype("uint8")
    weight = extremes(generator, (filters, channels, *kernel), -128, 127).astype("int8")
    expected = reference(x, weight, window, zero, depthwise=False)
    for target in targets():
        b, c = target.lanes, packing.round_up(channels, 4)
        packed = packing.conv_words(packing.conv_weight(weight, 1, b, c, 4))
        data, taps = te.placeholder(x.shape, "uint8", "x"), te.placeholder(packed.shape, "int32", "w")
        extent = expected.shape[2] * expected.shape[3] if window.pointwise else expected.shape[3]
        tile = Tile(rows, 1, -(-extent // rows) * rows)
        four = int(np.full(4, zero, "u1").view("<i4")[0])
        words = channel_words(te.placeholder(x.shape, "uint8", "x"))
        made = te.placeholder(words.shape, "int32", "words")
        out = conv2d(made, taps, window, (c // 4, filters), 1, four, tile)
        planes = np.zeros((1, c, *size), "uint8")
        planes[:, :channels] = x
        together = np.ascontiguousarray(np.moveaxis(planes.reshape(1, c // 4, 4, *size), 2, -1)).view("<i4")
        found = run([made, taps], out, [together, packed], target, "cpu.conv")
        np.testing.assert_array_equal(found[:, :filters], expected)
        joined = tvm.compile(te.create_prim_func([data, channel_words(data)]).with_attr("global_symbol", "f"), "llvm")
        y = tvm.runtime.tensor(np.zeros(together.shape, "int32"))
        joined["f"](tvm.runtime.tensor(x), y)
        np.testing.assert_array_equal(y.numpy(), together)


@pytest.mark.parametrize("zero", [0, 1, 127, 128, 255])
@pytest.mark.parametrize("limits", [(-np.inf, np.inf), (0.0, 192.3), (-3.5, 400.0), (300.0, 310.0)])
def test_rounding_by_addition_is_rounding_to_even(zero: int, limits: tuple[float, float]) -> None:
    low, high = limits
    generator = np.random.default_rng(zero)
    x = np.concatenate(
        [
            np.arange(-600, 600) / 2,
            generator.normal(0, 200, 4000),
            np.float32([1e9, -1e9, 3e38, -3e38, np.inf, -np.inf, 0.49999997, -0.49999997, 0.0, -0.0]),
        ]
    ).astype("float32")
    data = te.placeholder(x.shape, "float32", "x")
    out = te.compute(x.shape, lambda i: to_uint8(data(i), zero, low, high), name="q")
    function = tvm.compile(te.create_prim_func([data, out]).with_attr("global_symbol", "f"), "llvm")
    y = tvm.runtime.tensor(np.zeros(x.shape, "uint8"))
    function["f"](tvm.runtime.tensor(x), y)
    clipped = np.clip(x, np.float32(low), np.float32(high))
    np.testing.assert_array_equal(y.numpy(), np.clip(np.rint(clipped) + zero, 0, 255).astype("uint8"))
