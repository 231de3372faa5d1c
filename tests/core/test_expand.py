"""Bodies in the place of operators: ONNX Runtime gives the same numbers for both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from optkit.errors import UnsupportedError
from optkit.exact import DOMAIN, VERSION, definition
from optkit.model import load_model, to_proto
from tests.graphs import session

MICROSOFT = "com.microsoft"
B, S, H, D = 2, 3, 2, 8
GENERATOR = np.random.default_rng(5)


def normal(*shape: int) -> np.ndarray:
    return GENERATOR.standard_normal(shape).astype("float32")


def model_of(
    op_type: str,
    arrays: list[np.ndarray | None],
    outputs: int = 1,
    domain: str = MICROSOFT,
    opset: int = 20,
    second: int = onnx.TensorProto.FLOAT,
    **given: Any,
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """One node of the operator on the arrays; None leaves an input out."""
    names = ["" if a is None else f"x{i}" for i, a in enumerate(arrays)]
    feeds = {name: a for name, a in zip(names, arrays, strict=True) if a is not None}
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for name, a in feeds.items()
    ]
    made = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op_type, names, made, name="the_node", domain=domain, **given)
    results = [helper.make_tensor_value_info(name, second if i == 1 else 1, None) for i, name in enumerate(made)]
    graph = helper.make_graph([node], "g", inputs, results)
    imports = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=imports, ir_version=10), feeds


def expanded(model: onnx.ModelProto, folder: Path, shapes: list[tuple[int, ...]] | None = None) -> ir.Model:
    """The model as it is loaded, its outputs declared with the given shapes."""
    path = folder / "m.onnx"
    for output, shape in zip(model.graph.output, shapes or [], strict=False):
        output.CopyFrom(helper.make_tensor_value_info(output.name, output.type.tensor_type.elem_type, shape))
    onnx.save(model, path)
    return load_model(path)


MASK = np.array([[1, 1, 1], [1, 0, 0]], "int32")
IDS = np.array([[1, 2, 3], [3, 0, 1]], "int32")
MODELS: dict[str, Callable[[], tuple[onnx.ModelProto, dict[str, np.ndarray]]]] = {
    "BiasGelu": lambda: model_of("BiasGelu", [normal(B, S, D), normal(D)]),
    "FastGelu": lambda: model_of("FastGelu", [normal(B, S, D), normal(D)]),
    "FastGelu without bias": lambda: model_of("FastGelu", [normal(B, S, D)]),
    "QuickGelu": lambda: model_of("QuickGelu", [normal(B, S, D)], alpha=1.5),
    "FusedMatMul": lambda: model_of("FusedMatMul", [normal(B, D, S), normal(B, S, D)], transA=1, transB=1, alpha=0.5),
    "FusedConv": lambda: model_of(
        "FusedConv", [normal(1, 3, 6, 6), normal(4, 3, 3, 3), normal(4)], pads=[1, 1, 1, 1], activation="Relu"
    ),
    "FusedConv with a sum": lambda: model_of(
        "FusedConv",
        [normal(1, 3, 6, 6), normal(4, 3, 3, 3), normal(4), normal(1, 4, 4, 4)],
        activation="LeakyRelu",
        activation_params=[0.3],
    ),
    "SkipLayerNormalization": lambda: model_of(
        "SkipLayerNormalization", [normal(B, S, D), normal(B, S, D), normal(D), normal(D), normal(D)], epsilon=1e-3
    ),
    "SkipSimplifiedLayerNormalization": lambda: model_of(
        "SkipSimplifiedLayerNormalization", [normal(B, S, D), normal(B, S, D), normal(D)], epsilon=1e-3
    ),
    "EmbedLayerNormalization": lambda: model_of(
        "EmbedLayerNormalization",
        [IDS, IDS % 2, normal(5, D), normal(4, D), normal(2, D), normal(D), normal(D), MASK],
        outputs=2,
        second=onnx.TensorProto.INT32,
    ),
    "Attention": lambda: model_of("Attention", [normal(B, S, 6), normal(6, 3 * D), normal(3 * D), MASK], num_heads=H),
    "causal Attention with a past": lambda: model_of(
        "Attention",
        [normal(B, S, 6), normal(6, 3 * D), normal(3 * D), None, normal(2, B, H, 2, D // H)],
        outputs=2,
        num_heads=H,
        unidirectional=1,
    ),
    "MultiHeadAttention": lambda: model_of(
        "MultiHeadAttention",
        [normal(B, S, D), normal(B, 4, D), normal(B, 4, D), normal(3 * D), None, normal(B, H, S, 4)],
        num_heads=H,
    ),
    "MultiHeadAttention with a past": lambda: model_of(
        "MultiHeadAttention",
        [normal(B, S, D)] * 3 + [None, None, None, normal(B, H, 2, 4), normal(B, H, 2, 4)],
        outputs=3,
        num_heads=H,
    ),
    "RotaryEmbedding": lambda: model_of(
        "RotaryEmbedding", [normal(B, S, 2 * D), IDS.astype("int64"), normal(5, D // 2), normal(5, D // 2)]
    ),
    "interleaved RotaryEmbedding": lambda: model_of(
        "RotaryEmbedding",
        [normal(B, H, S, D), IDS.astype("int64"), normal(5, D // 2), normal(5, D // 2)],
        interleaved=1,
    ),
    "partial RotaryEmbedding": lambda: model_of(
        "RotaryEmbedding",
        [normal(B, S, 2 * D), IDS.astype("int64"), normal(5, 2), normal(5, 2)],
        num_heads=2,
        rotary_embedding_dim=4,
    ),
    "ai.onnx Attention": lambda: model_of(
        "Attention", [normal(B, H, S, D)] * 3, domain="", opset=23, is_causal=1, softcap=2.0
    ),
    "ai.onnx RotaryEmbedding": lambda: model_of(
        "RotaryEmbedding",
        [normal(B, H, S, D), normal(5, D // 2), normal(5, D // 2), IDS.astype("int64")],
        domain="",
        opset=23,
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_body_means_the_same(name: str, tmp_path: Path) -> None:
    model, feeds = MODELS[name]()
    wanted = session(model).run(None, feeds)
    loaded = expanded(model, tmp_path, [a.shape for a in wanted])
    kept = {(n.domain, n.op_type) for n in loaded.graph}
    assert (model.graph.node[0].domain, model.graph.node[0].op_type) not in kept
    assert all(not domain for domain, _ in kept)
    assert all((n.name or "").startswith("the_node/") for n in loaded.graph)
    for a, b in zip(wanted, session(to_proto(loaded)).run(None, feeds), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(b, a, rtol=2e-4, atol=2e-5)


def test_refused_variants_say_why(tmp_path: Path) -> None:
    model, _ = model_of("MultiHeadAttention", [normal(B, S, H, 3, 4)], num_heads=H)
    with pytest.raises(UnsupportedError, match=r"the_node.*packed"):
        expanded(model, tmp_path, [(B, S, D)])


def test_two_nodes_get_names_of_their_own(tmp_path: Path) -> None:
    model, _ = model_of("Swish", [normal(3)], domain="", opset=24)
    second = model.graph.node.add()
    second.CopyFrom(model.graph.node[0])
    second.name, second.input[0], second.output[0] = "other", "y0", "z"
    model.graph.output[0].name = "z"
    loaded = expanded(model, tmp_path, [(3,)])
    assert {(n.name or "").split("/")[0] for n in loaded.graph} == {"the_node", "other"}
    values = [v.name for n in loaded.graph for v in n.outputs]
    assert len(values) == len(set(values))


def test_kept_operators_and_our_own_functions_stay(tmp_path: Path) -> None:
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, 5])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2, 5])
    nodes = [helper.make_node("Softmax", ["x"], ["t"]), helper.make_node("Softmax", ["t"], ["y"], domain=DOMAIN)]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y]),
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, VERSION)],
        functions=[ir.to_proto(definition("Softmax", 20))],
        ir_version=10,
    )
    assert [(n.domain, n.op_type) for n in expanded(model, tmp_path).graph] == [("", "Softmax"), (DOMAIN, "Softmax")]


def test_optimizer_step_of_a_model_without_onnx_operators(tmp_path: Path) -> None:
    """Momentum by hand: v' = alpha * v + g with g regularized, x' = x - rate * v' (T = 0: the gradient in full)."""
    domain = "ai.onnx.preview.training"
    x, g, v = normal(4), normal(4), normal(4)
    rate, step = np.array(0.1, "float32"), np.array(0, "int64")
    given = {"alpha": 0.9, "beta": 0.5, "mode": "standard", "norm_coefficient": 0.01}
    model, feeds = model_of("Momentum", [rate, step, x, g, v], outputs=2, domain=domain, **given)
    del model.opset_import[0]
    found = session(to_proto(expanded(model, tmp_path, [(4,), (4,)]))).run(None, feeds)
    speed = 0.9 * v + (g + 0.01 * x)
    np.testing.assert_allclose(found[0], x - 0.1 * speed, rtol=1e-5)
    np.testing.assert_allclose(found[1], speed, rtol=1e-5)
