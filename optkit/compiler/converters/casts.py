"""Casts between number types."""

from __future__ import annotations

from optkit.compiler.lower import Converter

CONVERTERS: dict[str, Converter] = {}
