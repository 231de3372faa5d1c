"""The named pipelines: visible lists of passes, with the reason for their order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from optkit.pipeline import Pipeline
from optkit.transform import Pass
from optkit_passes.fold import Fold
from optkit_passes.fusion import Fuse
from optkit_passes.precision.bf16 import Bf16
from optkit_passes.precision.fp16 import Fp16
from optkit_passes.precision.tf32 import Tf32
from optkit_passes.recognize import Recognize


def _float32() -> tuple[Pass, ...]:
    # Recognizing first: folding would make floats of integer weights that are cast and scaled.
    # Folding before fusing: fusions look for constants, which exporters compute. Folding again: fusions leave equal
    # constants and branches behind.
    return (Recognize(), Fold(), Fuse(), Fold())


def _int8() -> tuple[Pass, ...]:
    # Imported when asked for: calibration needs onnxruntime, which other pipelines do not.
    from optkit_passes.quantize import Quantize

    # Last: scales are measured on the tensors that remain after fusion, and nothing may fold what it writes.
    return (*_float32(), Quantize())


@dataclass(frozen=True)
class Default(Pipeline):
    """Float32: fold constants and fuse operators."""

    name: ClassVar[str] = "default"
    passes: tuple[Pass, ...] = field(default_factory=_float32)


def _int8_fp16() -> tuple[Pass, ...]:
    from optkit_passes.quantize import Quantize

    # Attention's products of activations stay real numbers: kernels multiply them in float16, and nothing in integers.
    # float16 last: quantization measures and rounds what is float32, and what it leaves is what float16 is for.
    return (*_float32(), Quantize(products=False), Fp16())


@dataclass(frozen=True)
class Int8(Pipeline):
    """Fold, fuse, and quantize weights and activations to 8 bits."""

    name: ClassVar[str] = "int8"
    passes: tuple[Pass, ...] = field(default_factory=_int8)

    def joined(self, other: Pipeline) -> Pipeline | None:
        """With float16 for what stays real; with nothing else."""
        return Int8Fp16() if isinstance(other, Fp16Pipeline) else None


@dataclass(frozen=True)
class Fp16Pipeline(Pipeline):
    """Fold, fuse, and convert to float16 what its range allows."""

    name: ClassVar[str] = "fp16"
    passes: tuple[Pass, ...] = field(default_factory=lambda: (*_float32(), Fp16()))


@dataclass(frozen=True)
class Bf16Pipeline(Pipeline):
    """Fold, fuse, and compute convolutions and matrix products in bfloat16."""

    name: ClassVar[str] = "bf16"
    passes: tuple[Pass, ...] = field(default_factory=lambda: (*_float32(), Bf16()))


@dataclass(frozen=True)
class Tf32Pipeline(Pipeline):
    """Fold, fuse, and multiply convolutions and matrix products in TF32."""

    name: ClassVar[str] = "tf32"
    passes: tuple[Pass, ...] = field(default_factory=lambda: (*_float32(), Tf32()))


@dataclass(frozen=True)
class Int8Fp16(Pipeline):
    """Fold, fuse, quantize layers with weights to 8 bits, and convert the rest to float16."""

    name: ClassVar[str] = "int8-fp16"
    passes: tuple[Pass, ...] = field(default_factory=_int8_fp16)
