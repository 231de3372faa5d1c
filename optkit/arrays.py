"""Arrays from and to .npy and .npz files, for the command line."""

from __future__ import annotations

import os
import secrets
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from optkit.artifact.spec import TensorSpec, numpy_dtype, numpy_has
from optkit.errors import DataError, OptkitError, UsageError, nearest


def read_feed(specs: Sequence[TensorSpec], file: str | None, single: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Inputs from one .npz, from a .npy where there is one input, or one by one as "name=@file".

    Raises:
        UsageError: an option that is not of that form, or a name the model does not have.
        DataError: a file that cannot be read, or lacks an input.
    """
    names = [spec.name for spec in specs]
    feed: dict[str, np.ndarray] = {}
    if file is not None:
        arrays = read_arrays(file)
        if list(arrays) == [""]:
            if len(names) != 1:
                raise DataError(f"{file} holds one array, the model has {len(names)} inputs; use an .npz")
            feed = {names[0]: arrays[""]}
        else:
            feed = arrays
    for text in single:
        name, separator, path = text.partition("=")
        if not separator or not path.startswith("@"):
            raise UsageError(f"--input {text}: write it as NAME=@FILE.npy")
        if name not in names:
            raise UsageError(f"--input {text}: the model has no input {name!r}; {nearest(name, names)}")
        arrays = read_arrays(path[1:])
        if "" not in arrays and name not in arrays:
            raise DataError(f"{path[1:]} has no array {name!r}; {nearest(name, arrays)}")
        feed[name] = arrays["" if "" in arrays else name]
    for spec in specs:
        if spec.name in feed:
            feed[spec.name] = _native(spec, feed[spec.name])
    return feed


def read_arrays(file: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """All arrays of an .npz by name; the one of an .npy under "".

    Raises:
        DataError: it cannot be read, is neither, or holds Python objects.
    """
    path = Path(file)
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"": loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except OSError as e:
        raise DataError(f"cannot read {path}: {e.strerror or e}") from e
    except (ValueError, EOFError, zipfile.BadZipFile) as e:
        raise DataError(f"{path} is no .npy or .npz file of plain arrays: {e}") from e


def save_npz(file: str | os.PathLike[str], arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as one .npz, whole or not at all.

    Element types that numpy lacks (bfloat16, float8) are written as float32.

    Raises:
        OptkitError: the path cannot be written.
    """
    path = Path(file)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    plain = {n: a if numpy_has(a.dtype.name) else a.astype(np.float32) for n, a in arrays.items()}
    try:
        with temporary.open("xb") as stream:
            np.savez(stream, **plain)  # type: ignore[arg-type]
        temporary.replace(path)
    except OSError as e:
        raise OptkitError(f"cannot write {path}: {e.strerror or e}; nothing was left there") from e
    finally:
        temporary.unlink(missing_ok=True)


def _native(spec: TensorSpec, array: np.ndarray) -> np.ndarray:
    """An element type that .npy cannot hold is read from float32, which holds each of its values."""
    if not numpy_has(spec.dtype) and array.dtype == np.float32:
        return array.astype(numpy_dtype(spec.dtype))
    return array
