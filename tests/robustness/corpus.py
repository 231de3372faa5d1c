"""Small valid models, of at most 30 nodes, that mutants are made of."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.graphs import proto, weights
from tests.targets.cuda.models import cnn, others, rows
from tests.targets.cuda.transformers import attention

__all__ = ["corpus"]


def _recurrent() -> onnx.ModelProto:
    return proto(
        "h, l, c = LSTM<hidden_size=5>(x, w, r, b) s = Squeeze(h, one) y = MatMul(s, p)",
        inputs="float[6,2,4] x",
        outputs="float[6,2,3] y",
        w=weights(1, 20, 4, scale=0.3),
        r=weights(1, 20, 5, seed=1, scale=0.3),
        b=weights(1, 40, seed=2, scale=0.3),
        one=np.array([1], np.int64),
        p=weights(5, 3, seed=3),
    )


def _quantized() -> onnx.ModelProto:
    return proto(
        """
        q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) e = DequantizeLinear(w, t)
        c = Conv<pads=[1,1,1,1]>(d, e) r = Relu(c) u = QuantizeLinear(r, s, z) y = DequantizeLinear(u, s, z)
        """,
        inputs="float[1,3,8,8] x",
        s=np.float32(0.05),
        z=np.uint8(100),
        w=np.random.default_rng(0).integers(-127, 127, (4, 3, 3, 3)).astype(np.int8),
        t=np.float32(0.01),
    )


def _branch() -> onnx.ModelProto:
    parts = {
        name: helper.make_graph(
            [helper.make_node(op, ["x"], [f"{name}_y"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_y", 1, [3])],
        )
        for name, op in (("then", "Relu"), ("other", "Neg"))
    }
    node = helper.make_node("If", ["c"], ["y"], then_branch=parts["then"], else_branch=parts["other"])
    inputs = [helper.make_tensor_value_info("c", 9, []), helper.make_tensor_value_info("x", 1, [3])]
    graph = helper.make_graph([node], "branch", inputs, [helper.make_tensor_value_info("y", 1, [3])])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _shapes() -> onnx.ModelProto:
    return proto(
        """
        s = Shape(x) n = Gather(s, zero) u = Unsqueeze(n, axes) t = Concat<axis=0>(u, rest) r = Reshape(x, t)
        k = ReduceMean(r, axes1) m = Softmax(k) p = Pad(m, pads) a, b = Split<axis=1>(p, sizes) y = Add(a, b)
        """,
        inputs="float[n,4,6] x",
        outputs="float[n,4,1] y",
        zero=np.array(0, np.int64),
        axes=np.array([0], np.int64),
        rest=np.array([6, 4], np.int64),
        axes1=np.array([-1], np.int64),
        pads=np.array([0, 0, 0, 0, 2, 0], np.int64),
        sizes=np.array([4, 4], np.int64),
    )


def corpus() -> list[onnx.ModelProto]:
    """The models, each of at most 30 nodes."""
    from optkit.model import to_proto

    made = [to_proto(m) for m in (cnn(), cnn("n"), attention(), attention("n"), rows(), others())]
    models = [*made, _recurrent(), _quantized(), _branch(), _shapes()]
    for model in models:
        onnx.checker.check_model(model, full_check=True)
        assert len(model.graph.node) <= 30
        for tensor in model.graph.initializer:  # raw bytes, so that mutations find them in one place
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    return models
