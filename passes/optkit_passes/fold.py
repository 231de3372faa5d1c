"""Computing at compile time what does not depend on inputs; removing what is computed twice or never."""

from __future__ import annotations

import collections
import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.optimizer import FOLDED_FROM_KEY, _constant_folding, fold_constants_ir

from optkit.tidy import infer_shapes, quiet
from optkit.transform import Finding, Pass, PassContext, Result, option
from optkit_passes import noops
from optkit_passes.graph import is_op, nodes, remove_unused
from optkit_passes.shape_values import fold_shapes

# Folding these would turn integers back into floats: they are the quantization.
_NEVER = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
_SEQUENCES = ("SplitToSequence", "ConcatFromSequence")
_ROUNDS = 4


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
        modified = _lift(model) | _spell_casts(model)
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
        changed |= fold_shapes(model)
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


def _spell_casts(model: ir.Model) -> bool:
    """CastLike that rounds or saturates its own way becomes that Cast: onnxscript's folding would lose how."""
    found = [n for n in nodes(model) if is_op(n, "CastLike") and {"saturate", "round_mode"} & set(n.attributes)]
    for node in found:
        like = node.inputs[1]
        if like is not None and like.dtype is not None:
            node.op_type = "Cast"
            node.resize_inputs(1)
            node.attributes["to"] = ir.AttrInt64("to", int(like.dtype))
    return bool(found)


@dataclass
class _Guard:
    """Decides what is folded, and remembers what was not and why."""

    limit: int
    refused: dict[str, str] = field(default_factory=dict)
    accepted: list[ir.Node] = field(default_factory=list)

    def __call__(self, node: ir.Node) -> bool | None:
        """False: leave it; True: fold it whatever the size of its inputs; None: onnxscript's own rules."""
        name = _name(node)
        if is_op(node, *_NEVER) or name in self.refused:
            return False
        sizes = [_size(value) for value in node.outputs]
        if any(size is None for size in sizes):
            return None
        made = sum(size for size in sizes if size is not None)
        replaced = sum(_size(value) or 0 for value in node.inputs if value is not None)
        if made > max(self.limit, replaced):
            self.refused[name] = f"{node.op_type} not folded: it would store {made} elements (limit {self.limit})"
            return False
        self.accepted.append(node)
        return True

    def settle(self) -> None:
        """Remember what was to be folded and is still there: onnx's reference evaluator failed on it."""
        for node in self.accepted:
            if node.graph is not None:
                self.refused.setdefault(_name(node), f"{node.op_type} not folded: it could not be evaluated")
        self.accepted.clear()

    def findings(self) -> list[Finding]:
        """A finding for each node that could have been folded and was not."""
        return [Finding("skipped", name, reason) for name, reason in self.refused.items()]


def _name(node: ir.Node) -> str:
    return node.name or node.outputs[0].name or node.op_type


def _size(value: ir.Value) -> int | None:
    """Elements of a value of static shape."""
    if value.shape is None or not value.shape.is_static():
        return None
    return math.prod(value.shape.numpy())


@contextlib.contextmanager
def _without_rewriting() -> Iterator[None]:
    """Take away onnxscript's rewriting of some operators.

    It turns SplitToSequence by computed lengths into a Split nobody can compile, squeezes its pieces where ONNX
    ignores keepdims, and gives Unsqueeze a scalar for its axes in ConcatFromSequence.
    """
    rewritings = _constant_folding.registry.op_evaluators
    taken = {key: rewritings.pop(key) for key in (("", op) for op in _SEQUENCES) if key in rewritings}
    try:
        yield
    finally:
        rewritings.update(taken)


def _fold_constants(model: ir.Model, guard: _Guard, limit: int) -> bool:
    """onnxscript's folding, without its traces in the metadata."""
    with quiet("onnxscript.optimizer"), _without_rewriting():
        result = fold_constants_ir(
            model, onnx_shape_inference=True, input_size_limit=limit, output_size_limit=limit, should_fold=guard
        )
    guard.settle()
    for node in nodes(model):
        node.metadata_props.pop(FOLDED_FROM_KEY, None)
        for value in node.outputs:
            value.metadata_props.pop(FOLDED_FROM_KEY, None)
    return bool(result.modified)
