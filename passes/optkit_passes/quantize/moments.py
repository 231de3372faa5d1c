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
from optkit_passes.quantize.columns import column_sums, columns
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

    def add(self, node: ir.Node, kernel: tuple[int, ...], seen: np.ndarray, meant: np.ndarray) -> None:
        """Take in what the layer `node` reads in both models."""
        sums, count = column_sums(node, seen, kernel)
        others = sums if seen is meant else column_sums(node, meant, kernel)[0]
        first = not self.count
        self.count += count
        self.seen, self.meant = (sums, others) if first else (self.seen + sums, self.meant + others)

    def means(self) -> tuple[np.ndarray, np.ndarray]:
        """(g, k) mean column of the quantized and of the float model."""
        return self.seen / self.count, self.meant / self.count


POSITIONS = 128
"""Columns of a sample that second moments are taken of, spread over its places; neighbours say much the same."""


_TOGETHER = 4096


@dataclass
class Moments(Means):
    """Second moments besides, of some of the columns.

    Attributes:
        gram: (g, k, k), of the quantized model's columns with themselves.
        cross: (g, k, k), of the quantized model's with the float model's.
        sampled: sums over the columns that these are of, and how many.
        pieces: taken in.
        waiting: columns that are not in the sums yet.
    """

    gram: np.ndarray = field(default_factory=lambda: np.zeros(0))
    cross: np.ndarray = field(default_factory=lambda: np.zeros(0))
    sampled: tuple[np.ndarray, np.ndarray, int] = field(default_factory=lambda: (np.zeros(0), np.zeros(0), 0))
    pieces: int = 0
    waiting: list[tuple[np.ndarray, ...]] = field(default_factory=list)

    def add(self, node: ir.Node, kernel: tuple[int, ...], seen: np.ndarray, meant: np.ndarray) -> None:
        """Take in what the layer `node` reads in both models."""
        before = self.count
        super().add(node, kernel, seen, meant)
        stride = max((self.count - before) // (POSITIONS * seen.shape[0]), 1)
        # 7 is prime to what images are wide, so that in time every place has its turn
        start = 7 * self.pieces % stride
        self.pieces += 1
        self.waiting.append(tuple(columns(node, x, kernel, start, stride) for x in (seen, meant)))
        if sum(a.shape[1] for a, _ in self.waiting) >= _TOGETHER:
            self._flush()

    def _flush(self) -> None:
        """Work off the columns that wait: a few large products are faster than many small ones."""
        a, b = (np.concatenate(parts, axis=1) for parts in zip(*self.waiting, strict=True))
        self.waiting.clear()
        flipped = np.ascontiguousarray(a.transpose(0, 2, 1))
        gram, cross = flipped @ a, flipped @ b
        sums = (a.sum(axis=1, dtype=np.float64), b.sum(axis=1, dtype=np.float64), a.shape[1])
        if not self.sampled[2]:
            self.gram, self.cross, self.sampled = gram.astype(np.float64), cross.astype(np.float64), sums
            return
        self.gram += gram
        self.cross += cross
        self.sampled = (self.sampled[0] + sums[0], self.sampled[1] + sums[1], self.sampled[2] + sums[2])

    def centred(self) -> tuple[np.ndarray, np.ndarray]:
        """(g, k, k) covariances: quantized with quantized, quantized with float."""
        gram, cross = self.whole()
        count = self.sampled[2]
        seen, meant = self.sampled[0] / count, self.sampled[1] / count
        gram = gram - seen[:, :, None] * seen[:, None, :]
        cross = cross - seen[:, :, None] * meant[:, None, :]
        return gram, cross

    def whole(self) -> tuple[np.ndarray, np.ndarray]:
        """(g, k, k) mean products, means not taken off."""
        if self.waiting:
            self._flush()
        return self.gram / self.sampled[2], self.cross / self.sampled[2]


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
                into[layer.name].add(layer.node, layer.q.shape[2:], now[a], then[b])


def _read(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None
    return value
