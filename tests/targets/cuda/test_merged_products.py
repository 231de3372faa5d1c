"""Products of one tensor for one attention, merged: the graph, the kernels, and what they compute."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optkit.compiler import products
from optkit.compiler.build import build
from optkit.compiler.lower import lower
from optkit.compiler.lowering import Lowering
from optkit.compiler.schedule import Kernel
from optkit.registry import find_target
from optkit.tidy import check_model
from tests.compiler.bundle import relative
from tests.graphs import build as graph
from tests.graphs import ops, session, weights
from tests.targets.cuda.simulate import computed, feeds
from tests.targets.cuda.test_kernels import passed


def attention(
    rows: int = 19,
    memory: int = 0,
    heads: int = 2,
    depth: int = 16,
    wide: int = 0,
    sources: str = "xxx",
    biases: str = "qkv",
    gemm: bool = False,
    batch: int = 1,
) -> ir.Model:
    """One attention; query, key and value are products of `x`, `z` or `t`, of which the last two have `memory` rows.

    Args:
        wide: depth of values, where it is another than that of queries and keys.
        biases: which of the products have one.
        gemm: products are Gemm of rows of all samples, with transposed weights.
    """
    memory, wide = memory or rows, wide or depth
    columns = {"q": heads * depth, "k": heads * depth, "v": heads * wide}
    lines, constants = [], {}
    for number, (name, source) in enumerate(zip("qkv", sources, strict=True)):
        weight, bias = weights(48, columns[name], seed=number, scale=0.2), weights(columns[name], seed=number + 3)
        last = f"{name}0"
        constants[f"w{name}"] = np.ascontiguousarray(weight.T) if gemm else weight
        if gemm:
            lines.append(f"{name}r = Reshape({source}, flat)")
            addend = f", b{name}" if name in biases else ""
            lines.append(f"{name}0 = Gemm<transB=1>({name}r, w{name}{addend})")
        else:
            lines.append(f"{name}0 = MatMul({source}, w{name})")
            if name in biases:
                lines.append(f"{name}1 = Add({name}0, b{name})")
                last = f"{name}1"
        if name in biases:
            constants[f"b{name}"] = bias
        count = rows if name == "q" else memory
        constants[f"s{name}"] = np.array([batch, count, heads, wide if name == "v" else depth], np.int64)
        lines.append(f"{name}2 = Reshape({last}, s{name})")
        lines.append(f"{name} = Transpose<perm=[0,{'2,3,1' if name == 'k' else '2,1,3'}]>({name}2)")
    lines += ["s = MatMul(q, k)", "c = Mul(s, scale)", "p = Softmax<axis=-1>(c)", "o = MatMul(p, v)"]
    lines += ["r = Transpose<perm=[0,2,1,3]>(o)", "y = Reshape(r, joined)"]
    sizes = {"x": rows, "z": memory, "t": memory}
    inputs = ", ".join(f"float[{batch},{sizes[name]},48] {name}" for name in dict.fromkeys(sources))
    return graph(
        "\n".join(lines),
        inputs=inputs,
        outputs=f"float[{batch},{rows},{heads * wide}] y",
        scale=np.float32(depth**-0.5),
        joined=np.array([batch, rows, heads * wide], np.int64),
        flat=np.array([-1, 48], np.int64),
        **constants,
    )


def merged(model: ir.Model, target: str = "cuda:sm_90") -> ir.Model:
    """What the lowering makes of the graph."""
    low = Lowering(find_target(target))
    low.opset = model.opset_imports[""]
    return products.merge_products(low, model)


def kernels(model: ir.Model, pipeline: str) -> tuple[Counter[str], list[str]]:
    """How often kernels of each rule are launched, and what the products with constant weights are called."""
    made = build(passed(model, pipeline), find_target("cuda:sm_90")).kernels
    assert not any(kernel.refused for kernel in made)
    names = [name for kernel in made if kernel.rule == "cuda.tensor_matmul" for name in kernel.calls]
    return Counter(kernel.rule for kernel in made for _ in kernel.calls), sorted(names)


def same_as_apart(model: ir.Model, monkeypatch: pytest.MonkeyPatch) -> list[Kernel]:
    """Assert that merged and apart give the same bits, and what ONNX Runtime gives; the kernels of the former."""
    found, made = computed(model)
    with monkeypatch.context() as patch:
        patch.setattr(products, "merge_products", lambda _low, model: model)
        apart, _ = computed(model)
    expected = session(model).run(None, feeds(model))
    for a, b, c in zip(found, apart, expected, strict=True):
        assert np.array_equal(a, b)
        assert relative(c, a) < 5e-3
    return made


def product_names(made: list[Kernel]) -> list[str]:
    """Names of the products with constant weights."""
    return sorted(name for kernel in made if kernel.operator.startswith("matmul") for name in kernel.calls)


@pytest.mark.parametrize("pipeline", ["fp16", "int8-fp16"])
@pytest.mark.parametrize(
    "options",
    [
        {"rows": 70, "depth": 64},
        {"rows": 65, "depth": 32, "heads": 3, "biases": "q", "batch": 2},
        {"rows": 33, "depth": 24, "gemm": True, "batch": 2},
        {"rows": 21, "memory": 66, "depth": 32, "sources": "xzz"},
        {"rows": 17, "depth": 16, "wide": 40},
    ],
    ids=["deep", "one bias", "gemm", "memory", "other values"],
)
def test_it_computes_what_they_do(options: dict[str, Any], pipeline: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = same_as_apart(passed(attention(**options), pipeline), monkeypatch)
    kinds = Counter(kernel.rule for kernel in made for _ in kernel.calls)
    assert kinds["cuda.tensor_attention"] == 1
    assert any(" + " in name for name in product_names(made))


@settings(max_examples=6, derandomize=True)
@given(st.data())
def test_any_shape(data: st.DataObject) -> None:
    draw = data.draw
    options = {
        "rows": draw(st.integers(1, 130)),
        "memory": draw(st.integers(1, 130)),
        "heads": draw(st.integers(1, 4)),
        "depth": 8 * draw(st.integers(1, 8)),
        "sources": draw(st.sampled_from(["xxx", "xzz"])),
        "biases": draw(st.sampled_from(["", "q", "kv", "qkv"])),
        "gemm": draw(st.booleans()),
        "batch": draw(st.integers(1, 2)),
    }
    if options["sources"] == "xxx":
        options["memory"] = 0
    with pytest.MonkeyPatch.context() as patch:
        same_as_apart(passed(attention(**options), "fp16"), patch)


@pytest.mark.parametrize("pipeline", ["fp16", "int8-fp16"])
def test_a_layer_launches_one_product_for_three(pipeline: str) -> None:
    rules, names = kernels(attention(), pipeline)
    assert names == ["MatMul_0 + MatMul_1 + MatMul_2"]
    # Nothing moves its parts: what else runs converts the model's input and output.
    assert rules == {"cuda.tensor_matmul": 1, "cuda.tensor_attention": 1, "cuda.injective": 2}


def test_only_what_reads_one_tensor_is_merged() -> None:
    memory = kernels(attention(sources="xzz"), "fp16")[1]
    assert memory == ["MatMul_0", "MatMul_1 + MatMul_2"]
    model = passed(attention(sources="xzt"), "fp16")
    assert merged(model) is model


def test_only_heads_of_one_depth_are_merged() -> None:
    """Others would not begin at heads of the whole, and would have to be copied."""
    rules, names = kernels(attention(wide=40), "fp16")
    assert names == ["MatMul_0 + MatMul_1", "MatMul_2"]
    assert rules["cuda.injective"] == 2


def test_products_in_other_arithmetic_stay() -> None:
    model = passed(attention(), "fp16{exclude=[MatMul_1]}")
    assert product_names(computed(model)[1]) == ["MatMul_0 + MatMul_2", "MatMul_1"]


def test_every_node_is_reported() -> None:
    model, target = passed(attention(wide=8), "fp16"), find_target("cuda:sm_90")
    found = {record.node: record.macs for record in lower(model, target).records}
    assert found == {
        **{f"MatMul_{i}": 19 * 48 * columns for i, columns in enumerate((32, 32, 16))},
        "MatMul_3": 2 * 19 * 19 * 16,
        "MatMul_4": 2 * 19 * 19 * 8,
    }


@pytest.mark.parametrize("target", ["cpu", "x86-64-v3", "cuda:sm_75"])
def test_other_targets_keep_the_graph(target: str) -> None:
    model = passed(attention(), "fp16")
    assert merged(model, target) is model
    assert len(ops(merged(model))) < len(ops(model))


@pytest.mark.parametrize("name", ["q0", "k1", "v2", "v"])
@pytest.mark.parametrize("output", [True, False])
def test_what_is_read_elsewhere_stays(name: str, output: bool) -> None:
    model = passed(attention(), "fp16")
    (value,) = [value for node in model.graph for value in node.outputs if value.name == name]
    if output:
        model.graph.outputs.append(value)
    else:
        model.graph.append(ir.node("Identity", [value]))
    found = merged(model)
    assert ops(found).count("MatMul") == ops(model).count("MatMul") - 1
    (split,) = [node for node in found.graph if node.op_type == "Split"]
    assert len(split.outputs) == 2
    assert f"MatMul_{'qkv'.index(name[0])}" in {node.name for node in found.graph}


@pytest.mark.parametrize("gemm", [False, True])
@pytest.mark.parametrize("pipeline", ["fp16", "int8-fp16"])
def test_the_merged_graph_is_valid_and_equal(pipeline: str, gemm: bool) -> None:
    model = passed(attention(gemm=gemm, biases="qkv" if gemm else "kv"), pipeline)
    found = merged(model)
    check_model(found)
    product = "Gemm" if gemm else "MatMul"
    assert ops(model).count(product) - ops(found).count(product) == 2
    (a,), (b,) = (session(m).run(None, feeds(m)) for m in (model, found))
    assert relative(a, b) < 1e-3
    assert {v.name for v in found.graph.initializers.values()}.isdisjoint({"wq", "wk", "wv"})


def test_scales_of_one_and_of_every_column_go_together() -> None:
    model = passed(attention(), "int8-fp16")
    for name in ("wk_scale", "wk_zero_point"):
        value = model.graph.initializers[name]
        assert value.const_value is not None
        one = ir.tensor(value.const_value.numpy()[:1].reshape(()))
        value.const_value, value.shape = one, one.shape
    found = merged(model)
    assert ops(found).count("MatMul") == ops(model).count("MatMul") - 2
    (a,), (b,) = (session(m).run(None, feeds(m)) for m in (model, found))
    assert relative(a, b) < 1e-3
