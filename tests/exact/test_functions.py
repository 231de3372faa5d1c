"""The functions that every runtime rounds alike: what they compute, and how a model's are recognised."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from optkit.exact import DOMAIN, VERSION, definition, is_ours, stand_in
from optkit.model import load_model, save_model
from tests.graphs import build, session

OPSET = 20


def call(name: str, x: np.ndarray, *constants: np.ndarray, **attributes: float) -> np.ndarray:
    """ONNX Runtime's result of one function."""
    names = [f"c{i}" for i in range(len(constants))]
    node = helper.make_node(name, ["x", *names], ["y"], domain=DOMAIN, **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, x.shape)],
        [onnx.numpy_helper.from_array(c, n) for n, c in zip(names, constants, strict=True)],
    )
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    functions = [ir.to_proto(definition(name, OPSET))]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10, functions=functions)
    onnx.checker.check_model(model, full_check=True)
    result: np.ndarray = session(model).run(None, {"x": x})[0]
    return result


def rows(*shape: int, scale: float = 3.0) -> np.ndarray:
    return (scale * np.random.default_rng(0).standard_normal(shape)).astype(np.float32)


LINE = np.linspace(-12, 12, 4801, dtype=np.float32)
WIDE = LINE.astype(np.float64)
ERF = np.vectorize(math.erf)


@pytest.mark.parametrize(
    ("name", "truth", "limit"),
    [
        ("Exp", np.exp(WIDE), 3e-7 * np.exp(WIDE)),
        ("Sigmoid", 1 / (1 + np.exp(-WIDE)), 3e-7),
        ("Tanh", np.tanh(WIDE), 3e-7),
        ("Erf", ERF(WIDE), 5e-7),
        ("Gelu", WIDE / 2 * (1 + ERF(WIDE / math.sqrt(2))), 1e-6),
        ("GeluTanh", WIDE / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (WIDE + 0.044715 * WIDE**3))), 1e-6),
        ("HardSigmoid", np.clip(WIDE / 6 + 0.5, 0, 1), 1e-7),
        ("HardSwish", WIDE * np.clip(WIDE / 6 + 0.5, 0, 1), 1e-6),
    ],
)
def test_scalar_functions_are_accurate(name: str, truth: np.ndarray, limit: object) -> None:
    assert (np.abs(call(name, LINE) - truth) <= limit).all()


def test_exp_keeps_to_what_float32_holds() -> None:
    found = call("Exp", np.array([-np.inf, -200, 88.3, 200, np.inf], np.float32))
    assert (found[:2] < 1.3e-38).all() and (found[:2] > 0).all()
    assert np.isclose(found[2], math.exp(88.3), rtol=1e-5) and found[3] == found[4] == found.max()


def test_softmax_is_accurate() -> None:
    x = rows(6, 197, scale=5)
    x[0, 5:] = -np.inf
    wide = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    assert np.abs(call("Softmax", x) - wide / wide.sum(-1, keepdims=True)).max() < 1e-6


@pytest.mark.parametrize("outlier", [1.0, 1000.0])
def test_layer_normalization_is_accurate(outlier: float) -> None:
    x, scale, shift = rows(9, 768), rows(768, scale=1), rows(768, scale=0.5)
    x[:, 3] *= outlier
    wide = x.astype(np.float64)
    centred = wide - wide.mean(-1, keepdims=True)
    truth = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * scale + shift
    found = call("LayerNormalization", x, scale, shift, epsilon=1e-6)
    assert np.abs(found - truth).max() < 2e-5 * np.abs(truth).max()


def test_layer_normalization_of_zeros_is_the_shift() -> None:
    x, shift = np.zeros((2, 8), np.float32), rows(8)
    found = call("LayerNormalization", x, np.ones(8, np.float32), shift, epsilon=1e-5)
    assert np.array_equal(found, np.stack([shift, shift]))


@pytest.mark.parametrize(("size", "beta"), [(5, 0.75), (4, 0.5), (1, 1.0), (15, 0.75)])
def test_local_response_normalization_is_accurate(size: int, beta: float) -> None:
    x = rows(2, 11, 4, 3, scale=20)
    squares = np.pad(x.astype(np.float64) ** 2, [(0, 0), ((size - 1) // 2, size // 2), (0, 0), (0, 0)])
    total = sum(squares[:, i : i + 11] for i in range(size))
    found = call(f"LRN_{size}_{round(100 * beta):03}", x, alpha=0.02, bias=1.5)
    assert np.allclose(found, x / (1.5 + 0.02 / size * total) ** beta, rtol=1e-6)


def node_of(body: str, shape: str = "n,3,8,8", opset: int = 20) -> ir.Node:
    return build(body, inputs=f"float[{shape}] x", opset=opset).graph[-1]


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ("y = Softmax(x)", "Softmax"),
        ("y = Softmax<axis=3>(x)", "Softmax"),
        ("y = Softmax<axis=1>(x)", None),
        ("y = Gelu(x)", "Gelu"),
        ('y = Gelu<approximate="tanh">(x)', "GeluTanh"),
        ("y = LRN<size=5, beta=0.75>(x)", "LRN_5_075"),
        ("y = LRN<size=5, beta=0.8>(x)", None),
        ("y = HardSigmoid(x)", None),
        ("y = HardSigmoid<alpha=0.16666667, beta=0.5>(x)", "HardSigmoid"),
        ("y = Softplus(x)", None),
    ],
)
def test_stand_ins(body: str, name: str | None) -> None:
    found = stand_in(node_of(body))
    assert (found[0] if found else None) == name


def test_a_row_of_unknown_length_has_no_stand_in() -> None:
    assert stand_in(node_of("y = Softmax(x)", "n,3,8,k")) is None


@pytest.mark.parametrize("name", ["Exp", "Softmax", "LayerNormalization", "LRN_5_075"])
def test_a_function_survives_its_file_and_is_known_again(name: str) -> None:
    again = ir.from_proto(ir.to_proto(definition(name, OPSET)))
    assert is_ours(again)


def test_another_body_under_the_same_name_is_not_ours() -> None:
    changed = ir.to_proto(definition("Sigmoid", OPSET))
    next(n for n in changed.node if n.op_type == "Div").op_type = "Mul"
    assert not is_ours(ir.from_proto(changed))
    number = ir.to_proto(definition("Sigmoid", OPSET))
    constant = next(n for n in number.node if n.op_type == "Constant")
    tensor = constant.attribute[0].t
    tensor.raw_data = np.asarray(0.25, np.float32).tobytes()
    assert not is_ours(ir.from_proto(number))


def test_loading_keeps_ours_and_inlines_every_other(tmp_path: object) -> None:
    from pathlib import Path

    path = Path(str(tmp_path)) / "m.onnx"
    for known in (True, False):
        proto = ir.to_proto(definition("Sigmoid", 18))
        if not known:
            proto.node[-1].op_type = "Mul"
        text = f'<ir_version: 10, opset_import: ["": 18, "{DOMAIN}": 1]> g (float[2] x) => (float[2] y)'
        model = onnx.parser.parse_model(f"{text} {{ y = {DOMAIN}.Sigmoid(x) }}")
        model.functions.append(proto)
        save_model(ir.from_proto(model), path)
        loaded = load_model(path)
        assert bool(loaded.functions) is known
        assert [n.op_type for n in loaded.graph][-1] == ("Sigmoid" if known else "Mul")
