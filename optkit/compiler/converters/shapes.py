"""Operators whose parameters are tensors: reshaping, slicing, padding, gathering."""

from __future__ import annotations

from optkit.compiler.lower import Converter

CONVERTERS: dict[str, Converter] = {}
