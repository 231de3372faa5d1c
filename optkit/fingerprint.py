"""A fingerprint of calibration data, to tell whether it is still the same."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from optkit.images import image_names, spread

if TYPE_CHECKING:
    from optkit.data import Samples


def fingerprint(spec: object, opened: Samples, samples: int | None) -> str:
    """sha256 of what `spec` holds, or of what can be told of it without reading it all.

    Files and arrays: their contents; archives: names, sizes and check sums of their members, which they list; folders:
    all names, and the contents of the images that are used. A function, a loader or a list: its first sample and its
    length. So a loader that shuffles is other data every time, and what changes behind the first sample of a function
    goes unnoticed.

    Args:
        spec: as for `optkit.data.open_calibration`, which has accepted it.
        opened: what that function returned.
        samples: use at most so many.
    """
    digest = hashlib.sha256()
    if isinstance(spec, (str, os.PathLike)) and (path := Path(spec).expanduser()).exists():
        if path.is_dir():
            names = image_names(path)
            digest.update("\0".join(names).encode())
            for index in spread(len(names), samples):
                _feed_file(digest, path / names[index])
        elif zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for info in archive.infolist():
                    digest.update(f"{info.filename}:{info.file_size}:{info.CRC};".encode())
        else:
            _feed_file(digest, path)
    elif isinstance(spec, Mapping):
        for name, array in sorted(spec.items()):
            digest.update(str(name).encode())
            _feed(digest, array)
    elif hasattr(spec, "shape") and hasattr(spec, "__array__"):
        _feed(digest, spec)
    else:
        digest.update(spec.encode() if isinstance(spec, str) else type(spec).__qualname__.encode())
        if hasattr(spec, "__len__"):
            digest.update(str(len(spec)).encode())
        for name, array in sorted(next(opened(), {}).items()):
            digest.update(name.encode())
            _feed(digest, array)
    return digest.hexdigest()


def _feed_file(digest: hashlib._Hash, path: Path) -> None:
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)


def _feed(digest: hashlib._Hash, values: object) -> None:
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    array = np.ascontiguousarray(values)
    digest.update(f"{array.dtype}:{array.shape};".encode())
    digest.update(array.reshape(-1).view(np.uint8).data if array.size else b"")
