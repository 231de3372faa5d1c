"""Random valid models of the kinds of operators that networks for vision and text have.

As NNSmith (Liu et al., ASPLOS 2023) a model grows operator by operator and every shape is known before it is
added; what a numeric comparison could not judge (thresholds of computed values, divisions by nearly zero) is left out.
"""

from __future__ import annotations

import numpy as np
import onnx

from tests.random_models import blocks, elements, movement, products, windows
from tests.random_models.grower import Dim, Extent, Grower

STEPS = [*windows.STEPS, *elements.STEPS, *movement.STEPS, *products.STEPS, *blocks.STEPS]
LEAST = 24
"""Of an open axis of an image or a text."""


def random_model(seed: int, open_axes: bool = False, nodes: int = 14) -> onnx.ModelProto:
    """The model of that number; with `open_axes` its batch, or the size of its images or length of its texts, are open.

    Args:
        nodes: it has about as many steps, of one to a dozen operators.
    """
    g = Grower(np.random.default_rng([seed, int(open_axes)]))
    batch: Dim = g.among(1, 1, 2, 3)
    channels = g.among(1, 3, 3, 4, 8, 16, 20, 32, 40)
    sizes: list[Dim] = [g.between(5, 20), g.between(5, 20)]
    if g.chance(0.4):
        sizes[1] = sizes[0]
    text = g.chance(0.25)
    if text:
        sizes = [g.between(2, 40)]
    if open_axes:
        which = g.among("batch", "size", "both")
        if which != "size":
            batch = Extent("n", 1)
        if which != "batch":
            sizes = [Extent(f"s{i}", LEAST) for i in range(len(sizes))]
    shape = (batch, *sizes, channels) if text else (batch, channels, *sizes)
    g.start(shape)
    if g.chance(0.2):
        g.start(shape)
    steps = g.between(1, nodes)
    while steps:
        steps -= g.among(*STEPS)(g)
    return g.model()
