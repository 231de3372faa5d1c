"""The metric for those without labels: how much the outputs agree with the float model's, in points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from optkit.measure.compare import Comparison
from optkit.mixed.user_metric import Run
from optkit.transform import Sample

KINDS = {
    "top1": "share of rows whose largest score is the float model's",
    "equal": "share of equal elements",
    "cosine": "cosine similarity",
}
"""How an output is compared: scores of classes (rows x classes), integers, and anything else."""


class Agreement:
    """100 where all outputs are the float model's, less where they are not; of several outputs the least.

    A floating output of two axes, the last of at least two, is taken for scores of classes.

    Attributes:
        kinds: by output, one of KINDS.
        rows: samples times rows, over which shares are taken; a share changes by 100 / rows points.
    """

    def __init__(self, outputs: Sequence[ir.Value], feeds: Sequence[Sample], run: Run) -> None:
        self.kinds = {value.name or "": _kind(value) for value in outputs}
        self._feeds = feeds
        self._wanted = [run(feed) for feed in feeds]
        self.rows = sum(next(iter(wanted.values())).shape[0] if wanted else 0 for wanted in self._wanted)

    def __call__(self, run: Run) -> float:
        """Points of a model that `run` runs."""
        found = [run(feed) for feed in self._feeds]
        return min((self._points(name, found) for name in self.kinds), default=100.0)

    def describe(self) -> str:
        """In words, what is compared."""
        words = {f"{KINDS[kind]} ({name})" for name, kind in self.kinds.items()}
        return "agreement with the float model, 100 x " + "; ".join(sorted(words))

    def _points(self, name: str, found: Sequence[dict[str, np.ndarray]]) -> float:
        pairs = [(wanted[name], got[name]) for wanted, got in zip(self._wanted, found, strict=True)]
        if any(wanted.shape != got.shape for wanted, got in pairs):
            return 0.0
        if self.kinds[name] == "cosine":
            comparison = Comparison()
            for wanted, got in pairs:
                comparison.add(wanted, got)
            figures = comparison.figures()
            if figures.nonfinite:
                return 0.0
            return 100.0 * figures.cosine if figures.mismatches else 100.0
        if self.kinds[name] == "top1":
            pairs = [(wanted.argmax(-1), got.argmax(-1)) for wanted, got in pairs]
        total = sum(wanted.size for wanted, _ in pairs)
        same = sum(int((wanted == got).sum()) for wanted, got in pairs)
        return 100.0 * same / total if total else 100.0


def _kind(value: ir.Value) -> str:
    if value.dtype is not None and not value.dtype.is_floating_point():
        return "equal"
    shape = value.shape
    if shape is not None and len(shape) == 2 and not (isinstance(shape[1], int) and shape[1] < 2):
        return "top1"
    return "cosine"
