"""Small models for tests, written as ONNX text, and what is asked of every transformation of them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from optkit.model import load_model, to_proto
from optkit.pipeline import Pipeline, PipelineResult
from optkit.tidy import check_model, infer_shapes, name_nodes
from optkit.transform import PassContext


def proto(
    body: str,
    inputs: str = "float[n,3,8,8] x",
    outputs: str = "float[a,b,c,d] y",
    opset: int = 18,
    **constants: np.ndarray,
) -> onnx.ModelProto:
    """A ModelProto from ONNX text; `constants` become its initializers."""
    text = f'<ir_version: 10, opset_import: ["": {opset}, "custom": 1]> g ({inputs}) => ({outputs}) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    for name, array in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return model


def build(*args: str, **kwargs: object) -> ir.Model:
    """The same as an onnx_ir model, named, checked and with shapes."""
    model = ir.from_proto(proto(*args, **kwargs))  # type: ignore[arg-type]
    name_nodes(model)
    check_model(model)
    infer_shapes(model)
    return model


def weights(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    """Seeded normal float32 numbers."""
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def session(model: ir.Model | onnx.ModelProto | str) -> ort.InferenceSession:
    """ONNX Runtime on one thread, with its own optimizations off."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    source = (
        model
        if isinstance(model, str)
        else (model if isinstance(model, onnx.ModelProto) else to_proto(model)).SerializeToString()
    )
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def feeds(model: ort.InferenceSession, batch: int = 2, seed: int = 1) -> dict[str, np.ndarray]:
    """Seeded inputs; dynamic axes are `batch`."""
    generator = np.random.default_rng(seed)
    return {
        i.name: generator.standard_normal([d if isinstance(d, int) else batch for d in i.shape]).astype(
            np.int64 if "int64" in i.type else np.float32
        )
        for i in model.get_inputs()
    }


def ops(model: ir.Model) -> list[str]:
    """Operators of the main graph in order."""
    return [node.op_type for node in model.graph]


def transform(passes: str, model: ir.Model, context: PassContext | None = None) -> PipelineResult:
    """Run the passes on a copy of the model, so that the original can be compared with."""
    copy = ir.from_proto(to_proto(model))
    infer_shapes(copy)
    return Pipeline.parse(passes).run(copy, context or PassContext())


def same(before: ir.Model | onnx.ModelProto | str, after: ir.Model, *, rtol: float = 1e-5, atol: float = 1e-5) -> None:
    """Assert that both models give the same outputs, under the same names and in the same order."""
    first, second = session(before), session(after)
    names = [o.name for o in first.get_outputs()]
    assert [o.name for o in second.get_outputs()] == names
    inputs = feeds(second)
    for name, a, b in zip(names, first.run(None, inputs), second.run(None, inputs), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape, name
        np.testing.assert_allclose(b, a, rtol=rtol, atol=atol, err_msg=name)


def fused(model: ir.Model, passes: str = "fuse", **tolerance: float) -> tuple[list[str], PipelineResult]:
    """Operators after the passes, whose result is numerically the same as before."""
    result = transform(passes, model)
    same(model, result.model, **tolerance)
    return ops(result.model), result


def skipped(result: PipelineResult) -> dict[str, str]:
    """Reason by node of everything that was left alone."""
    return {f.where: f.reason for f in result.findings if f.action == "skipped"}


__all__ = [
    "build",
    "feeds",
    "fused",
    "load_model",
    "ops",
    "proto",
    "same",
    "session",
    "skipped",
    "transform",
    "weights",
]
