"""Keeping a model in one form: checked, shapes known, nodes named, nothing of the exporting machine in it."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator

import onnx_ir as ir
from onnx_ir.passes import common

from optkit.errors import ModelError

_PATH = re.compile(r"""(?:^|[\s"'(=:,\[])(?:(?:/[^/\s"']+){2,}|[A-Za-z]:[\\/]|~/|\\\\\w)|File ["']""")


def check_model(model: ir.Model) -> None:
    """onnx.checker with strict type and shape inference; raises ModelError in one line."""
    try:
        common.CheckerPass(full_check=True)(model)
    except Exception as error:
        raise ModelError(f"the model does not check: {one_line(error)}") from error


def infer_shapes(model: ir.Model) -> None:
    """Annotate every value with the shape and type that ONNX infers; what is known already stays."""
    with quiet("onnx_ir"):
        common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)


def forget_shapes(model: ir.Model) -> None:
    """Drop the shapes of all intermediate values, so that inference starts from inputs and weights."""
    for graph in model.graphs():
        for node in graph:
            for value in node.outputs:
                if not value.is_graph_output():
                    value.shape = None


def name_nodes(model: ir.Model) -> None:
    """Give every node, subgraphs included, a unique non-empty name; good names stay as they are."""
    nodes = list(ir.traversal.RecursiveGraphIterator(model.graph))
    taken = {node.name for node in nodes if node.name}
    seen: set[str] = set()
    counts: dict[str, int] = {}
    for node in nodes:
        if node.name and node.name not in seen:
            seen.add(node.name)
            continue
        stem = node.name or node.op_type
        number = counts.get(stem, 0)
        while f"{stem}_{number}" in taken:
            number += 1
        counts[stem] = number + 1
        node.name = f"{stem}_{number}"
        taken.add(node.name)
        seen.add(node.name)


def strip_paths(model: ir.Model) -> None:
    """Remove doc strings, stack traces and metadata that hold file paths of the exporting machine.

    Metadata under `optkit.` is ours and stays, as does any other that holds no path.
    """
    _clean(model)
    for graph in model.graphs():
        _clean(graph)
        values = [*graph.inputs, *graph.initializers.values()]
        for node in graph:
            _clean(node)
            values.extend(node.outputs)
        for value in values:
            _clean(value)
            if value.const_value is not None:
                _clean(value.const_value)


def _clean(thing: ir.Model | ir.Graph | ir.Node | ir.Value | ir.TensorProtocol) -> None:
    if thing.doc_string:
        thing.doc_string = None
    for key, text in list(thing.metadata_props.items()):
        if not key.startswith("optkit.") and ("stack_trace" in key or _PATH.search(text)):
            del thing.metadata_props[key]


def one_line(error: BaseException, limit: int = 300) -> str:
    """An exception's text on one line of at most `limit` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    cause = error.__cause__
    if isinstance(error, (ir.passes.PassError, ir.passes.InvariantError)) and cause is not None:
        return one_line(cause, limit)
    return text if len(text) <= limit else text[: limit - 3] + "..."


@contextlib.contextmanager
def quiet(name: str) -> Iterator[None]:
    """Keep a library's logger silent: it reports with tracebacks what we report in a line."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
