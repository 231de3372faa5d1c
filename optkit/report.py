"""The report beside an artifact: what was done, refused, verified and measured, as JSON."""

from __future__ import annotations

import json
import platform
import resource
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optkit.artifact.manifest import Manifest
from optkit.files import write_whole
from optkit.issues import describe_issue
from optkit.pipeline import PassReport
from optkit.source import Source

if TYPE_CHECKING:
    from optkit.compiler.build import Built
    from optkit.compiler.preflight import Issue
    from optkit.proof import Proof


def build_report(
    path: Path,
    manifest: Manifest,
    source: Source,
    issues: Sequence[Issue],
    passes: Sequence[PassReport],
    built: Built,
    proof: Proof,
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """Everything about one compilation; unlike the manifest it holds times and figures of the moment."""
    return {
        "artifact": {"path": str(path), "bytes": path.stat().st_size},
        "source": {
            "path": None if source.in_memory else str(source.path),
            "bytes": source.size,
            "sha256": source.sha256,
        },
        "target": dict(manifest.target),
        "pipeline": manifest.pipeline,
        "options": dict(manifest.options),
        "verification": {**manifest.verification, **proof.figures},
        "passes": [describe_pass(report) for report in passes],
        "left_to_onnxruntime": [node for part in built.partitions for node in part.nodes],
        "preflight": [describe_issue(issue) for issue in issues if issue.status != "native"],
        "macs": compute_shares(built),
        "kernels": [kernel.as_dict() for kernel in built.kernels],
        "seconds": {phase: round(value, 3) for phase, value in seconds.items()},
        "environment": {
            "python": platform.python_version(),
            "machine": platform.machine(),
            "system": platform.system(),
            "peak_memory_bytes": peak_memory(),
        },
    }


def describe_pass(report: PassReport) -> dict[str, Any]:
    """One pass as JSON values."""
    return {
        "pass": report.text,
        "modified": report.modified,
        "seconds": round(report.seconds, 3),
        "findings": [{"action": f.action, "where": f.where, "reason": f.reason} for f in report.findings],
    }


def compute_shares(built: Built) -> dict[str, Any]:
    """MACs of convolutions and matrix products by arithmetic, and the nodes that stayed wider, with reasons."""
    counts: Counter[str] = Counter()
    for node in built.nodes:
        counts[node.compute] += node.macs
    return {
        "total": counts.total(),
        "by_compute": dict(counts.most_common()),
        "wider": [
            {"node": n.node, "op_type": n.op_type, "compute": n.compute, "macs": n.macs, "reason": n.reason}
            for n in built.nodes
            if n.reason
        ],
    }


def peak_memory() -> int:
    """Bytes of this process's largest resident size so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Write the report, whole or not at all; OptkitError where it cannot be written."""
    write_whole(path, json.dumps(report, indent=1, ensure_ascii=False, default=str).encode() + b"\n")
