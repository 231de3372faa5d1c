"""float16 models and bfloat16 arithmetic against ONNX Runtime."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
import tvm
from hypothesis import given
from hypothesis import strategies as st
from tvm import te
from tvm.s_tir import Schedule

from optkit.compiler.build import build, tvm_target
from optkit.compiler.check import check_kernels
from optkit.compiler.host import host_variant
from optkit.compiler.operators.common import to_bits
from optkit.compiler.stack import pipeline
from optkit.registry import find_target
from tests.compiler.bundle import BUNDLED, Bundle, relative, run
from tests.compiler.test_lower_conv import grid


def network(b: Bundle, dtype: str) -> None:
    """A bit of everything in one type."""

    def w(*shape: int) -> str:
        return b.const(b.normal(*shape, scale=float(np.prod(shape[1:]) or 1) ** -0.5, dtype=dtype))

    x = b.input(2, 3, 11, 9, dtype=dtype)
    stem = b.op("Relu", b.op("Conv", x, w(21, 3, 3, 3), w(21), pads=[1, 1, 1, 1], strides=[2, 1]))
    deep = b.op(
        "Clip", b.op("Conv", stem, w(21, 1, 3, 3), group=21, pads=[1, 1, 1, 1]), "", b.const(np.array(6, dtype))
    )
    wide = b.op("Conv", deep, w(21, 21, 1, 1), w(21))
    total = b.op("Add", wide, stem)
    b.case(total, "residual")
    b.case(b.op("MaxPool", total, kernel_shape=[2, 2]), "maximum")
    b.case(b.op("AveragePool", total, kernel_shape=[2, 2]), "mean")
    b.case(b.op("Concat", stem, wide, axis=1), "join")
    for name in ("Sigmoid", "Tanh", "HardSwish", "Erf", "Exp", "LeakyRelu"):
        b.case(b.op(name, total), name)
    flat = b.op("Flatten", b.op("GlobalAveragePool", total))
    b.case(b.op("Gemm", flat, w(10, 21), w(10), transB=1), "classifier")
    rows = b.input(2, 5, 24, dtype=dtype)
    q, k = b.op("MatMul", rows, w(24, 24)), b.op("MatMul", rows, w(24, 24))
    scores = b.op("Softmax", b.op("MatMul", q, b.op("Transpose", k, perm=[0, 2, 1])))
    b.case(b.op("MatMul", scores, rows), "attention")
    b.case(b.op("LayerNormalization", rows, w(24), w(24)), "layer norm")


@pytest.mark.parametrize("target", ["cpu", "x86-64-v3"])
def test_float16(target: str) -> None:
    b = Bundle()
    network(b, "float16")
    built = b.check(target)
    assert {t.dtype for t in (*built.inputs, *built.outputs)} == {"float16"}


def test_float16_constants_keep_their_range() -> None:
    """Reciprocals and batch norm factors are float32: in float16 they would overflow or lose their digits."""
    b = Bundle()
    x = b.input(2, 19, 3, 3, dtype="float16", values=1e-3 * b.normal(2, 19, 3, 3))
    b.case(b.op("Div", x, b.const(np.float16(1e-5))), "division by a small number")
    parameters = [np.ones(19), np.zeros(19), np.zeros(19), np.full(19, 1e-7)]
    given = [b.const(p.astype("float16")) for p in parameters]
    b.case(b.op("BatchNormalization", x, *given, epsilon=1e-12), "small variance")
    b.check()


@pytest.mark.parametrize("target", ["cpu", "x86-64-v3"])
def test_bfloat16_products(target: str) -> None:
    """Marked nodes multiply in bfloat16 and sum in float32: as if both operands had been rounded."""
    b = Bundle()
    network(b, "float32")
    model = marked(b)
    built = build(model, find_target(target))
    assert {r.compute for r in built.nodes} == {"bfloat16"}
    found = run(built, [b.feeds[i.name] for i in built.inputs])
    for label, a, y in zip(b.labels.values(), b.reference(), found, strict=True):
        error = relative(a.astype("float64"), y.astype("float64"))
        assert error < 2e-2, label
        assert error > 1e-6 or label == "layer norm", f"{label} was not computed in bfloat16"
    one = Bundle()
    x = one.input(3, 33)  # no whole number of pairs
    weight = one.normal(33, 20)
    one.case(one.op("MatMul", x, one.const(weight)), "product")
    (found,) = run(build(marked(one), find_target(target)), [one.feeds[x]])
    rounded = [a.astype(ml_dtypes.bfloat16).astype("float64") for a in (one.feeds[x], weight)]
    assert relative(rounded[0] @ rounded[1], found.astype("float64")) < 1e-6


def marked(b: Bundle) -> ir.Model:
    """The bundle's model with its products in bfloat16."""
    model = b.model()
    for node in model.graph:
        if node.op_type in ("Conv", "MatMul", "Gemm"):
            node.metadata_props["optkit.compute_type"] = "bfloat16"
    return model


