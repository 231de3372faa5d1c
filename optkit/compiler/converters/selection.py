"""Operators whose output sizes depend on data."""

from __future__ import annotations

from optkit.compiler.lower import Converter

CONVERTERS: dict[str, Converter] = {}
