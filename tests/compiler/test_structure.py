"""What holds for every build: schedules, records, names, errors, weights apart from code."""

from __future__ import annotations

import json
from collections.abc import Collection

import numpy as np
import pytest
import tvm
from tvm import tirx
from tvm.s_tir import TensorIntrin

from optkit.compiler.build import Built, build, prepare
from optkit.compiler.check import check_kernels, compare
from optkit.compiler.operator import Operator, Plan
from optkit.compiler.schedule import ATTRIBUTE, choose, refuse_naked
from optkit.errors import CompileError, UnsupportedError
from optkit.registry import find_target
from optkit.target import Target
from tests.compiler.bundle import Bundle
from tests.compiler.test_lower_conv import conv
from tests.compiler.test_lower_integer import pair as quantized
from tests.compiler.test_lower_integer import weight


def network(batch: str = "batch") -> Bundle:
    b = Bundle()
    x = b.input(3, 3, 9, 11, free=batch)
    stem = b.op("Relu", conv(b, x, 3, 24, (3, 3), pads=[1, 1, 1, 1]))
    deep = conv(b, stem, 24, 24, (3, 3), 24, pads=[1, 1, 1, 1])
    total = b.op("Add", b.op("HardSwish", deep), stem)
    flat = b.op("Flatten", b.op("GlobalAveragePool", b.op("MaxPool", total, kernel_shape=[2, 2])))
    b.case(b.op("Softmax", b.op("Gemm", flat, b.const(b.normal(24, 10)))), "probabilities")
    b.case(b.op("ArgMax", total, axis=1), "by TVM")
    return b


@pytest.fixture(scope="module")
def built() -> Built:
    return network().build()


def test_every_kernel_names_its_rule(built: Built) -> None:
    marks = {}
    for var, func in built.module.functions.items():
        if isinstance(func, tirx.PrimFunc):
            marks[str(var.name_hint)] = json.loads(str(func.attrs[ATTRIBUTE]))
    assert {k.name: (k.rule, k.template, k.params) for k in built.kernels} == {
        name: (m["rule"], m["template"], m["params"]) for name, m in marks.items()
    }
    assert {"cpu.conv", "cpu.depthwise", "cpu.pool", "cpu.matmul", "cpu.rows"} <= {k.rule for k in built.kernels}


def test_every_kernel_is_called(built: Built) -> None:
    assert all(k.calls for k in built.kernels)
    assert sum(len(k.calls) for k in built.kernels) == built.relax_text.count("R.call_tir")
    products = [name for k in built.kernels for name in k.calls if k.operator]
    assert products == ["Conv_0", "Conv_1", "Gemm_0"]
    assert json.loads(json.dumps(built.kernels[0].as_dict()))["calls"] == built.kernels[0].calls


def test_a_naked_kernel_is_refused(built: Built) -> None:
    refuse_naked(built.module)
    var = next(v for v, f in built.module.functions.items() if isinstance(f, tirx.PrimFunc))
    bare = tvm.IRModule({**dict(built.module.functions.items()), var: built.module[var].without_attr(ATTRIBUTE)})
    with pytest.raises(CompileError, match=rf"'{var.name_hint}'.*without a schedule"):
        refuse_naked(bare)


def test_the_last_rule_answers_for_anything(built: Built) -> None:
    """Even for what other rules would take; and its schedules are right."""
    target = built.target
    ready = prepare(network().model(), target)
    last = target.rules()[-1]
    for func in ready.module.functions.values():
        if isinstance(func, tirx.PrimFunc):
            (choice,) = last.choices(func, target) or []
            assert isinstance(choice.apply(func, choice.params), tirx.PrimFunc)
            assert choose(func, target).rule


def test_the_fallback_computes_what_the_other_rules_do(monkeypatch: pytest.MonkeyPatch) -> None:
    target = find_target("cpu")
    last = target.rules()[-1]
    monkeypatch.setattr(type(target), "rules", lambda self: (last,))
    built = network().check(target)
    assert {k.rule for k in built.kernels} == {"cpu.fallback"}


class Chosen:
    """Records that know one plan for everything."""

    def best(self, operator: Operator, target: Target, templates: Collection[str]) -> Plan | None:
        return Plan("direct", {"rows": 1, "blocks": 1, "order": 1}) if "direct" in templates else None


def test_measured_plans_go_before_the_default(built: Built) -> None:
    name, default = next((k.name, k.params) for k in built.kernels if k.template == "direct")
    again = build(network().model(), built.target, Chosen())
    found = next(k.params for k in again.kernels if k.name == name)
    assert found == {"rows": 1, "blocks": 1, "order": 1} != default
    assert [r["template"] for r in again.tuned_records()] == ["direct"] and not built.tuned_records()


