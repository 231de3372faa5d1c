"""The nine "light" models inside the onnx package, with their filler weights replaced by seeded ones.

Their weights are all 0.02 (made by ConstantOfShape nodes), so every answer is the same number. Here each
becomes a He-normal tensor (He et al. 2015, section 2.2), and batch-norm statistics are taken from one
run on a random image, so that activations keep a sane range through all layers.

`python -m benchmarks.zoo.light resnet50 -o light_resnet50.onnx`; without a name, lists the models.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from optkit.errors import UsageError, nearest

LIGHT = (
    "bvlc_alexnet",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "shufflenet",
    "squeezenet",
    "vgg19",
    "zfnet512",
)
PRODUCTS = ("Conv", "Gemm")


def load_light(name: str, seed: int = 0) -> onnx.ModelProto:
    """The light model `name` with weights drawn from `seed`, as a checked ONNX model of opset 9.

    Raises:
        UsageError: there is no such model.
    """
    if name not in LIGHT:
        raise UsageError(f"no light model {name!r}: {nearest(name, LIGHT)}")
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    model = onnx.load(str(folder / f"light_{name}.onnx"))
    generator = np.random.default_rng(seed)
    _materialize(model.graph)
    _draw_weights(model.graph, generator)
    model.ir_version = 8
    if any(node.op_type == "BatchNormalization" for node in model.graph.node):
        _set_statistics(model, generator)
    onnx.checker.check_model(model, full_check=True)
    return model


def _materialize(graph: onnx.GraphProto) -> None:
    """Replace ConstantOfShape nodes by initializers; drop what is unused, and weights from the inputs."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "ConstantOfShape":
            shape = numpy_helper.to_array(constants[node.input[0]])
            constants[node.output[0]] = numpy_helper.from_array(np.zeros(shape, np.float32), node.output[0])
    kept = [node for node in graph.node if node.op_type != "ConstantOfShape"]
    used = {name for node in kept for name in node.input}
    inputs = [value for value in graph.input if value.name in used and value.name not in constants]
    for field, content in (
        (graph.node, kept),
        (graph.initializer, [tensor for name, tensor in constants.items() if name in used]),
        (graph.input, inputs),
    ):
        del field[:]
        field.extend(content)


def _draw_weights(graph: onnx.GraphProto, generator: np.random.Generator) -> None:
    """Overwrite every float initializer by what its consumer needs."""
    weights = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    last = next(node for node in reversed(graph.node) if node.op_type in PRODUCTS)

    def put(name: str, mean: float, std: float) -> None:
        if tensor := weights.pop(name, None):
            values = mean + std * generator.standard_normal(tuple(tensor.dims), dtype=np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))

    views = {node.output[0]: node.input[0] for node in graph.node if node.op_type in ("Unsqueeze", "Reshape")}
    for node in graph.node:
        names = [views.get(name, name) for name in node.input]
        if node.op_type in PRODUCTS and names[1] in weights:
            dims = weights[names[1]].dims
            transposed = any(a.name == "transB" and a.i for a in node.attribute)
            fan_in = int(np.prod(dims[1:])) if node.op_type == "Conv" else dims[-1 if transposed else -2]
            put(names[1], 0.0, ((1.0 if node is last else 2.0) / fan_in) ** 0.5)
            for bias in names[2:]:
                put(bias, 0.0, 0.05)
        elif node.op_type == "BatchNormalization":
            # Positive biases for the reason given in zoo/seeded.py: without them the network is chaotic.
            for name, mean, std in zip(names[1:], (1.0, 1.0, 0.0, 1.0), (0.1, 0.1, 0.0, 0.0), strict=True):
                put(name, mean, std)
        elif node.op_type in ("Mul", "Add"):  # a scale or shift after a batch norm
            for name in names:
                put(name, 1.0, 0.1)
    if weights:
        raise UsageError(f"weights of unknown use: {', '.join(sorted(weights))}")


def _set_statistics(model: onnx.ModelProto, generator: np.random.Generator) -> None:
    """Set every batch norm's mean and variance to those of its input on one random image.

    All in one run: a copy of the graph computes each mean and variance, normalizes with them, and
    returns them as outputs.
    """
    import onnxruntime

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    graph = probe.graph
    axes = [0, 2, 3]
    nodes: list[onnx.NodeProto] = []
    statistics: list[str] = []
    shape = numpy_helper.from_array(np.array([1, -1, 1, 1], np.int64), "probe_shape")
    graph.initializer.append(shape)
    for node in graph.node:
        if node.op_type != "BatchNormalization":
            nodes.append(node)
            continue
        x, scale, bias, mean, variance = node.input
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        p = f"probe/{node.output[0]}"
        constant = numpy_helper.from_array(np.array(epsilon, np.float32), f"{p}/epsilon")
        graph.initializer.append(constant)
        nodes += [
            helper.make_node("ReduceMean", [x], [f"{p}/mean"], axes=axes, keepdims=1),
            helper.make_node("Sub", [x, f"{p}/mean"], [f"{p}/centred"]),
            helper.make_node("Mul", [f"{p}/centred", f"{p}/centred"], [f"{p}/squared"]),
            helper.make_node("ReduceMean", [f"{p}/squared"], [f"{p}/variance"], axes=axes, keepdims=1),
            helper.make_node("Add", [f"{p}/variance", constant.name], [f"{p}/safe"]),
            helper.make_node("Sqrt", [f"{p}/safe"], [f"{p}/deviation"]),
            helper.make_node("Div", [f"{p}/centred", f"{p}/deviation"], [f"{p}/normal"]),
            helper.make_node("Reshape", [scale, "probe_shape"], [f"{p}/scale"]),
            helper.make_node("Reshape", [bias, "probe_shape"], [f"{p}/bias"]),
            helper.make_node("Mul", [f"{p}/normal", f"{p}/scale"], [f"{p}/scaled"]),
            helper.make_node("Add", [f"{p}/scaled", f"{p}/bias"], [node.output[0]]),
        ]
        for statistic, name in ((f"{p}/mean", mean), (f"{p}/variance", variance)):
            graph.output.append(helper.make_tensor_value_info(statistic, onnx.TensorProto.FLOAT, None))
            statistics += [name]
    del graph.node[:]
    graph.node.extend(nodes)

    session = onnxruntime.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    feed = {image.name: generator.standard_normal(image.shape, dtype=np.float32)}
    answers = session.run([output.name for output in graph.output[-len(statistics) :]], feed)
    values = {name: answer.ravel() for name, answer in zip(statistics, answers, strict=True)}
    for tensor in model.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(values[tensor.name], tensor.name))


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.zoo.light", description="Write a light model.")
    parser.add_argument("name", nargs="?")
    parser.add_argument("-o", "--output", help="ONNX file (default: light_NAME.onnx)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.name is None:
        print("\n".join(LIGHT))
        return 0
    try:
        model = load_light(options.name, options.seed)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    path = options.output or f"light_{options.name}.onnx"
    onnx.save(model, path)
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
