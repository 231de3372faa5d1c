"""Second moments of a layer's inputs: all that a quadratic objective needs to know of the data, in flat memory.

For rounding a weight w to v, the error of a layer's outputs over all data is |v X' - w X|^2 = v H v - 2 v C w + const,
with H = X' X'^T and C = X' X^T, where X are the columns the layer sees in the float model and X' those in the
quantized one. Sums are kept centred, because the means go into the bias.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import onnx_ir as ir

from optkit.transform import Sample
from optkit_passes.quantize.columns import columns
from optkit_passes.quantize.layers import QuantizedLayer
from optkit_passes.quantize.stepwise import Stepwise


@dataclass
class Means:
    """Sums of the columns that a layer reads, float64; g groups of depth k.

    Attributes:
        count: columns seen.
        seen: (g, k), sum of the quantized model's columns.
        meant: (g, k), sum of the float model's.
    """

    count: int = 0
    seen: np.ndarray = field(default_factory=lambda: np.zeros(0))
    meant: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def add(self, seen: np.ndarray, meant: np.ndarray, batch: int = 1) -> None:
        """Take in (g, positions, k) columns of both models, of `batch` samples."""
        if not self.count:
            self.seen, self.meant = (np.zeros((x.shape[0], x.shape[2])) for x in (seen, meant))
        self.count += seen.shape[1]
        self.seen += seen.sum(axis=1, dtype=np.float64)
        self.meant += meant.sum(axis=1, dtype=np.float64)

    def means(self) -> tuple[np.ndarray, np.ndarray]:
        """(g, k) mean column of the quantized and of the float model."""
        return self.seen / self.count, self.meant / self.count


POSITIONS = 128
"""Columns of a sample that second moments are taken of, spread over its places; neighbours say much the same."""


@dataclass
class Moments(Means):
    """Second moments besides, of some of the columns.

    Attributes:
        gram: (g, k, k), of the quantized model's columns with themselves.
        cross: (g, k, k), of the quantized model's with the float model's.
        sampled: sums over the columns that these are of.
        calls: pieces taken in.
    """

    gram: np.ndarray = field(default_factory=lambda: np.zeros(0))
    cross: np.ndarray = field(default_factory=lambda: np.zeros(0))
    sampled: Means = field(default_factory=Means)
    calls: int = 0

    def add(self, seen: np.ndarray, meant: np.ndarray, batch: int = 1) -> None:
        """Take in (g, positions, k) columns of both models."""
        if not self.count:
            groups, _, depth = seen.shape
            self.gram, self.cross = np.zeros((groups, depth, depth)), np.zeros((groups, depth, depth))
        super().add(seen, meant)
        stride = max(seen.shape[1] // (POSITIONS * batch), 1)
        # 7 is prime to what images are wide, so that in time every place has its turn
        start = 7 * self.calls % stride
        self.calls += 1
        seen, meant = (np.ascontiguousarray(x[:, start::stride]) for x in (seen, meant))
        self.sampled.add(seen, meant)
        flipped = np.ascontiguousarray(seen.transpose(0, 2, 1))
        self.gram += flipped @ seen
        self.cross += flipped @ meant

    def centred(self) -> tuple[np.ndarray, np.ndarray]:
        """(g, k, k) covariances: quantized with quantized, quantized with float."""
        (seen, meant), count = self.sampled.means(), self.sampled.count
        gram = self.gram / count - seen[:, :, None] * seen[:, None, :]
        cross = self.cross / count - seen[:, :, None] * meant[:, None, :]
        return gram, cross


class Observer:
    """Runs the quantized and the float model side by side, level by level.

    Use as a context manager: tensors between two levels lie in a temporary folder.

    Args:
        model: the quantized model; integers of layers that no level has reached yet may be changed in between.
        reference: the float model.
        open_samples: opened once a level.
        samples: use at most so many.
    """

    def __init__(
        self,
        model: ir.Model,
        reference: ir.Model,
        open_samples: Callable[[], Iterator[Sample]],
        samples: int | None = None,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="optkit-")
        folder = Path(self._folder.name)
        self._same = model is reference
        self._meant = Stepwise(reference, folder / "float", open_samples, samples)
        self._seen = self._meant if self._same else Stepwise(model, folder / "quantized", open_samples, samples)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def observe(self, layers: Sequence[QuantizedLayer], into: Mapping[str, Means]) -> None:
        """Run on as far as `layers`, and add what these read to `into`, by layer name.

        Where both models are the float one, the layers are taken to read what they read there.

        Raises:
            DataError: no samples, or some that the models do not take.
        """
        theirs = [_read(layer.anchor.node) for layer in layers]
        ours = theirs if self._same else [_read(layer.node) for layer in layers]
        meant = self._meant.advance(set(theirs))
        pairs = (
            ((then, then) for then in meant) if self._same else zip(self._seen.advance(set(ours)), meant, strict=True)
        )
        for now, then in pairs:
            for layer, a, b in zip(layers, ours, theirs, strict=True):
                kernel = layer.q.shape[2:]
                seen = columns(layer.node, now[a], kernel)
                real = seen if self._same else columns(layer.node, then[b], kernel)
                if seen is not None and real is not None:
                    into[layer.name].add(seen, real, now[a].shape[0])


def _read(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None
    return value