def test_bfloat16_convolutions_of_every_geometry() -> None:
    """Against ONNX Runtime, and every schedule against its unscheduled self."""
    b = Bundle()
    grid(b)
    model, target = marked(b), find_target("cpu")
    built = build(model, target)
    for label, a, y in zip(
        b.labels.values(), b.reference(), run(built, [b.feeds[i.name] for i in built.inputs]), strict=True
    ):
        assert relative(a, y) < 1e-2, label
    assert [str(m) for m in check_kernels(model, target)] == []


@BUNDLED
@given(st.data())
def test_bfloat16_products_of_any_shape(data: st.DataObject) -> None:
    """Of two activations, with leading axes and odd depths: as if both had been rounded, summed in float32."""
    b = Bundle()
    cases = []
    size = st.integers(1, 40)
    for _ in range(4):
        lead = tuple(data.draw(st.lists(st.integers(1, 3), max_size=2)))
        m, k, n = (data.draw(size) for _ in range(3))
        x, y = b.input(*lead, m, k), b.input(*lead, k, n)
        b.case(b.op("MatMul", x, y), f"{lead} {m} {k} {n}")
        cases.append((b.feeds[x], b.feeds[y]))
    built = build(marked(b), find_target("cpu"))
    found = run(built, [b.feeds[i.name] for i in built.inputs])
    for label, pair, y in zip(b.labels.values(), cases, found, strict=True):
        left, right = (a.astype(ml_dtypes.bfloat16).astype("float64") for a in pair)
        assert relative(left @ right, y.astype("float64")) < 1e-6, label


def test_bits_round_as_bfloat16_does() -> None:
    """Ties, the largest numbers, infinities, denormals and a NaN."""
    generator = np.random.default_rng(0)
    bits = generator.integers(0, 1 << 32, 4096, dtype=np.uint32)
    bits[:8] = [0x3F808000, 0x3F818000, 0x7F7FFFFF, 0x7F800000, 0xFF800000, 0x00000001, 0x7FC00000, 0x7F800001]
    bits[8:16] = bits[:8] | 0x80000000
    x = te.placeholder((4096,), "float32")
    function = tvm.compile(te.create_prim_func([x, to_bits(x)]).with_attr("global_symbol", "main"), "llvm")
    y = tvm.runtime.tensor(np.zeros(4096, np.uint16))
    function["main"](tvm.runtime.tensor(bits.view(np.float32)), y)
    with np.errstate(invalid="ignore"):
        expected = bits.view(np.float32).astype(ml_dtypes.bfloat16)
    found = y.numpy().view(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(found.astype("float32"), expected.astype("float32"))


def test_the_instruction_rounds_as_bfloat16_does() -> None:
    """The same numbers, but denormals, which it takes for zero; vectors of every length, and what is left over."""
    machine = find_target("cpu")
    if not machine.has("bf16_vector"):
        pytest.skip("needs a processor that rounds to bfloat16")
    generator = np.random.default_rng(0)
    bits = generator.integers(0, 1 << 32, 4096, dtype=np.uint32)
    bits[:6] = [0x3F808000, 0x3F818000, 0x7F7FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000]
    values = np.where((bits & 0x7F800000) == 0, 0, bits).astype(np.uint32).view(np.float32)
    for width in (1, 4, 8, 16, 32):
        x = te.placeholder((4096,), "float32")
        schedule = Schedule(te.create_prim_func([x, to_bits(x, native=True)]).with_attr("global_symbol", "main"))
        (loop,) = schedule.get_loops(schedule.get_sblock("to_bits"))
        schedule.vectorize(schedule.split(loop, [None, width])[1])
        function = tvm.compile(schedule.mod["main"], tvm_target(machine), tir_pipeline=pipeline())
        assert ("vcvtneps2bf16" in function.mod.inspect_source("asm")) == (width > 1)
        y = tvm.runtime.tensor(np.zeros(4096, np.uint16))
        function["main"](tvm.runtime.tensor(values), y)
        with np.errstate(invalid="ignore"):
            expected = values.astype(ml_dtypes.bfloat16).astype("float32")
        np.testing.assert_array_equal(y.numpy().view(ml_dtypes.bfloat16).astype("float32"), expected)


@pytest.mark.parametrize("name", ["cooperlake", "znver4", "znver5"])
def test_pairs_are_multiplied_by_one_instruction(name: str) -> None:
    b = Bundle()
    network(b, "float32")
    text = build(marked(b), find_target(name)).assembly()
    assert "vdpbf16ps" in text and "optkit_dpbf16ps" not in text
    variant = host_variant(find_target(name))
    assert [str(m) for m in check_kernels(marked(b), variant)] == []


def test_float16_nodes_may_multiply_in_bfloat16() -> None:
    b = Bundle()
    network(b, "float16")
    assert {r.compute for r in build(marked(b), find_target("cpu")).nodes} == {"bfloat16"}


def test_convolutions_write_the_bits_that_the_next_one_reads() -> None:
    """No pass over the activations between two products."""
    b = Bundle()
    x = b.input(1, 16, 9, 9)
    first = b.op("Relu", b.op("Conv", x, b.const(b.normal(32, 16, 3, 3))))
    b.case(b.op("Conv", first, b.const(b.normal(16, 32, 3, 3))), "chain")
    names = [k.name for k in build(marked(b), find_target("sapphirerapids")).kernels]
    assert any("conv2d" in name and "to_bits" in name for name in names), names
