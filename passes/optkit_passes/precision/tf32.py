"""TF32 as a compute type: which operators multiply float32 numbers rounded to TF32, and add float32 ones.

TF32 has float32's exponent and the eleven significant bits of float16; it exists only inside of a product, tensors stay
float32 (NVIDIA A100 Tensor Core GPU Architecture, 2020, "TF32").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from optkit.target import Target
from optkit_passes.precision.marks import MarkProducts


@dataclass(frozen=True)
class Tf32(MarkProducts):
    """Mark convolutions and matrix products to be multiplied in TF32 on tensor cores, with float32 sums."""

    name: ClassVar[str] = "tf32"
    kind: ClassVar[str] = "tensorfloat32"
    word: ClassVar[str] = "TF32"

    def without(self, target: Target) -> str | None:
        """A target without it computes in float32, to whose limits the model is then held."""
        return None if target.has("tensor_fours") else f"{target.name} has no TF32: products stay float32"
