"""Comparing results with the reference, and timing rivals side by side. Names load on first use.

`optkit.measure.verify.verify` is the function that verifies; the package cannot offer it by the module's name.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optkit.measure.checks import OutputCheck
    from optkit.measure.compare import Comparison, Figures
    from optkit.measure.contestant import Contestant
    from optkit.measure.gate import Verdict, check_baseline
    from optkit.measure.report import make_report, to_markdown
    from optkit.measure.timing import RaceResult, race
    from optkit.measure.verify import Verification

_HOMES = {
    "Comparison": "compare",
    "Contestant": "contestant",
    "Figures": "compare",
    "OutputCheck": "checks",
    "RaceResult": "timing",
    "Verdict": "gate",
    "Verification": "verify",
    "check_baseline": "gate",
    "make_report": "report",
    "race": "timing",
    "to_markdown": "report",
}

__all__ = [
    "Comparison",
    "Contestant",
    "Figures",
    "OutputCheck",
    "RaceResult",
    "Verdict",
    "Verification",
    "check_baseline",
    "make_report",
    "race",
    "to_markdown",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'optkit.measure' has no attribute {name!r}")
    return getattr(importlib.import_module(f"optkit.measure.{_HOMES[name]}"), name)
