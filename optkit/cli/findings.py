"""Shows what passes did and refused, and what the preflight found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from optkit.cli.settings import say, warn

if TYPE_CHECKING:
    from optkit.pipeline import PassReport


def show_passes(reports: Sequence[PassReport] | Iterable[dict[str, Any]]) -> None:
    """Warnings always; a line a pass with -v; every finding with -vv."""
    from optkit.report import describe_pass

    for report in reports:
        told = report if isinstance(report, dict) else describe_pass(report)
        findings = told["findings"]
        for finding in findings:
            if finding["action"] == "warning":
                warn(_text(finding))
        counts = Counter(finding["action"] for finding in findings)
        summary = ", ".join(f"{n} {action}" for action, n in counts.items()) or "nothing to do"
        say(f"{told['pass']}: {summary} ({told['seconds']:.2f} s)", level=1)
        for finding in findings:
            if finding["action"] != "warning":
                say(f"  {finding['action']}: {_text(finding)}", level=2)


def show_issues(issues: Iterable[dict[str, Any]]) -> None:
    """Warn about operators that will run, but slowly; the others with -vv."""
    for issue in issues:
        text = f"{issue['op_type']} {issue['node']}: {issue['reason'] or 'composed of simpler operators'}"
        if issue["status"] == "slow":
            warn(text)
        else:
            say(f"{issue['status']}: {text}", level=2)


def _text(finding: dict[str, Any]) -> str:
    return f"{finding['where']}: {finding['reason']}" if finding["where"] else str(finding["reason"])
