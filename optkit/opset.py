"""Bringing a model to an operator set that everything behind it understands."""

from __future__ import annotations

import functools
import logging
import re

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from optkit.errors import ModelError, UnsupportedError
from optkit.tidy import one_line, quiet

MINIMUM_OPSET = 18
"""ReduceMean and its kin take their axes as an input from here on, and Split its count: one form to lower."""

_MINIMUM_IR_VERSION = 8  # the first that may carry opset 18; before 4, initializers had to be inputs as well
_log = logging.getLogger(__name__)


def check_operators(model: ir.Model) -> None:
    """Raise for an operator set that is too new, or an operator that ONNX's own domains do not have.

    Operators of other domains are the compiler's preflight to judge.
    """
    for domain, version in model.opset_imports.items():
        newest = _newest(domain)
        if newest and version > newest:
            raise ModelError(
                f"opset {version} of domain {domain or 'ai.onnx'!r} is newer than the installed onnx knows "
                f"({newest}); export with a lower opset or update onnx"
            )
        if version < 1:
            raise ModelError(f"opset {version} of domain {domain or 'ai.onnx'!r} does not exist")
    called = {(key[0], key[1]) for key in model.functions}
    for function in model.functions.values():
        for node in ir.traversal.RecursiveGraphIterator(function):
            _check_operator(node, function.opset_imports, called)
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        _check_operator(node, model.opset_imports, called)


def _check_names(node: ir.Node) -> None:
    """Protobuf hands on as bytes what a file holds as text and is not UTF-8."""
    values = [value.name for value in (*node.inputs, *node.outputs) if value is not None]
    for name in (node.op_type, node.domain, node.name, *node.attributes, *values):
        if isinstance(name, bytes):
            raise ModelError(f"the name {name!r} at node {node.name or node.op_type!r} is not UTF-8 text")


def _check_operator(node: ir.Node, imports: dict[str, int], called: set[tuple[str, str]]) -> None:
    _check_names(node)
    if (node.domain, node.op_type) in called or not _newest(node.domain):
        return
    version = imports.get(node.domain)
    name = node.name or next((o.name for o in node.outputs if o.name), None) or node.op_type
    where = f"node {name!r}"
    if version is None:
        raise ModelError(f"{where} uses domain {node.domain or 'ai.onnx'!r}, which the model does not import")
    if not onnx.defs.has(node.op_type, version, node.domain):
        raise UnsupportedError(
            f"unknown operator {node.op_type!r} ({where}): opset {version} of {node.domain or 'ai.onnx'} has "
            "none; a custom operator needs a domain of its own"
        )


@functools.cache
def _newest(domain: str) -> int:
    """The newest version of one of ONNX's own domains; 0 for any other domain."""
    if domain == "":
        return onnx.defs.onnx_opset_version()
    if domain == "ai.onnx.ml":
        return max(schema.since_version for schema in onnx.defs.get_all_schemas() if schema.domain == domain)
    return 0


def raise_opset(model: ir.Model, minimum: int = MINIMUM_OPSET) -> str:
    """Convert `model` in place to opset `minimum` where it is older; "", or why it could not be.

    onnx's own converter does the work, through onnxscript, which keeps large weights out of the
    serialized message (2 GB limit). Where it cannot, the model stays as it was and the reason is
    logged and kept in `metadata_props["optkit.opset"]`.
    """
    version = model.opset_imports.get("")
    oldest = _MINIMUM_IR_VERSION if minimum <= MINIMUM_OPSET else onnx.helper.find_min_ir_version_for([_opset(minimum)])
    if version is None or version >= minimum:
        model.ir_version = max(model.ir_version, oldest)
        return ""
    original, imports, shapes = model.graph, dict(model.opset_imports), _input_shapes(model)
    model.ir_version = max(model.ir_version, oldest)
    try:
        reason = _convert(model, minimum)
    except Exception as error:  # the converters raise bare RuntimeErrors and AssertionErrors
        reason = one_line(error)
    if not reason and _input_shapes(model) != shapes:
        # Opset 8's Scan: the converter takes the batch axis away from the model's own inputs.
        reason = "onnx's version converter changes the model's inputs"
    if reason:
        model.graph = original
        model.opset_imports.update(imports)
        # Failed assertions begin with the source file onnx was built from.
        reason = re.sub(r"^\S+:\d+: \S+ ", "", reason)
        reason = f"kept at opset {version}: {reason}"
        model.metadata_props["optkit.opset"] = reason
        _log.warning("model %s", reason)
    return reason


def _opset(version: int) -> onnx.OperatorSetIdProto:
    return onnx.helper.make_opsetid("", version)


def _input_shapes(model: ir.Model) -> list[tuple[str | None, str]]:
    """Names and shapes of inputs."""
    return [(value.name, str(value.shape)) for value in model.graph.inputs]


def _convert(model: ir.Model, minimum: int) -> str:
    """ "" where the conversion worked, else why it did not."""
    # Imported here: onnxscript takes half a second, and models of today need no conversion.
    from onnxscript.version_converter import ConvertVersionPass

    reasons: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: _keep_cause(record, reasons)  # type: ignore[method-assign]
    logger = logging.getLogger("onnxscript.version_converter")
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        ConvertVersionPass(minimum, fallback=True)(model)
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
    if model.opset_imports.get("") != minimum:
        return reasons[-1] if reasons else "onnx's version converter left it as it was"
    with quiet("onnx_ir"):
        common.NameFixPass()(model)
        common.CheckerPass(full_check=True)(model)
    return ""


def _keep_cause(record: logging.LogRecord, reasons: list[str]) -> None:
    """The converter logs its failures with a traceback; keep the error's own text."""
    if isinstance(record.exc_info, tuple) and record.exc_info[1] is not None:
        reasons.append(one_line(record.exc_info[1]))
    elif isinstance(record.exc_info, BaseException):
        reasons.append(one_line(record.exc_info))
