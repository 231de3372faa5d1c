"""Fusing operators: every fusion is a file here, and `Fuse` runs them until nothing changes any more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes import common

from optkit.errors import UsageError, nearest
from optkit.transform import Finding, Pass, PassContext, Result, option
from optkit_passes import noops
from optkit_passes.fusion import chains, clamps, conv_batchnorm, conv_pad, conv_scale, gelu, hardswish, layer_norm
from optkit_passes.graph import nodes, remove_unused

FUSIONS: dict[str, Callable[[ir.Node, int], Finding | None]] = {
    # What changes nothing goes first, so that patterns are not hidden behind it.
    "noops": noops.fuse,
    "chains": chains.fuse,
    # Clamps take one form before the hard swish looks for it, and the hard swish before its `+ 3` could
    # disappear in a bias.
    "clamps": clamps.fuse,
    "hardswish": hardswish.fuse,
    "gelu": gelu.fuse,
    "layernorm": layer_norm.fuse,
    "batchnorm": conv_batchnorm.fuse,
    "scale": conv_scale.fuse,
    "pad": conv_pad.fuse,
}
"""Every fusion by name: fuse(node, opset) changes the graph around `node` and says so, says why it left it
alone, or returns None where its pattern is not there."""

_ROUNDS = 50  # longer chains than this are a rewrite that undoes itself


@dataclass(frozen=True)
class Fuse(Pass):
    """Fuse batch norms, scales, biases, padding and written-out activations into single operators."""

    name: ClassVar[str] = "fuse"

    without: tuple[str, ...] = option((), f"fusions to leave out, of: {', '.join(FUSIONS)}")

    def __post_init__(self) -> None:
        for word in self.without:
            if word not in FUSIONS:
                raise UsageError(f"pass 'fuse' has no fusion {word!r}; {nearest(word, FUSIONS)}")

    def run(self, model: ir.Model, context: PassContext) -> Result:
        """Run all fusions over all nodes until a round changes nothing."""
        opset = model.opset_imports.get("", 0)
        active = [fuse for word, fuse in FUSIONS.items() if word not in self.without]
        changed: list[Finding] = []
        refused: list[Finding] = []
        for number in range(_ROUNDS):
            context.progress("fuse", number, None)
            found = [
                finding
                for fuse in active
                for node in nodes(model)
                if node.graph is not None and (finding := fuse(node, opset)) is not None
            ]
            now = [finding for finding in found if finding.action == "changed"]
            changed += now
            # What an earlier round refused may have become possible since: the last round's word counts.
            refused = [finding for finding in found if finding.action != "changed"]
            remove_unused(model)
            if not now:
                break
        else:
            refused.append(Finding("warning", "", f"still changing after {_ROUNDS} rounds"))
        if changed:
            common.NameFixPass()(model)  # a constant added inside a subgraph may carry an outer name
        return Result(model, bool(changed), (*changed, *refused))
