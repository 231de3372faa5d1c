"""Calibration data: from a file, a folder of images, a function or memory to a stream of samples.

A *sample* is one call of the model: input name to array, batch axis included. Sources are opened as often
as a pass needs them and read one sample at a time; none is ever held in memory as a whole.
"""

from __future__ import annotations

import importlib
import os
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from optkit.array_files import Mapped, SampleArray, open_npy, open_npz
from optkit.errors import DataError, UsageError, nearest
from optkit.images import image_names, open_images, spread
from optkit.input_spec import InputSpec, input_specs
from optkit.transform import Sample

__all__ = [
    "InputSpec",
    "Samples",
    "held_out",
    "input_specs",
    "open_calibration",
    "resolve_callable",
    "without_held_out",
]

Samples = Callable[[], Iterator[Sample]]
"""Opens a fresh iterator over samples."""


def open_calibration(
    spec: object,
    model_inputs: Iterable[Any],
    *,
    preprocess: str | None = None,
    samples: int | None = None,
    seed: int = 0,
) -> Samples:
    """A function that opens a fresh iterator over calibration samples.

    Args:
        spec: a path of an .npz (one array an input, samples along the first axis), an .npy (models with one
            input), a folder or .zip of images; "module:callable"; or an object: an array, a mapping of
            arrays, a sequence or re-iterable loader of samples, or a function that returns an iterator.
            A sample is a mapping (names that are no input are left out), an array (one input) or a tuple in the
            order of the inputs, which a label may follow; or a (sample, label) pair of any of these.
        model_inputs: `model.graph.inputs`.
        preprocess: text form for images, see `optkit.preprocess.Preprocess.parse`.
        samples: use at most so many; spread evenly where the source can be indexed, else the first (of a
            loader: its first batches).
        seed: of the images' augmentation.

    Samples are one row each, or B rows where the model fixes its first axis at B; a remainder of fewer than
    B rows is left out.

    Raises:
        DataError: at once for a wrong name, rank, shape, type or an empty source where the source says so
            up front; while iterating for anything that takes reading the data (NaN, an unreadable image).
        UsageError: `spec` or `preprocess` does not parse.
    """
    specs = input_specs(model_inputs)
    if not specs:
        raise DataError("the model has no input, so there is nothing to calibrate with")
    if samples is not None and samples < 1:
        raise UsageError(f"calibration needs at least one sample, not {samples}")
    if isinstance(spec, (str, os.PathLike)):
        source, images = _from_text(os.fspath(spec), specs, preprocess, samples, seed)
    else:
        source, images = _from_object(spec, specs, samples, "calibration data"), False
    if preprocess is not None and not images:
        raise UsageError("preprocess is for folders of images; this calibration data is arrays already")
    return source


def held_out(samples: Samples, every: int) -> Samples:
    """The last of every `every` samples, which `without_held_out` leaves."""
    return lambda: (sample for index, sample in enumerate(samples()) if index % every == every - 1)


def without_held_out(samples: Samples, every: int) -> Samples:
    """All samples but those of `held_out`."""
    return lambda: (sample for index, sample in enumerate(samples()) if index % every != every - 1)


def _from_text(
    text: str, specs: Sequence[InputSpec], preprocess: str | None, samples: int | None, seed: int
) -> tuple[Samples, bool]:
    path = Path(text).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix.lower() == ".zip"):
        return _from_images(path, specs, preprocess, samples, seed), True
    if path.suffix.lower() in (".npz", ".npy"):
        if not path.is_file():
            raise DataError(f"{path}: no such file")
        if path.suffix.lower() == ".npz":
            return _from_arrays(open_npz(path), specs, samples, str(path)), False
        return _from_arrays({_only(specs, str(path)).name: open_npy(path)}, specs, samples, str(path)), False
    if path.exists():
        raise DataError(f"{path}: give .npz, .npy, a folder or .zip of images, or module:callable")
    module, colon, attribute = text.rpartition(":")
    if colon and module and not any(c in text for c in "/\\"):
        return _from_callable(text, resolve_callable(module, attribute), specs, samples), False
    raise DataError(f"{path}: no such file or folder")


def _from_object(spec: object, specs: Sequence[InputSpec], samples: int | None, where: str) -> Samples:
    if isinstance(spec, Mapping):
        arrays: dict[str, SampleArray] = {
            str(name): Mapped(_array(value, f"{where} {name!r}")) for name, value in spec.items()
        }
        return _from_arrays(arrays, specs, samples, where)
    if hasattr(spec, "shape") and hasattr(spec, "__array__"):
        return _from_arrays({_only(specs, where).name: Mapped(_array(spec, where))}, specs, samples, where)
    if isinstance(spec, Iterator):
        raise DataError(f"{where}: an iterator can be read only once; give a function that returns one, or a list")
    if isinstance(spec, Iterable):
        return _from_items(lambda: spec, specs, samples, where)
    if callable(spec):
        return _from_callable(where, spec, specs, samples)
    raise DataError(f"{where}: cannot read samples from a {type(spec).__name__}")


