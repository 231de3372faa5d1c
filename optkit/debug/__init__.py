"""Which layer, which pass, which kernel did that? `accuracy` compares them all, `bisect` finds the first that is wrong.

Names load on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optkit.debug.account import Advice, Layer, Parts, Report, StageReport
    from optkit.debug.layerwise import accuracy
    from optkit.debug.search import Bisection, Found, bisect

_HOMES = {
    "Advice": "account",
    "Bisection": "search",
    "Found": "search",
    "Layer": "account",
    "Parts": "account",
    "Report": "account",
    "StageReport": "account",
    "accuracy": "layerwise",
    "bisect": "search",
}

__all__ = ["Advice", "Bisection", "Found", "Layer", "Parts", "Report", "StageReport", "accuracy", "bisect"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'optkit.debug' has no attribute {name!r}")
    return getattr(importlib.import_module(f"optkit.debug.{_HOMES[name]}"), name)
