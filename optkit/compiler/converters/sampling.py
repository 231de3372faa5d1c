"""GridSample, RoiAlign, deformable convolution."""

from __future__ import annotations

from optkit.compiler.lower import Converter

CONVERTERS: dict[str, Converter] = {}
