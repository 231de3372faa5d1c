"""Reductions, running sums and their kin."""

from __future__ import annotations

from optkit.compiler.lower import Converter

CONVERTERS: dict[str, Converter] = {}
