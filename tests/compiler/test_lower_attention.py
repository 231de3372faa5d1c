"""Attention as one kernel, against ONNX Runtime, and where it is not one."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optkit.compiler.build import Built, build
from optkit.compiler.check import check_kernels
from optkit.compiler.host import host_variant
from optkit.registry import find_target
from tests.compiler.bundle import BUNDLED, Bundle, relative, run
from tests.targets.cpu.products import in_vectors
from tests.targets.cpu.test_scheduled_models import runnable


def attention(
    b: Bundle,
    lead: tuple[int, ...],
    sizes: tuple[int, int, int, int],
    scale: str = "Div",
    mask: tuple[int, ...] | None = None,
    transposed: bool = True,
) -> str:
    """Softmax(Q K^T scale + mask) V of (rows, columns, depth, wide); keys as rows, or as they are multiplied."""
    rows, columns, depth, wide = sizes
    query, value = b.input(*lead, rows, depth), b.input(*lead, columns, wide)
    if transposed:
        rank = len(lead)
        key = b.op("Transpose", b.input(*lead, columns, depth), perm=[*range(rank), rank + 1, rank])
    else:
        key = b.input(*lead, depth, columns)
    scores = b.op("MatMul", query, key)
    if scale:
        scores = b.op(scale, scores, b.const(np.float32(1.7)))
    if mask is not None:
        values = np.where(np.random.default_rng(1).random(mask) > 0.7, -20, 0.5)
        scores = b.op("Add", b.input(*mask, values=values), scores)
    return b.op("MatMul", b.op("Softmax", scores, axis=-1), value)


def exact(b: Bundle, output: str) -> np.ndarray:
    """What the nodes compute, in float64."""
    made = {node.output[0]: node for node in b.nodes}
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in b.constants}

    def value(name: str) -> np.ndarray:
        if name not in made:
            return np.asarray(b.feeds[name] if name in b.feeds else constants[name], "float64")
        node = made[name]
        given = [value(i) for i in node.input]
        if node.op_type == "Softmax":
            powers = np.exp(given[0] - given[0].max(-1, keepdims=True))
            return np.asarray(powers / powers.sum(-1, keepdims=True))
        if node.op_type == "Transpose":
            return given[0].transpose(node.attribute[0].ints)
        steps = {"MatMul": np.matmul, "Mul": np.multiply, "Div": np.divide, "Add": np.add}
        return np.asarray(steps[node.op_type](*given))

    return value(output)


def used(built: Built) -> int:
    """Calls of kernels of the template."""
    return sum(len(kernel.calls) for kernel in built.kernels if kernel.template == "attention")


@BUNDLED
@given(st.data())
@pytest.mark.parametrize("target", ["cpu", "x86-64-v4", "x86-64-v3"])
def test_any_shape(target: str, data: st.DataObject) -> None:
    """Against float64, which ONNX Runtime is no nearer to."""
    b = Bundle()
    expected = []
    for _ in range(4):
        lead = tuple(data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=2)))
        rows, columns, depth = (data.draw(st.integers(low, 70)) for low in (8, 1, 1))
        sizes = (rows, columns, depth, 16 * data.draw(st.integers(1, 4)))
        full = (*lead, rows, columns)
        kept = data.draw(st.lists(st.booleans(), min_size=len(full), max_size=len(full)))
        shape = tuple(e if keep else 1 for e, keep in zip(full, kept, strict=True))
        mask = data.draw(st.sampled_from([None, shape, shape[-1:], shape[-2:]]))
        scale = data.draw(st.sampled_from(["Mul", "Div", ""]))
        made = attention(b, lead, sizes, scale, mask, data.draw(st.booleans()))
        b.case(made, f"{lead} {sizes} {scale} mask {mask}")
        expected.append(exact(b, made))
    built = b.build(runnable(target))
    assert used(built) == 4
    found = run(built, [b.feeds[i.name] for i in built.inputs])
    for label, right, y in zip(b.labels.values(), expected, found, strict=True):
        assert relative(right, y.astype("float64")) <= 3e-6, label


def test_no_buffer_holds_all_scores() -> None:
    """Of the shape of the scores there is neither a tensor between kernels nor an allocation in one."""
    b = Bundle()
    b.case(attention(b, (1, 2), (300, 310, 32, 32)), "long")
    built = b.check()
    assert used(built) == 1
    assert [k.operator for k in built.kernels if k.template == "attention"] == [
        "attention float32 batch=2 m=300 n=310 k=32 d=32"
    ]
    assert "300, 310" not in built.relax_text and "300, 310" not in built.tir_text
    assert [str(m) for m in check_kernels(b.model(), find_target("cpu"))] == []


@pytest.mark.parametrize("tiles", [False, True])
def test_bfloat16(tiles: bool) -> None:
    """One kernel; where there are tile registers, two products in these and a softmax."""
    target = host_variant(find_target("sapphirerapids")) if tiles else in_vectors(find_target("cpu"))
    b = Bundle()
    b.case(attention(b, (1, 4), (49, 51, 32, 32), "Mul", (1, 1, 1, 51)), "pairs, odd columns")
    b.case(attention(b, (2, 3), (17, 64, 16, 48), "", None), "even")
    model = b.model()
    for node in model.graph:
        if node.op_type == "MatMul":
            node.metadata_props["optkit.compute_type"] = "bfloat16"
    built = build(model, target)
    assert used(built) == (2 if target.has("bf16_pairs") and not tiles else 0)
    assert [record.compute for record in built.nodes] == ["bfloat16"] * 4
    assert len({record.node for record in built.nodes}) == 4
    found = run(built, [b.feeds[i.name] for i in built.inputs])
    for label, expected, y in zip(b.labels.values(), b.reference(), found, strict=True):
        assert 1e-6 < relative(expected, y) < 1e-2, label
    assert [str(m) for m in check_kernels(model, target)] == []


def test_other_cpus_have_it_too() -> None:
    target = find_target("cortex-a76")
    b = Bundle()
    b.case(attention(b, (1, 2), (40, 40, 24, 32), "Mul", (1, 1, 40, 40)), "arm")
    assert used(build(b.model(), target)) == 1
    assert [str(m) for m in check_kernels(b.model(), host_variant(target))] == []


def test_rows_of_nothing_but_infinity() -> None:
    b = Bundle()
    query, key, value = b.input(1, 9, 16), b.input(1, 16, 20), b.input(1, 20, 16)
    mask = np.zeros((1, 9, 20))
    mask[0, 3] = -np.inf
    mask[0, 4, 5:] = -np.inf
    scores = b.op("Add", b.op("MatMul", query, key), b.input(1, 9, 20, values=mask))
    b.case(b.op("MatMul", b.op("Softmax", scores, axis=-1), value), "masked")
    assert used(b.check()) == 1


def test_where_it_is_not_used() -> None:
    """Scores that others read, other axes, values of part of a vector, few rows, and what rounds."""

    def one(change: str = "", **more: object) -> Bundle:
        b = Bundle()
        rows = 4 if change == "rows" else 12
        query, key = b.input(1, rows, 16), b.input(1, 16, 20)
        value = b.input(1, 20, 5 if change == "vector" else 16)
        scores = b.op("MatMul", query, key)
        soft = b.op("Softmax", scores, axis=1 if change == "axis" else -1)
        if change == "read":
            b.case(b.op("Relu", scores), "scores")
        if change == "output":
            b.case(soft, "weights")
        out = b.op("MatMul", soft, value)
        if change == "twice":
            out = b.op("Add", out, b.op("MatMul", soft, b.input(1, 20, 16)))
        b.case(out, "attention")
        return b

    assert used(one().check()) == 1
    for change in ("rows", "vector", "axis", "read", "output", "twice"):
        assert used(one(change).check()) == 0, change
    ranks = Bundle()
    scores = ranks.op("MatMul", ranks.input(2, 9, 8), ranks.input(2, 8, 16))
    soft = ranks.op("Softmax", ranks.op("Mul", scores, ranks.const(np.full((1, 1, 1, 1), 0.5, np.float32))), axis=-1)
    ranks.case(ranks.op("MatMul", soft, ranks.input(2, 16, 16)), "a number that adds an axis")
    assert used(ranks.check()) == 0
    made = Bundle()
    scores = made.op("MatMul", made.input(1, 9, 8), made.input(1, 8, 16))
    mask = made.op("Mul", made.input(1, 9, 16), made.const(np.float32(-3)))
    soft = made.op("Softmax", made.op("Add", mask, scores), axis=-1)
    made.case(made.op("MatMul", soft, made.input(1, 16, 16)), "a mask that is a product, in front")
    assert used(made.check()) == 1
    quantized = one()
    x = quantized.input(1, 8)
    made = quantized.op("QuantizeLinear", x, quantized.const(np.float32(0.1)), quantized.const(np.uint8(3)))
    quantized.case(made, "steps")
    assert used(quantized.build()) == 0
