"""Model definitions with seeded weights: `python -m benchmarks.zoo resnet50 -o resnet50.onnx`.

The registry names modules and does not import them: listing the zoo needs no torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from optkit.errors import UsageError, nearest

if TYPE_CHECKING:
    from torch import nn

IMAGE = (1, 3, 224, 224)


@dataclass(frozen=True)
class Entry:
    """Where a model is built, and the shape of its one input, named "input"."""

    module: str
    function: str
    input_shape: tuple[int, ...]

    def build(self, seed: int = 0) -> nn.Module:
        """The torch module with weights drawn from `seed`, in eval mode; needs torch."""
        builder: Callable[[int], nn.Module] = getattr(importlib.import_module(self.module), self.function)
        return builder(seed)


ZOO = {
    "resnet18": Entry("benchmarks.zoo.resnet", "build", IMAGE),
    "resnet50": Entry("benchmarks.zoo.resnet", "build50", IMAGE),
    "mobilenet_v2": Entry("benchmarks.zoo.mobilenet_v2", "build", IMAGE),
    "squeezenet1_1": Entry("benchmarks.zoo.squeezenet", "build", IMAGE),
    "vit_b_16": Entry("benchmarks.zoo.vit", "build", IMAGE),
    "vit_tiny": Entry("benchmarks.zoo.vit", "build_tiny", (1, 3, 32, 32)),
}


def export_model(name: str, path: str | Path, *, dynamic_batch: bool = False, seed: int = 0) -> Path:
    """Write model `name` of the zoo as ONNX to `path`: input "input", output "output".

    Raises:
        UsageError: the zoo has no such model, or torch is not installed.
    """
    if name not in ZOO:
        raise UsageError(f"no model {name!r} in the zoo: {nearest(name, ZOO)}")
    import torch

    from optkit.torch import export

    entry = ZOO[name]
    sample = torch.randn(entry.input_shape, generator=torch.Generator().manual_seed(seed))
    return export(
        entry.build(seed),
        (sample,),
        path,
        input_names=["input"],
        output_names=["output"],
        dynamic={"input": {0: "batch"}} if dynamic_batch else None,
    )
