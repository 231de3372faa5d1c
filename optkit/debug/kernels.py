"""Compiled models, to be run beside ONNX Runtime on the same graph."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir

from optkit.artifact.link import link_library
from optkit.artifact.payload import BuildInfo
from optkit.artifact.writer import write_artifact
from optkit.debug.tensors import OpenSamples, Pair, expose
from optkit.measure.compare import Comparison, Figures
from optkit.measure.reference import Reference
from optkit.runtime import Runner, load
from optkit.steps import Progress, build_model, make_payload, silent
from optkit.target import Target


@contextlib.contextmanager
def compiled(model: ir.Model, target: Target) -> Iterator[Runner]:
    """The model compiled for this machine and loaded, as long as the block runs; no file stays.

    Raises:
        UnsupportedError, CompileError: it cannot be compiled.
    """
    with tempfile.TemporaryDirectory(prefix="optkit-debug-") as folder:
        library, path = Path(folder) / "lib.so", Path(folder) / "model.optk"
        built, variants = build_model(model.clone(), target)
        link_library(built.executable, library)
        payload = make_payload(built, library, target, variants)
        write_artifact(path, payload, BuildInfo(source_sha256=""), compress=False)
        with load(path, target.cores) as runner:
            yield runner


@dataclass
class Kernel:
    """One tensor of the artifact against ONNX Runtime's on the same model.

    Attributes:
        integers: whether it holds the integers of a QuantizeLinear; `steps` and `share` are of those.
        steps: largest distance in integers.
        share: of elements that differ.
    """

    figures: Figures
    integers: bool
    steps: int = 0
    share: float = 0.0


@dataclass
class _Sums:
    compared: Comparison = field(default_factory=Comparison)
    integers: bool = False

    def add(self, expected: np.ndarray, found: np.ndarray) -> None:
        self.integers = expected.dtype.kind in "iu"
        self.compared.add(expected, found)

    def kernel(self) -> Kernel:
        figures = self.compared.figures()
        share = figures.mismatches / max(figures.elements, 1)
        return Kernel(figures, self.integers, round(figures.max_abs) if self.integers else 0, share)


@dataclass(frozen=True)
class Shown:
    """A tensor of the compiled model: `name` in it, and the float tensor that it stands for."""

    name: str
    pair: Pair


def compare_kernels(
    model: ir.Model,
    shown: Sequence[Shown],
    floats: ir.Model,
    target: Target,
    samples: OpenSamples,
    progress: Progress = silent,
) -> tuple[dict[str, Kernel], dict[str, Comparison]]:
    """Tensors as the compiled model makes them: against ONNX Runtime on the same model, and against the float model.

    Returns:
        The first by the tensor's name, the second by the pair's key.

    Raises:
        UnsupportedError, CompileError: it cannot be compiled.
    """
    opened = expose(model, [s.name for s in shown])
    sums: dict[str, _Sums] = {}
    against: dict[str, Comparison] = {}
    with compiled(opened, target) as runner:
        reference, exact = Reference(opened), Reference(expose(floats, [s.pair.first for s in shown]))
        for number, sample in enumerate(samples()):
            expected, found = reference.run(sample), runner.run(sample)
            for name, array in expected.items():
                if found[name].shape == array.shape:
                    sums.setdefault(name, _Sums()).add(array, found[name])
            originals = {**sample, **exact.run(sample)}
            for each in shown:
                each.pair.take(against, originals, found)
            progress("artifact", number + 1, None)
    return {name: found.kernel() for name, found in sums.items()}, against
