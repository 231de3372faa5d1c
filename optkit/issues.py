"""What stands in a model's way on a target, found before any work is done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from optkit.errors import UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

    from optkit.compiler.preflight import Issue
    from optkit.target import Target

_NAMED = 5


def check_issues(model: ir.Model, target: Target, fallback: bool = False) -> list[Issue]:
    """The preflight's issues; refuses a model with an operator that cannot be compiled, unless there is a fallback.

    Raises:
        UnsupportedError: names up to five such nodes with their operators and reasons.
    """
    from optkit.compiler.preflight import preflight

    issues = preflight(model, target)
    blocking = [issue for issue in issues if issue.status == "unsupported"]
    if blocking and not fallback:
        raise UnsupportedError(f"{describe_blocking(blocking)} (--fallback onnxruntime leaves such nodes to it)")
    return issues


def describe_blocking(blocking: Sequence[Issue]) -> str:
    """One line about unsupported nodes."""
    named = "; ".join(
        f"node {issue.node!r} ({issue.domain}.{issue.op_type}): {issue.reason}"
        if issue.domain
        else f"node {issue.node!r} ({issue.op_type}): {issue.reason}"
        for issue in blocking[:_NAMED]
    )
    more = f"; and {len(blocking) - _NAMED} more" if len(blocking) > _NAMED else ""
    return f"{len(blocking)} node(s) cannot be compiled: {named}{more}"


def describe_issue(issue: Issue) -> dict[str, Any]:
    """One issue as JSON values."""
    return {
        "node": issue.node,
        "op_type": issue.op_type,
        "domain": issue.domain,
        "status": issue.status,
        "reason": issue.reason,
    }