def _from_arrays(
    arrays: Mapping[str, SampleArray], specs: Sequence[InputSpec], samples: int | None, where: str
) -> Samples:
    _check_names(arrays, specs, where)
    counts = {name: array.shape[0] if array.shape else 0 for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        raise DataError(f"{where}: inputs differ in the number of samples: {counts}")
    rows = next(iter(counts.values()))
    if rows == 0:
        raise DataError(f"{where}: is empty")
    # one axis more than the model has: every row is a whole call, batch axis and all
    whole = {s.name: len(arrays[s.name].shape) == len(s.shape) + 1 for s in specs}
    sizes = {1 if whole[s.name] else s.batch for s in specs}
    if len(sizes) > 1:
        raise DataError(f"{where}: inputs of the model differ in their fixed batch: {sorted(sizes)}")
    batch = sizes.pop()
    for s in specs:
        have = arrays[s.name].shape[1:] if whole[s.name] else (batch, *arrays[s.name].shape[1:])
        s.check(np.broadcast_to(np.zeros((), arrays[s.name].dtype), have), f"{where}: {s.name!r}, one sample")
    if rows < batch:
        raise DataError(f"{where}: has {rows} rows, the model's batch is fixed at {batch}")
    starts = [i * batch for i in spread(rows // batch, samples)]

    def read() -> Iterator[Sample]:
        streams = {s: arrays[s.name].batches(starts, batch) for s in specs}
        for start in starts:
            at = f"sample {start}" if batch == 1 else f"samples {start} to {start + batch - 1}"
            yield {
                s.name: s.check(row[0] if whole[s.name] else row, f"{where}: {at}, input {s.name!r}")
                for s, row in ((s, next(stream)) for s, stream in streams.items())
            }

    return read


def _from_images(
    path: Path, specs: Sequence[InputSpec], preprocess: str | None, samples: int | None, seed: int
) -> Samples:
    spec = _only(specs, f"{path}: a folder of images")
    try:
        if samples is not None:
            samples *= spec.batch
        images = open_images(path, spec, preprocess, samples, seed)
        if spec.batch > len(image_names(path)):
            raise DataError(f"{path}: fewer images than the model's fixed batch of {spec.batch}")
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{path}: is not a readable zip of images: {error}") from error

    def read() -> Iterator[Sample]:
        stream = images()
        index = 0
        while len(batch := list(islice(stream, spec.batch))) == spec.batch:
            sizes = {image.shape for image in batch}
            if len(sizes) > 1:
                raise DataError(f"{path}: images differ in size {sorted(sizes)}; give preprocess a crop=")
            at = f"{path}: image {index}, input {spec.name!r}"
            yield {spec.name: spec.check(np.concatenate(batch), at)}
            index += spec.batch

    return read


def _from_callable(text: str, make: Callable[[], object], specs: Sequence[InputSpec], samples: int | None) -> Samples:
    def read() -> Iterator[Sample]:
        try:
            made = make()
        except Exception as error:
            raise DataError(f"{text}: raised {type(error).__name__}: {error}") from error
        if isinstance(made, Iterator):
            yield from _from_items(lambda: made, specs, samples, text)()
        else:
            yield from _from_object(made, specs, samples, text)()

    return read


def _from_items(
    make: Callable[[], Iterable[Any]], specs: Sequence[InputSpec], samples: int | None, where: str
) -> Samples:
    def read() -> Iterator[Sample]:
        index, made, rest = -1, False, dict[str, np.ndarray]()
        for index, item in enumerate(islice(_guarded(make, where), samples)):
            at = f"{where}: sample {index}"
            arrays = _named(item, specs, at)
            if rest and all(arrays[name].shape[1:] == rows.shape[1:] for name, rows in rest.items()):
                arrays = {name: np.concatenate([rows, arrays[name]]) for name, rows in rest.items()}
            whole, rest = _split(arrays, specs, at)
            made = made or bool(whole)
            yield from whole
        if index < 0:
            raise DataError(f"{where}: is empty")
        if not made:
            rows = len(next(iter(rest.values())))
            raise DataError(f"{where}: has {rows} rows, the model's batch is fixed at {specs[0].batch}")

    return read


def _guarded(make: Callable[[], Iterable[Any]], where: str) -> Iterator[Any]:
    """The user's own iterator; what it raises becomes one line."""
    try:
        yield from make()
    except Exception as error:
        raise DataError(f"{where}: raised {type(error).__name__}: {error}") from error


def _named(item: Any, specs: Sequence[InputSpec], where: str) -> dict[str, np.ndarray]:
    if isinstance(item, (tuple, list)) and len(item) == 2 and _is_sample(item[0], specs):
        item = item[0]  # of a (sample, label) pair
    if isinstance(item, Mapping):
        names = [s.name for s in specs]
        if all(name in item for name in names):
            item = {name: item[name] for name in names}  # a loader's labels and the like are no concern of the model
        arrays = {str(name): _array(value, f"{where}, input {name!r}") for name, value in item.items()}
    elif isinstance(item, (tuple, list)):
        if len(specs) > 1 and len(item) not in (len(specs), len(specs) + 1):
            raise DataError(f"{where}: has {len(item)} arrays, the model takes {len(specs)}")
        if not item:
            raise DataError(f"{where}: is empty")
        arrays = {s.name: _array(v, f"{where}, input {s.name!r}") for s, v in zip(specs, item, strict=False)}
    else:
        arrays = {_only(specs, where).name: _array(item, where)}
    _check_names(arrays, specs, where)
    return arrays


def _is_sample(item: Any, specs: Sequence[InputSpec]) -> bool:
    """Whether the first of two is a whole sample by itself, and the second its label."""
    if isinstance(item, Mapping):
        return True
    # numbers in lists are an array
    return (
        isinstance(item, (tuple, list))
        and len(item) == len(specs)
        and all(hasattr(v, "shape") and len(v.shape) for v in item)
    )


def _split(
    arrays: dict[str, np.ndarray], specs: Sequence[InputSpec], where: str
) -> tuple[list[Sample], dict[str, np.ndarray]]:
    """Samples, and rows that are too few for another. One without a batch axis gets one; a loader's batch is cut
    where the model's is smaller, and waits for the next where it is larger.
    """
    for s in specs:
        if arrays[s.name].ndim == len(s.shape) - 1:
            arrays[s.name] = arrays[s.name][None]
    rows = {arrays[s.name].shape[0] if s.shape and arrays[s.name].ndim else 1 for s in specs}
    batch = {s.batch for s in specs if s.shape and isinstance(s.shape[0], int)}
    if len(rows) != 1 or len(batch) != 1 or rows == batch or any(arrays[s.name].ndim != len(s.shape) for s in specs):
        return [{s.name: s.check(arrays[s.name], f"{where}, input {s.name!r}") for s in specs}], {}
    count, size = rows.pop(), batch.pop()
    samples: list[Sample] = [
        {s.name: s.check(arrays[s.name][at : at + size], f"{where}, row {at}, input {s.name!r}") for s in specs}
        for at in range(0, count - size + 1, size)
    ]
    left = count % size
    return samples, {name: array[count - left :] for name, array in arrays.items()} if left else {}


def _check_names(given: Iterable[str], specs: Sequence[InputSpec], where: str) -> None:
    names = [s.name for s in specs]
    for name in given:
        if name not in names:
            raise DataError(f"{where}: the model has no input {name!r}; {nearest(name, names)}")
    missing = [name for name in names if name not in set(given)]
    if missing:
        raise DataError(f"{where}: nothing for input {', '.join(map(repr, missing))}")


def _only(specs: Sequence[InputSpec], where: str) -> InputSpec:
    if len(specs) != 1:
        names = ", ".join(s.name for s in specs)
        raise DataError(f"{where}: the model has {len(specs)} inputs ({names}); give an array for each by name")
    return specs[0]


def _array(value: Any, where: str) -> np.ndarray:
    """A numpy array of numbers from an array, a tensor of torch (on any device) or nested lists."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(f"{where}: is no array: {error}") from error
    if array.dtype.kind not in "fiub":
        raise DataError(f"{where}: holds {array.dtype}, not numbers")
    return array


def resolve_callable(module: str, attribute: str) -> Callable[..., object]:
    """What the user named module:attribute; DataError where it cannot be imported or called."""
    # a user's loader lies beside the work, as with `python -m`
    if "" not in sys.path and os.getcwd() not in sys.path:  # noqa: PTH109
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    try:
        found: object = importlib.import_module(module)
    except ImportError as error:
        raise DataError(f"{module}:{attribute}: cannot import {module!r}: {error}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise DataError(f"{module}:{attribute}: {module!r} has no {part!r}; {nearest(part, dir(found))}")
        found = getattr(found, part)
    if not callable(found):
        raise DataError(f"{module}:{attribute}: is not callable")
    return found
