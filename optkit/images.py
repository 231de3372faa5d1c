"""Images as model inputs: a folder, or a zip of images, read one at a time in sorted order."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from optkit.errors import DataError
from optkit.preprocess import Preprocess

if TYPE_CHECKING:
    from optkit.input_spec import InputSpec

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def image_names(path: Path) -> list[str]:
    """Images under a folder or in a zip, recursively, sorted by their path with forward slashes."""
    if path.is_dir():
        found = [p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()]
    else:
        with zipfile.ZipFile(path) as archive:
            found = [i.filename for i in archive.infolist() if not i.is_dir()]
    # macOS leaves "._name.jpg" beside name.jpg, in folders and in zips
    return sorted(
        name for name in found if name.lower().endswith(SUFFIXES) and not name.rsplit("/", 1)[-1].startswith(".")
    )


def open_images(
    path: Path, spec: InputSpec, preprocess: str | None, samples: int | None, seed: int = 0
) -> Callable[[], Iterator[np.ndarray]]:
    """A source of float32 arrays with a batch axis of 1, one an image.

    Where `samples` is less than there are, the images taken are spread evenly over the sorted list, so
    that class folders are all visited. `seed` decides what augmentation does to each image.

    Raises:
        DataError: no image, an unreadable one (named), or one that does not fit the model.
        UsageError: `preprocess` does not parse.
    """
    steps = Preprocess.parse(preprocess)
    names = image_names(path)
    if not names:
        raise DataError(f"{path}: holds no image ({', '.join(SUFFIXES)})")
    if len(spec.shape) != 4:
        raise DataError(
            f"{path}: images need an input of four axes; {spec.name!r} has {len(spec.shape)}. "
            f"Give calibration data as .npz instead"
        )
    sizes = [d if isinstance(d, int) else None for d in spec.shape[1:]]
    height, width, channels = sizes if steps.layout == "nhwc" else (sizes[1], sizes[2], sizes[0])
    chosen = [names[i] for i in spread(len(names), samples)]

    def images() -> Iterator[np.ndarray]:
        for index, (name, data) in enumerate(_contents(path, chosen)):
            rng = np.random.default_rng([seed, index])  # of its own: the same however often the source is opened
            yield _decode(f"{path}: {name}", data, steps, (height, width, channels), rng)

    return images


def spread(total: int, samples: int | None) -> range | list[int]:
    """Indices of `samples` items spread evenly over `total`; all of them where `samples` is None or more."""
    if samples is None or samples >= total:
        return range(total)
    return [i * total // samples for i in range(samples)]


def _contents(path: Path, names: list[str]) -> Iterator[tuple[str, bytes]]:
    if path.is_dir():
        for name in names:
            try:
                yield name, (path / name).read_bytes()
            except OSError as error:
                raise DataError(f"{path}: {name} cannot be read: {error.strerror}") from error
        return
    with zipfile.ZipFile(path) as archive:
        for name in names:
            try:
                yield name, archive.read(name)
            except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError) as error:
                raise DataError(f"{path}: {name} cannot be read: {error}") from error


def _decode(
    where: str,
    data: bytes,
    steps: Preprocess,
    size: tuple[int | None, int | None, int | None],
    rng: np.random.Generator,
) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            decoded = image.copy()
    except UnidentifiedImageError as error:
        raise DataError(f"{where}: is not an image that Pillow can read") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{where}: cannot be decoded: {error}") from error
    try:
        return steps.apply(decoded, *size, rng)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
