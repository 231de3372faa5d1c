"""bfloat16 as a compute type: which operators multiply bfloat16 numbers and add float32 ones.

A mark and no rewrite, for ONNX Runtime's CPU has no bfloat16 convolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from optkit_passes.precision.marks import MarkProducts


@dataclass(frozen=True)
class Bf16(MarkProducts):
    """Mark convolutions and matrix products to be computed in bfloat16 with float32 sums."""

    name: ClassVar[str] = "bf16"
    kind: ClassVar[str] = "bfloat16"
    word: ClassVar[str] = "bfloat16"
