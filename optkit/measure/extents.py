"""Extents of a model's open axes that ONNX Runtime takes, found by trying: a file names its axes but sets no limits.

Made-up inputs, for verification and for calibration alike, are drawn with them: a window of 65 samples, a stride
of 32 or two branches that must meet in a Concat refuse other lengths.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from optkit.errors import DataError
from optkit.measure.reference import ModelSource, Reference

SIDES = (64, 224, 16, 1, 32, 48, 96, 128, 160, 256, 320, 512, 1024, 4096, 16384)
"""Tried for all open axes at once: enough for most strides, then others, then longer and longer ones."""
LARGEST = 1 << 24
"""Elements of an input; what would be larger is not tried."""

Shapes = Iterable[Sequence[int | str | None]]
Draw = Callable[[Mapping[str, int]], Iterable[Mapping[str, np.ndarray]]]


def open_names(shapes: Shapes) -> tuple[str, ...]:
    """Names of the open axes of inputs, but for those that come first in some input: these are batches.

    >>> open_names([("batch", "length"), (2, "batch", 128)])
    ('length',)
    """
    known = [tuple(shape) for shape in shapes]
    first = {shape[0] for shape in known if shape}
    return tuple(dict.fromkeys(d for shape in known for d in shape[1:] if isinstance(d, str) and d not in first))


def accepted_extents(
    model: ModelSource, shapes: Shapes, draw: Draw, first: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Extents of `open_names(shapes)` with which `model` runs on every sample that `draw` makes of them.

    Args:
        shapes: of the model's inputs, open axes by name.
        draw: samples for given extents.
        first: extents that are tried before all others.

    Raises:
        DataError: none was accepted; says why the first was not.
        ModelError: ONNX Runtime cannot load the model.
    """
    known = [tuple(shape) for shape in shapes]
    names = open_names(known)
    tried = [dict(first)] if first else []
    tried += [dict.fromkeys(names, side) for side in (SIDES if names else SIDES[:1])]
    reference = Reference(model)
    problem = ""
    for extents in tried:
        if any(_elements(shape, extents) > LARGEST for shape in known):
            continue
        try:
            for sample in draw(extents):
                reference.run(sample)
        except DataError as error:
            problem = problem or str(error)
            continue
        return extents
    raise DataError(f"no made-up input fits the model ({problem}); give --input-shape or --calib-data")


def _elements(shape: Sequence[int | str | None], extents: Mapping[str, int]) -> int:
    return math.prod(d if isinstance(d, int) else extents.get(d or "", 1) for d in shape)
