"""Every tool's way to write quantization ends in integer kernels and gives ONNX Runtime's numbers to the bit."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from optkit.compiler.build import build
from optkit.model import to_proto
from optkit.pipeline import Pipeline, PipelineResult
from optkit.registry import find_target, get_pipeline
from optkit.transform import PassContext
from tests.compiler.bundle import Bundle, run
from tests.graphs import session
from tests.passes.recognize.dialects import DIALECTS, PRODUCTS, Dialect, network


def recognized(b: Bundle) -> PipelineResult:
    return Pipeline.parse("recognize").run(b.model(), PassContext())


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.name)
def test_it_keeps_every_number(dialect: Dialect) -> None:
    """And ends in the form of `quantize`: scalar scales for activations, int8 initializers for weights."""
    b = network(dialect)
    result = recognized(b)
    found = session(result.model).run(None, b.feeds)
    for label, x, y in zip(b.labels.values(), b.reference(), found, strict=True):
        assert np.array_equal(x, y), label
        assert len(np.unique(x)) >= 8, f"{label} saturates and proves nothing"
    kinds = {node.op_type for node in result.model.graph}
    assert not kinds & {"Round", "Cast", "Div", "Sub"}
    weights = [n.inputs[1].producer() for n in result.model.graph if n.op_type in ("Conv", "Gemm", "MatMul")]
    assert len(weights) == PRODUCTS
    for node in weights:
        assert node is not None and node.op_type == "DequantizeLinear" and node.inputs[0].is_initializer()
        q, zero = node.inputs[0], node.inputs[2].const_value.numpy()
        wide = dialect.name == "ONNX Runtime, U8U8"
        assert wide or (q.dtype == ir.DataType.INT8 and not zero.any()), node.name
    for node in result.model.graph:
        if node.op_type == "QuantizeLinear":
            assert {user.op_type for user, _ in node.outputs[0].uses()} == {"DequantizeLinear"}
    assert not [f for f in result.findings if f.action == "skipped"]


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.name)
def test_the_default_pipeline_compiles_it_to_integers(dialect: Dialect) -> None:
    b = network(dialect)
    model = get_pipeline("default").run(b.model(), PassContext()).model
    built = build(model, find_target("cpu"))
    assert [(r.compute, r.reason) for r in built.nodes] == [("int8", "")] * PRODUCTS
    found = run(built, [b.feeds[i.name] for i in built.inputs])
    for label, x, y in zip(b.labels.values(), b.reference(), found, strict=True):
        assert np.array_equal(x, y), f"{label}: {int((x != y).sum())} of {x.size} differ"


def test_again_changes_nothing() -> None:
    for dialect in DIALECTS:
        once = recognized(network(dialect)).model
        before = to_proto(once).SerializeToString(deterministic=True)
        again = Pipeline.parse("recognize").run(once, PassContext())
        assert not again.modified, dialect.name
        assert to_proto(again.model).SerializeToString(deterministic=True) == before
