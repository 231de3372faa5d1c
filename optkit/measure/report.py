"""A race as a report: JSON to keep and compare with, Markdown to read."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optkit.errors import OptkitError, UsageError
from optkit.measure.environment import environment
from optkit.measure.timing import DEFAULT_PERCENTILES, RaceResult

SCHEMA = 1


def make_report(result: RaceResult, percents: Sequence[float] = DEFAULT_PERCENTILES, **details: Any) -> dict[str, Any]:
    """Everything that was measured, as JSON values; times are in seconds.

    The first contestant is the subject, the others are its rivals. `details` are added as they are.
    """
    lanes = []
    for lane in result.lanes:
        s = lane.summary(percents)
        lanes.append(
            {
                "name": lane.contestant.name,
                "kind": lane.contestant.kind,
                "threads": lane.contestant.threads,
                "samples": s.samples,
                "mean": s.mean,
                "std": s.std,
                "cv": s.cv,
                "min": s.minimum,
                "max": s.maximum,
                "throughput": s.throughput,
                "percentiles": {f"p{p:g}": v for p, v in s.percentiles.items()},
                "load": lane.ready.load,
                "first": lane.ready.first,
                "peak_bytes": lane.peak_bytes,
                "file_bytes": lane.contestant.path.stat().st_size,
                "idle_seconds": lane.idle_seconds,
                "versions": lane.ready.versions,
                "rounds": lane.rounds,
            }
        )
    subject = result.lanes[0].contestant.name
    speedups = {}
    for lane in result.lanes[1:]:
        r = result.speedup(subject, lane.contestant.name)
        speedups[lane.contestant.name] = {"value": r.value, "low": r.low, "high": r.high}
    return {
        "schema": SCHEMA,
        "subject": subject,
        "speedup": speedups,
        "lanes": lanes,
        "environment": environment(),
        **details,
    }


def to_markdown(report: dict[str, Any]) -> str:
    """The report as Markdown: one row a contestant, the ratios, and the machine."""
    lanes = report["lanes"]
    names = list(lanes[0]["percentiles"])
    head = ["", *names, "mean ± std", "min", "runs/s", "load", "first run", "peak memory", "file", "runs"]
    rows = [
        [
            lane["name"],
            *(_ms(lane["percentiles"][n]) for n in names),
            f"{_ms(lane['mean'])} ± {lane['cv']:.1%}",
            _ms(lane["min"]),
            f"{lane['throughput']:.1f}",
            _ms(lane["load"]),
            _ms(lane["first"]),
            f"{lane['peak_bytes'] / 2**20:.0f} MiB",
            f"{lane['file_bytes'] / 2**20:.2f} MiB",
            str(lane["samples"]),
        ]
        for lane in lanes
    ]
    lines = [_row(head), _row(["---", *["---:"] * (len(head) - 1)]), *map(_row, rows), ""]
    lines.append("Times in milliseconds; n/a where the runs are too few to tell.")
    for rival, r in report["speedup"].items():
        word = "faster" if r["low"] > 1 else "slower" if r["high"] < 1 else "no clear difference"
        lines.append(
            f"\n**{report['subject']}** against {rival}: {r['value']:.2f}x its speed "
            f"(95 % interval {r['low']:.2f} to {r['high']:.2f}): {word}."
        )
    e = report["environment"]
    threads = ", ".join(sorted({str(lane["threads"]) for lane in lanes}))
    versions = ", ".join(f"{k} {v}" for k, v in e["versions"].items())
    lines.append(
        f"\n{e['cpu']}, {e['cores_usable']} of {e['cores_online']} cores usable, governor {e['governor']}, "
        f"{threads} thread(s); {e['system']}; Python {e['python']}, {versions}."
    )
    return "\n".join(lines) + "\n"


def _ms(seconds: float | None) -> str:
    return "n/a" if seconds is None else f"{seconds * 1e3:.3f}"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def parse_percentiles(text: str) -> tuple[float, ...]:
    """Percentiles such as "50,90,99.9".

    Raises:
        UsageError: not numbers strictly between 0 and 100.
    """
    try:
        percents = tuple(float(word) for word in text.split(","))
    except ValueError:
        percents = ()
    if not percents or not all(0 < p < 100 for p in percents):
        raise UsageError(f"--percentiles {text}: write numbers between 0 and 100, as in 50,90,99")
    return percents


def read_report(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A report written by --json.

    Raises:
        UsageError: it cannot be read, or is none.
    """
    try:
        report = json.loads(Path(path).read_text())
    except OSError as e:
        raise UsageError(f"cannot read {path}: {e.strerror}") from e
    except ValueError as e:
        raise UsageError(f"{path} is no benchmark report: {e}") from e
    if not isinstance(report, dict) or report.get("schema") != SCHEMA:
        raise UsageError(f"{path} is no benchmark report of schema {SCHEMA}; make one with --json")
    return report


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        OptkitError: the path cannot be written.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    try:
        temporary.write_text(text)
        temporary.replace(target)
    except OSError as e:
        raise OptkitError(f"cannot write {target}: {e.strerror or e}") from e
    finally:
        temporary.unlink(missing_ok=True)
