"""Samples and precision for verifying an artifact that was made earlier."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from optkit.arrays import read_feed
from optkit.artifact.manifest import Manifest
from optkit.artifact.spec import TensorSpec
from optkit.errors import DataError
from optkit.measure.extents import accepted_extents, open_names
from optkit.measure.inputs import random_samples
from optkit.measure.reference import ModelSource
from optkit.measure.steps import has_quantization
from optkit.precision import PRECISIONS


def choose_samples(
    specs: Sequence[TensorSpec],
    file: str | None,
    count: int,
    seed: int,
    shapes: Mapping[str, Sequence[int]],
    model: ModelSource | None = None,
    ranges: Mapping[str, tuple[int, int | None]] | None = None,
) -> list[dict[str, np.ndarray]]:
    """The first `count` samples of an .npz (samples along the first axis), or seeded random ones.

    Args:
        shapes: extents of random inputs whose shape is free.
        model: takes the random samples; free extents that `shapes` leaves open are chosen so that it does.
        ranges: those of an artifact; without a model, such extents are the least of them.

    Raises:
        DataError: the file cannot be read, its arrays hold different numbers of samples, or none; or no random
            sample fits the model.
    """
    if file is None:
        dims = {}
        for spec in specs:
            for name, extent in zip(spec.shape, shapes.get(spec.name, ()), strict=False):
                if isinstance(name, str):
                    dims[name] = int(extent)

        def draw(more: Mapping[str, int]) -> list[dict[str, np.ndarray]]:
            return random_samples(specs, count, seed, {**more, **dims})

        left = [[dims.get(d, d) if isinstance(d, str) else d for d in spec.shape] for spec in specs]
        names = open_names(left)
        if names and model is not None:
            return draw(accepted_extents(model, left, draw))
        return draw({name: least for name, (least, _) in (ranges or {}).items()})
    arrays = read_feed(specs, file)
    counts = {len(a) if a.ndim else 0 for a in arrays.values()}
    if len(counts) != 1 or 0 in counts:
        raise DataError(f"{file}: every array needs the same number of samples, one at least, in its first axis")
    batch = max((s.shape[0] for s in specs if s.shape and isinstance(s.shape[0], int)), default=1)
    starts = range(0, counts.pop() - batch + 1, batch)
    if not starts:
        raise DataError(f"{file}: fewer samples than one batch of {batch}")
    return [{name: a[i : i + batch] for name, a in arrays.items()} for i in itertools.islice(starts, count)]


def guess_precision(manifest: Manifest) -> str:
    """The precision an artifact was compiled with: its option, else what its pipeline says."""
    stated = manifest.options.get("precision")
    if stated in ("fp32", *PRECISIONS):
        return str(stated)
    words = {word.partition("{")[0].strip().removeprefix("@") for word in manifest.pipeline.split(",")}
    if words & {"quantize", "int8-fp16"}:
        return "int8"
    return next((precision for precision in PRECISIONS if precision in words), "fp32")


def quantized_model(path: str | os.PathLike[str]) -> ir.Model | None:
    """The model if it holds Q/DQ nodes, else None."""
    from optkit.model import load_model

    model = load_model(path)
    return model if has_quantization(model) else None
