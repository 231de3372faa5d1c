"""TF32 as a mark: float32 as it is where a target has no such products, and why."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
import pytest
import tvm_ffi

from optkit.compiler.lower import Lowered, lower
from optkit.compiler.operator import BATCH_MATMUL, CONV, MATMUL
from optkit.registry import find_target
from optkit.tune.sample import sample_model
from tests.compiler.bundle import Bundle
from tests.compiler.test_lower_attention import attention as written_attention
from tests.targets.cuda.models import cnn, deep, tokens
from tests.targets.cuda.transformers import attention, heads

ABSENT = "the target has no TF32"


def marked(model: ir.Model, kind: str = "tensorfloat32", but: str = "") -> ir.Model:
    """A copy with its products marked, except for one node."""
    copy = model.clone()
    for node in copy.graph:
        if node.op_type in ("Conv", "ConvTranspose", "MatMul", "Gemm") and node.name != but:
            node.metadata_props["optkit.compute_type"] = kind
    return copy


@pytest.mark.parametrize("target", ["cpu", "cortex-a76", "cuda:sm_75"])
@pytest.mark.parametrize("model", [cnn, deep, tokens, attention, heads], ids=lambda m: m.__name__)
def test_without_it_the_model_is_the_float32_one(model: Callable[[], ir.Model], target: str) -> None:
    machine = find_target(target)
    plain, found = lower(model(), machine), lower(marked(model()), machine)
    assert tvm_ffi.structural_equal(plain.module, found.module, map_free_vars=True)
    assert [record.compute for record in found.records] == [record.compute for record in plain.records]
    assert {record.reason for record in found.records} == {ABSENT}
    assert found.operators.keys() == plain.operators.keys()


def test_attention_is_one_kernel_whatever_of_it_is_marked() -> None:
    b = Bundle()
    b.case(written_attention(b, (2, 3), (17, 64, 16, 48)), "attention")
    model = b.model()
    product = next(node.name for node in model.graph if node.op_type == "MatMul")
    target = find_target("cpu")
    names = [_kernels(lower(m, target)) for m in (model, marked(model), marked(model, but=product or ""))]
    assert names[0] == {"attention", "main"}
    assert names[0] == names[1] == names[2]


def _kernels(lowered: Lowered) -> set[str]:
    return {str(variable.name_hint) for variable in lowered.module.functions}


def test_what_tensor_cores_do_not_take_is_float32_and_says_so() -> None:
    b = Bundle()
    x, y = b.input(1, 8, 6, 6), b.input(5, 16)
    outputs = {
        "dense": b.op("Conv", x, b.const(b.normal(12, 8, 3, 3))),
        "grouped": b.op("Conv", b.input(1, 64, 6, 6), b.const(b.normal(32, 4, 3, 3)), group=16),
        "transposed": b.op("ConvTranspose", x, b.const(b.normal(8, 5, 2, 2)), strides=[2, 2]),
        "product": b.op("MatMul", y, b.const(b.normal(16, 8))),
        "odd": b.op("MatMul", y, b.const(b.normal(16, 9))),
        "shallow": b.op("MatMul", b.input(5, 4), b.const(b.normal(4, 8))),
    }
    for name, output in outputs.items():
        b.case(output, name)
    found = lower(marked(b.model()), find_target("cuda:sm_80"))
    assert [(record.compute, record.reason) for record in found.records] == [
        ("tensorfloat32", "its input is not quantized"),
        ("float32", "not in TF32: its groups are small"),
        ("tensorfloat32", "its input is not quantized"),
        ("tensorfloat32", "its input is not quantized"),
        ("float32", "not in TF32: 16 x 9 is not in whole fours"),
        ("float32", "not in TF32: its sums are of 4 terms"),
    ]
    assert {op.compute for op in found.operators} == {"float32", "tensorfloat32"}
    assert "matmul float32 m=5 k=16 n=9" in map(str, found.operators)


@pytest.mark.parametrize("model", [cnn, deep, tokens, heads], ids=lambda m: m.__name__)
@pytest.mark.parametrize("kind", ["bfloat16", "tensorfloat32"])
def test_what_tuning_measures_is_the_operator_itself(kind: str, model: Callable[[], ir.Model]) -> None:
    target = find_target("cuda:sm_80")
    found = lower(marked(model(), kind), target).operators
    assert kind in {operator.compute for operator in found}
    for operator in found:
        if operator.kind in (CONV, MATMUL, BATCH_MATMUL):
            assert list(lower(sample_model(operator), target).operators) == [operator]


def test_halves_are_no_floats() -> None:
    b = Bundle()
    b.case(b.op("MatMul", b.input(5, 16, dtype="float16"), b.const(b.normal(16, 8).astype("float16"))), "halves")
    (record,) = lower(marked(b.model()), find_target("cuda:sm_80")).records
    assert (record.compute, record.reason) == ("float16", "not in TF32: its type is float16")
