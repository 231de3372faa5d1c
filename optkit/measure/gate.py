"""A performance gate: whether a benchmark became slower than a baseline, or nobody can tell."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from optkit.errors import IndeterminateError, OptkitError, UsageError
from optkit.measure.statistics import Ratio, change


@dataclass(frozen=True)
class Verdict:
    """How the subject's time changed; `against` is the rival it was normalized by, or "" for plain times."""

    slowdown: Ratio
    against: str

    def __str__(self) -> str:
        how = f"relative to {self.against}" if self.against else "in plain time"
        return f"time is {self.slowdown} times the baseline's {how}"


def parse_percent(text: str) -> float:
    """A limit such as "5%" or "0.05" as a fraction.

    Raises:
        UsageError: it is neither, or negative.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(%?)\s*", text)
    if not match:
        raise UsageError(f"{text!r} is no limit; write it as 5% or 0.05")
    return float(match[1]) / (100 if match[2] else 1)


def check_baseline(current: Mapping[str, Any], baseline: Mapping[str, Any], limit: float) -> Verdict:
    """Compare two benchmark reports' subjects.

    Where both raced the same rival, its time is the measure: a busy or cooler machine slowed or sped up
    both alike. Else plain times are compared, which takes the same machine.

    Args:
        limit: slowdown that is tolerated, as a fraction.

    Raises:
        OptkitError: slower by more than the limit, with 95 % confidence (exit code 1).
        IndeterminateError: the interval straddles the limit, or the reports cannot be compared (exit code 3).
    """
    try:
        verdict = _compare(current, baseline)
    except (KeyError, TypeError, StopIteration, ValueError) as e:
        raise IndeterminateError(f"the baseline is no benchmark report of this schema ({e!r})") from e
    worst = 1 + limit
    if verdict.slowdown.low > worst:
        raise OptkitError(f"slower than the baseline: {verdict}; the limit is {worst:.3f}")
    if verdict.slowdown.high > worst:
        raise IndeterminateError(
            f"cannot tell whether it is slower: {verdict}; the limit is {worst:.3f}; run for longer (--duration)"
        )
    return verdict


def _compare(current: Mapping[str, Any], baseline: Mapping[str, Any]) -> Verdict:
    here, there = _lanes(current), _lanes(baseline)
    mine, old = here[current["subject"]], there[baseline["subject"]]
    if mine["threads"] != old["threads"]:
        raise IndeterminateError(
            f"the baseline ran on {old['threads']} threads, this on {mine['threads']}; use the same"
        )
    for name in here:
        if name != current["subject"] and name in there and name != baseline["subject"]:
            now = np.divide(mine["rounds"], here[name]["rounds"])
            before = np.divide(old["rounds"], there[name]["rounds"])
            return Verdict(change(list(now), list(before)), name)
    for key in ("cpu", "cores_usable"):
        if current["environment"][key] != baseline["environment"][key]:
            raise IndeterminateError(
                f"the baseline was taken on another machine ({key}: {baseline['environment'][key]}) and "
                "against no rival in common; measure both against one (--against)"
            )
    return Verdict(change(mine["rounds"], old["rounds"]), "")


def _lanes(report: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {lane["name"]: lane for lane in report["lanes"]}
