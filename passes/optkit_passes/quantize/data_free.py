"""Samples to calibrate with where the user has none: seeded inputs that look like what networks are fed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice

import numpy as np
import onnx_ir as ir

from optkit.data import InputSpec, input_specs
from optkit.errors import DataError
from optkit.measure.extents import accepted_extents, open_names
from optkit.transform import Sample

SAMPLES = 16
_OPEN_SIDE, _OPEN_LENGTH = 224, 64


def made_up_samples(model: ir.Model, seed: int) -> Callable[[], Iterator[Sample]]:
    """Opens SAMPLES samples, the same for the same seed.

    Float inputs of four axes get, in turn, twice noise with the spectrum of natural images (power falls with
    the square of the frequency; Field, JOSA A 1987) of mean 0 and deviation 1 a channel, once white noise,
    once the former in [0, 1]; other float inputs get N(0, 1). Integer inputs get numbers below the size of
    the table they index, masks get ones. Open axes: 1 where first, else an image's side or a text's length,
    or another extent where ONNX Runtime does not take the model with that.

    Raises:
        DataError: of a type that cannot be made up, or the model takes none of them.
    """
    specs = tuple(_named(s) for s in input_specs(model.graph.inputs))
    values = {v.name: v for v in model.graph.inputs}

    def draw(extents: Mapping[str, int]) -> Iterator[Sample]:
        rng = np.random.default_rng(seed)
        shapes = {s.name: tuple(d if isinstance(d, int) else extents.get(d or "", 1) for d in s.shape) for s in specs}
        for index in range(SAMPLES):
            kind = ("natural", "white", "natural", "unit")[index % 4]
            yield {s.name: _sample(s, shapes[s.name], values[s.name], rng, kind) for s in specs}

    known = [s.shape for s in specs]
    extents: dict[str, int] = {}
    if names := open_names(known):
        images = {d for shape in known if len(shape) == 4 for d in shape}
        usual = {name: _OPEN_SIDE if name in images else _OPEN_LENGTH for name in names}
        extents = accepted_extents(model, known, lambda sizes: islice(draw(sizes), 1), usual)
    return lambda: draw(extents)


def _named(spec: InputSpec) -> InputSpec:
    """With names for open axes that have none, each its own."""
    shape = tuple(f"{spec.name}:{axis}" if d is None else d for axis, d in enumerate(spec.shape))
    return InputSpec(spec.name, spec.dtype, shape)


def _sample(
    spec: InputSpec, shape: tuple[int, ...], value: ir.Value, rng: np.random.Generator, kind: str
) -> np.ndarray:
    if spec.dtype.kind == "f":
        image = len(shape) == 4 and kind != "white"
        noise = _natural(rng, shape) if image else rng.standard_normal(shape)
        if image and kind == "unit":
            low, high = noise.min(), noise.max()
            noise = (noise - low) / max(high - low, 1e-6)
        return noise.astype(spec.dtype)
    if spec.dtype.kind == "b":
        return np.ones(shape, spec.dtype)
    if spec.dtype.kind in "iu":
        rows = _table_rows(value)
        if rows is None:
            return np.ones(shape, spec.dtype)
        return rng.integers(0, rows, shape).astype(spec.dtype)
    raise DataError(f"input {spec.name!r} is {spec.dtype}: give calibration data, none can be made up")


def _natural(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    height, width = shape[2:]
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = 1 / max(height, width)
    image = np.fft.irfft2(np.fft.rfft2(rng.standard_normal(shape)) / frequency, (height, width))
    spread = image.std(axis=(2, 3), keepdims=True)
    return np.asarray((image - image.mean(axis=(2, 3), keepdims=True)) / np.maximum(spread, 1e-6))


def _table_rows(value: ir.Value) -> int | None:
    """Rows of the embedding table that an integer input indexes, directly or through casts."""
    for node, index in value.uses():
        if node.op_type == "Gather" and index == 1 and node.inputs[0] is not None:
            table = node.inputs[0]
            if table.const_value is not None and table.shape is not None and len(table.shape) > 1:
                return int(table.shape.numpy()[0])
        if node.op_type == "Cast" and (rows := _table_rows(node.outputs[0])) is not None:
            return rows
    return None