def test_weights_are_beside_the_code(built: Built) -> None:
    """Every array of more than one element is an argument; the library holds code only."""
    assert len(built.weights) == len({name for name, _ in built.weights})
    assert sum(a.size for _, a in built.weights) >= 24 * 3 * 9 + 24 * 9 + 24 * 10
    assert "metadata" not in built.relax_text
    for line in built.relax_text.splitlines():
        assert "R.const([" not in line


def test_texts(built: Built) -> None:
    assert "R.call_tir" in built.relax_text and "@T.prim_func" not in built.relax_text
    assert "@T.prim_func" in built.tir_text and "optkit.rule" in built.tir_text
    assert "vfmadd" in built.assembly() or "fmla" in built.assembly()


def test_symbolic_axes_keep_their_names(built: Built) -> None:
    assert built.inputs[0].shape == ("batch", 3, 9, 11)
    assert [t.shape for t in built.outputs] == [("batch", 10), ("batch", 1, 9, 11)]
    assert [t.dtype for t in built.outputs] == ["float32", "int64"]


def test_one_build_at_many_batches(built: Built) -> None:
    from tests.compiler.bundle import relative, run
    from tests.graphs import session

    b = network()
    reference = session(b.proto())
    name = built.inputs[0].name
    for batch in (1, 3, 17):
        x = b.normal(batch, 3, 9, 11)
        for expected, found in zip(reference.run(None, {name: x}), run(built, [x]), strict=True):
            assert relative(expected.astype("float64"), found.astype("float64")) < 1e-5


def test_the_same_model_gives_the_same_library() -> None:
    """Twice in one process: names, order and numbers are no accident of memory."""
    first, second = (network().build() for _ in "ab")
    assert first.assembly() == second.assembly()
    assert first.relax_text == second.relax_text
    for (n, a), (m, c) in zip(first.weights, second.weights, strict=True):
        assert n == m and np.array_equal(a, c)


def test_an_unknown_operator_is_named_with_its_node() -> None:
    import onnx_ir as ir

    b = Bundle()
    b.case(b.op("Relu", b.input(2, 2)), "y")
    model = b.model()
    node = next(n for n in model.graph if n.op_type == "Relu")
    odd = ir.Node("custom", "Whirl", list(node.inputs), name="whirl_7")
    odd.outputs[0].shape, odd.outputs[0].dtype = node.outputs[0].shape, node.outputs[0].dtype
    ir.convenience.replace_nodes_and_values(model.graph, node, [node], [odd], node.outputs, odd.outputs)
    with pytest.raises(UnsupportedError, match=r"'whirl_7'.*custom::Whirl"):
        build(model, find_target("cpu"))


def test_an_axis_without_size_or_name_is_refused() -> None:
    import onnx_ir as ir

    b = Bundle()
    b.case(b.op("Relu", b.input(2, 2)), "y")
    model = b.model()
    model.graph.inputs[0].shape = ir.Shape([None, 2])
    with pytest.raises(UnsupportedError, match=r"'x0'.*--input-shape"):
        build(model, find_target("cpu"))


@pytest.mark.skipif(find_target("x86-64-v3").runs_here() is not None, reason="needs AVX2")
def test_the_comparison_finds_a_wrong_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong on purpose: an intrinsic that subtracts what it is described to add."""
    from optkit_targets.cpu.kernels import intrinsics, tile

    def wrong(lanes: int, group: int, dtype: str) -> str:
        name = f"tests.wrong_{lanes}x{group}"
        described = intrinsics._description(lanes, group, dtype)
        text = described.script()
        assert "C[vi] + T.Cast" in text
        subtracts = tvm.script.from_source(text.replace("C[vi] + T.Cast", "C[vi] - T.Cast"))
        TensorIntrin.register(name, described, subtracts, override=True)
        return name

    b = Bundle()
    x = quantized(b, b.input(3, 8), 0.03, ("uint8", 9))
    w, _ = weight(b, (8, 16), 1, True, 8)
    b.case(b.op("Relu", b.op("MatMul", x, w)), "product")
    target = find_target("x86-64-v3")
    assert check_kernels(b.model(), target) == []
    monkeypatch.setattr(tile, "dot_product", wrong)
    (mismatch,) = check_kernels(b.model(), target)
    assert mismatch.rule == "cpu.matmul/packed" and "relative difference" in str(mismatch)


def test_comparison_of_tensors() -> None:
    a = np.array([1.0, np.nan, np.inf], "float32")
    assert compare(a, a.copy()) == ""
    assert compare(a, np.array([1.00001, np.nan, np.inf], "float32")) == ""
    assert "relative difference" in compare(a, np.array([1.001, np.nan, np.inf], "float32"))
    assert compare(a, np.array([1.0, 0.0, np.inf], "float32"))
    assert compare(a, np.array([1.0, np.nan, -np.inf], "float32"))
    assert compare(np.uint8([1, 2]), np.uint8([1, 3])) == "1 of 2 integers differ, first at (1,): 3 for 2"
    assert compare(np.empty(0, "float32"), np.empty(0, "float32")) == ""
