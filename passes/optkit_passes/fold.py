"""Computing at compile time what does not depend on inputs; removing what is computed twice or never."""

from __future__ import annotations

import collections
import logging
import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.optimizer import FOLDED_FROM_KEY, fold_constants_ir

from optkit.tidy import infer_shapes, one_line, quiet
from optkit.transform import Finding, Pass, PassContext, Result, option
from optkit_passes import noops
from optkit_passes.graph import add_constant, constant, is_op, nodes, remove_unused

# Folding these would turn integers back into floats: they are the quantization.
_NEVER = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
_ROUNDS = 4
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fold(Pass):
    """Fold constants and shapes, share equal constants and subexpressions, remove what nothing uses."""

    name: ClassVar[str] = "fold"

    limit: int = option(1 << 20, "largest constant, in elements, that may be made out of smaller ones")
    share: int = option(1024, "largest constant, in elements, that is stored once for all its users")

    def __post_init__(self) -> None:
        if self.limit < 1 or self.share < 0:
            raise ValueError("limit must be at least 1 and share at least 0")

    def run(self, model: ir.Model, context: PassContext) -> Result:
        """Fold until nothing changes; quantize and dequantize operators are never folded."""
        before = collections.Counter(node.op_type for node in nodes(model))
        guard = _Guard(self.limit)
        modified = _lift(model)
        for number in range(_ROUNDS):
            context.progress("fold", number, None)
            again = self._round(model, guard)
            modified |= again
            if not again:
                break
        after = collections.Counter(node.op_type for node in nodes(model))
        gone = ", ".join(f"{count} {op}" for op, count in sorted((before - after).items()))
        findings = [Finding("changed", "", f"removed {gone}")] if gone else []
        return Result(model, modified, (*findings, *guard.findings()))

    def _round(self, model: ir.Model, guard: _Guard) -> bool:
        changed = _fold_constants(model, guard, self.limit)
        for node in nodes(model):
            changed |= noops.fuse(node, 0) is not None
            changed |= materialize_shape(node)
        changed |= _lift(model)
        with quiet("onnx_ir"):
            changed |= common.DeduplicateInitializersPass(size_limit=self.share)(model).modified
            changed |= common.CommonSubexpressionEliminationPass()(model).modified
        changed |= remove_unused(model)
        common.RemoveUnusedOpsetsPass()(model)
        if changed:
            common.NameFixPass()(model)
            infer_shapes(model)
        return changed


def _lift(model: ir.Model) -> bool:
    """Constant nodes become initializers: one form for everything behind."""
    return common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model).modified


@dataclass
class _Guard:
    """Decides what is folded, and remembers what was not and why."""

    limit: int
    refused: dict[str, str] = field(default_factory=dict)
    last: ir.Node | None = None

    def __call__(self, node: ir.Node) -> bool | None:
        """False: leave it; True: fold it whatever the size of its inputs; None: onnxscript's own rules."""
        name = node.name or node.outputs[0].name or node.op_type
        if is_op(node, *_NEVER) or name in self.refused:
            return False
        self.last = node
        sizes = [_size(value) for value in node.outputs]
        if any(size is None for size in sizes):
            return None
        made = sum(size for size in sizes if size is not None)
        replaced = sum(_size(value) or 0 for value in node.inputs if value is not None)
        if made > max(self.limit, replaced):
            self.refused[name] = (
                f"{node.op_type} not folded: it would store {made} elements (limit {self.limit})"
            )
            return False
        return True

    def findings(self) -> list[Finding]:
        """A finding for each node that could have been folded and was not."""
        return [Finding("skipped", name, reason) for name, reason in self.refused.items()]


def _size(value: ir.Value) -> int | None:
    """Elements of a value of static shape."""
    if value.shape is None or not value.shape.is_static():
        return None
    return math.prod(value.shape.numpy())


def _fold_constants(model: ir.Model, guard: _Guard, limit: int) -> bool:
    """onnxscript's folding; a node its evaluator fails on is left alone and named."""
    while True:
        try:
            with quiet("onnxscript.optimizer"):
                result = fold_constants_ir(
                    model,
                    onnx_shape_inference=True,
                    input_size_limit=limit,
                    output_size_limit=limit,
                    should_fold=guard,
                )
            break
        except Exception as error:  # the reference evaluator raises whatever numpy raises
            node = guard.last
            name = (node.name or node.outputs[0].name or "") if node is not None else ""
            if node is None or name in guard.refused:
                raise
            guard.refused[name] = f"{node.op_type} not folded: evaluating it failed ({one_line(error)})"
            _log.debug("folding %s failed", name, exc_info=error)
    for node in nodes(model):
        node.metadata_props.pop(FOLDED_FROM_KEY, None)
        for value in node.outputs:
            value.metadata_props.pop(FOLDED_FROM_KEY, None)
    return bool(result.modified)


def materialize_shape(node: ir.Node) -> bool:
    """Give a Reshape whose result's shape is known, but for one axis, a constant shape.

    Exporters compute shapes with Shape, Gather and Concat to keep the batch dynamic; -1 says the same.
    """
    if not is_op(node, "Reshape") or node.graph is None or constant(node.inputs[1]) is not None:
        return False
    shape = node.outputs[0].shape
    if shape is None:
        return False
    dims = [int(d) if isinstance(d, int) else -1 for d in shape]
    # With an axis of length 0, -1 would be ambiguous and 0 would mean "copy".
    if dims.count(-1) > 1 or 0 in dims:
        return False
    target = add_constant(node.graph, f"{node.name}_shape", np.array(dims, np.int64))
    node.replace_input_with(1, target)
    return True
