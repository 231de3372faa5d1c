"""Mutants of valid models: small changes to what a protobuf says, and to its bytes."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Mutation = Callable[[random.Random, onnx.ModelProto], None]

_NAMES = ("", "a/b", "../x", "x y", 'q"uote', "new\nline", "\u00e4\u00f6", "%s", "0", "x" * 300, "main", "int", "T.x")
_EXTENTS = (0, 1, 2, 3, 5, 7, 8, 17, 64, 1 << 20, 1 << 31, (1 << 62), -1)
_INTEGERS = (-(1 << 31), -2, -1, 0, 1, 2, 3, 4, 7, 100, 1 << 31)
_FLOATS = (0.0, -1.0, 1e-30, 1e30, float("nan"), float("inf"))
_OPERATORS = (
    *("Relu", "Sigmoid", "Softmax", "Neg", "Identity", "Transpose", "Flatten", "Shape", "Size", "Exp", "Abs", "Cast"),
    *("Add", "Mul", "MatMul", "Concat", "Div", "Pow", "Where", "Gather", "Conv", "MaxPool", "GlobalAveragePool"),
    *("Reshape", "Loop", "If", "Nonsense", "LSTM", "Resize", "TopK", "NonZero", "ReduceSum", "Slice", "Pad", "Einsum"),
)
_LARGEST = 1 << 16
"""Elements that a mutated initializer may get; its stated extents may be anything."""


def _node(rng: random.Random, model: onnx.ModelProto) -> onnx.NodeProto:
    return rng.choice(model.graph.node)


def _value(rng: random.Random, model: onnx.ModelProto) -> onnx.ValueInfoProto:
    return rng.choice([*model.graph.input, *model.graph.output, *model.graph.value_info])


def _all_names(model: onnx.ModelProto) -> list[str]:
    graph = model.graph
    names = [n for node in graph.node for n in (*node.input, *node.output)]
    return [*names, *(v.name for v in graph.input), *(t.name for t in graph.initializer)]


def change_operator(rng: random.Random, model: onnx.ModelProto) -> None:
    _node(rng, model).op_type = rng.choice(_OPERATORS)


def change_domain(rng: random.Random, model: onnx.ModelProto) -> None:
    _node(rng, model).domain = rng.choice(["", "ai.onnx", "com.microsoft", "custom", "optkit.exact"])


def rewire(rng: random.Random, model: onnx.ModelProto) -> None:
    node = _node(rng, model)
    if node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice(["", *_all_names(model)])


def add_input(rng: random.Random, model: onnx.ModelProto) -> None:
    _node(rng, model).input.append(rng.choice(_all_names(model)))


def drop_input(rng: random.Random, model: onnx.ModelProto) -> None:
    node = _node(rng, model)
    if node.input:
        del node.input[rng.randrange(len(node.input))]


def rename_output(rng: random.Random, model: onnx.ModelProto) -> None:
    node = _node(rng, model)
    if node.output:
        node.output[rng.randrange(len(node.output))] = rng.choice([*_NAMES, *_all_names(model)])


def rename_everywhere(rng: random.Random, model: onnx.ModelProto) -> None:
    """An odd but valid name."""
    old, new = rng.choice(_all_names(model)), rng.choice(_NAMES[1:]) + str(rng.randrange(9))
    for node in model.graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name == old:
                    names[i] = new
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer):
        if value.name == old:
            value.name = new


def name_node(rng: random.Random, model: onnx.ModelProto) -> None:
    _node(rng, model).name = rng.choice(_NAMES)


def shuffle_nodes(rng: random.Random, model: onnx.ModelProto) -> None:
    nodes = list(model.graph.node)
    rng.shuffle(nodes)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def duplicate_node(rng: random.Random, model: onnx.ModelProto) -> None:
    copy = onnx.NodeProto.FromString(_node(rng, model).SerializeToString())
    if rng.random() < 0.7:
        for i, name in enumerate(copy.output):
            copy.output[i] = f"{name}_copy"
    model.graph.node.insert(rng.randrange(len(model.graph.node) + 1), copy)


def drop_node(rng: random.Random, model: onnx.ModelProto) -> None:
    if len(model.graph.node) > 1:
        del model.graph.node[rng.randrange(len(model.graph.node))]


def change_attribute(rng: random.Random, model: onnx.ModelProto) -> None:
    attributes = [a for node in model.graph.node for a in node.attribute]
    if not attributes:
        return
    attribute = rng.choice(attributes)
    if attribute.type == onnx.AttributeProto.INT:
        attribute.i = rng.choice(_INTEGERS)
    elif attribute.type == onnx.AttributeProto.FLOAT:
        attribute.f = rng.choice(_FLOATS)
    elif attribute.type == onnx.AttributeProto.INTS:
        attribute.ints.append(rng.choice(_INTEGERS))
        if rng.random() < 0.7:
            del attribute.ints[rng.randrange(len(attribute.ints))]
    else:
        attribute.name = rng.choice(["axis", "nothing", *_NAMES])


def add_attribute(rng: random.Random, model: onnx.ModelProto) -> None:
    name = rng.choice(["axis", "group", "alpha", "to", "keepdims", "pads", "strides", "nothing"])
    _node(rng, model).attribute.append(helper.make_attribute(name, rng.choice([0, 1, -1, 2.5, [1, 2]])))


def change_shape(rng: random.Random, model: onnx.ModelProto) -> None:
    shape = _value(rng, model).type.tensor_type.shape
    if not shape.dim:
        return
    d = rng.choice(shape.dim)
    if rng.random() < 0.5:
        d.dim_param = rng.choice(["n", "h", "", "batch size"])
    else:
        d.dim_value = rng.choice(_EXTENTS)


def change_rank(rng: random.Random, model: onnx.ModelProto) -> None:
    shape = _value(rng, model).type.tensor_type.shape
    if shape.dim and rng.random() < 0.5:
        del shape.dim[rng.randrange(len(shape.dim))]
    else:
        shape.dim.add().dim_value = rng.choice(_EXTENTS)


def change_type(rng: random.Random, model: onnx.ModelProto) -> None:
    _value(rng, model).type.tensor_type.elem_type = rng.choice([1, 10, 11, 6, 7, 3, 2, 9, 8, 16, 22, 0, 99])


def forget_types(rng: random.Random, model: onnx.ModelProto) -> None:
    del model.graph.value_info[:]
    for output in model.graph.output:
        if rng.random() < 0.5:
            output.ClearField("type")


def change_initializer(rng: random.Random, model: onnx.ModelProto) -> None:
    if not model.graph.initializer:
        return
    tensor = rng.choice(model.graph.initializer)
    kind = rng.randrange(5)
    if kind == 0:
        tensor.dims.append(rng.choice(_EXTENTS))
    elif kind == 1:
        tensor.data_type = rng.choice([1, 10, 6, 7, 3, 9, 99])
    elif kind == 2:
        tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data) + 1)]
    elif kind == 3:
        array = numpy_helper.to_array(tensor)
        if 0 < array.size <= _LARGEST and array.dtype.kind == "f":
            spoiled = array.copy()
            spoiled.reshape(-1)[rng.randrange(array.size)] = rng.choice(_FLOATS)
            tensor.CopyFrom(numpy_helper.from_array(spoiled, tensor.name))
    else:
        shape = [rng.choice([0, 1, 2, 3, 4, 8]) for _ in tensor.dims]
        array = np.ones(shape, helper.tensor_dtype_to_np_dtype(tensor.data_type))
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def drop_initializer(rng: random.Random, model: onnx.ModelProto) -> None:
    if model.graph.initializer:
        del model.graph.initializer[rng.randrange(len(model.graph.initializer))]


def shadow_initializer(rng: random.Random, model: onnx.ModelProto) -> None:
    if model.graph.initializer:
        tensor = rng.choice(model.graph.initializer)
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))


def leave_the_folder(rng: random.Random, model: onnx.ModelProto) -> None:
    if model.graph.initializer:
        tensor = rng.choice(model.graph.initializer)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=rng.choice(["../x", "/etc/passwd", "missing.bin", ""]))


def change_versions(rng: random.Random, model: onnx.ModelProto) -> None:
    model.ir_version = rng.choice([0, 1, 3, 7, 8, 10, 13, 99])
    if model.opset_import:
        rng.choice(model.opset_import).version = rng.choice([1, 7, 9, 11, 13, 17, 18, 21, 23, 99])


def add_output(rng: random.Random, model: onnx.ModelProto) -> None:
    model.graph.output.append(onnx.ValueInfoProto(name=rng.choice(_all_names(model))))


def annotate(rng: random.Random, model: onnx.ModelProto) -> None:
    """Harmless: texts that nobody computes with."""
    _node(rng, model).doc_string = rng.choice(_NAMES)
    model.producer_name = rng.choice(_NAMES)
    model.metadata_props.add(key=rng.choice(_NAMES), value="x")


MUTATIONS: tuple[Mutation, ...] = (
    *(change_operator, change_domain, rewire, add_input, drop_input, rename_output, rename_everywhere, name_node),
    *(shuffle_nodes, duplicate_node, drop_node, change_attribute, change_attribute, add_attribute, change_shape),
    *(change_shape, change_rank, change_type, forget_types, change_initializer, drop_initializer),
    *(shadow_initializer, leave_the_folder, change_versions, add_output, annotate, annotate, rename_everywhere),
)


def _bytes(rng: random.Random, data: bytes) -> bytes:
    """A few bytes changed, removed, or repeated."""
    content = bytearray(data)
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(content))
        match rng.randrange(4):
            case 0:
                content[at] = rng.randrange(256)
            case 1:
                content[at] ^= 1 << rng.randrange(8)
            case 2:
                del content[at : at + rng.randrange(1, 20)]
            case _:
                content[at:at] = content[at : at + rng.randrange(1, 20)]
        if not content:
            return b""
    return bytes(content)


def mutant(seed: int, corpus: list[onnx.ModelProto]) -> bytes:
    """The file of mutant number `seed`; the same number gives the same bytes."""
    rng = random.Random(seed)
    model = onnx.ModelProto.FromString(rng.choice(corpus).SerializeToString())
    if rng.random() < 0.1:
        return _bytes(rng, model.SerializeToString())
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        rng.choice(MUTATIONS)(rng, model)
    return bytes(model.SerializeToString())
