"""Arrays of samples on disk, .npy and .npz, mapped or read in pieces: memory does not grow with them."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import numpy as np
from numpy.lib import format as npy

from optkit.errors import DataError


class SampleArray(Protocol):
    """Samples along the first axis, readable a slice at a time."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]

    def batches(self, starts: range | list[int], size: int) -> Iterator[np.ndarray]:
        """Copies of rows [start, start + size) for each of the ascending `starts`."""
        ...


@dataclass
class Mapped:
    """An array in memory, or one the operating system pages in from an uncompressed file."""

    array: np.ndarray

    def __post_init__(self) -> None:
        self.shape = self.array.shape
        self.dtype = self.array.dtype

    def batches(self, starts: range | list[int], size: int) -> Iterator[np.ndarray]:
        """Copies, because a consumer may keep a batch after the mapping is gone."""
        for start in starts:
            yield np.array(self.array[start : start + size])


@dataclass
class Deflated:
    """A compressed member of an .npz: read forward once an iteration, a batch at a time."""

    path: Path
    member: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]

    def batches(self, starts: range | list[int], size: int) -> Iterator[np.ndarray]:
        """Rows between the wanted ones are decompressed in small pieces and dropped."""
        row = self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))
        with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as stream:
            _header(stream)
            at, where = 0, f"{self.path}: {self.member}"
            for start in starts:
                _skip(stream, (start - at) * row, where)
                count = min(size, self.shape[0] - start)
                data = _take(stream, count * row, where)
                at = start + count
                yield np.frombuffer(data, dtype=self.dtype).reshape(count, *self.shape[1:])


def open_npy(path: Path) -> SampleArray:
    """The array of an .npy file, memory-mapped. Raises DataError where it is none, or holds objects."""
    try:
        return Mapped(np.load(path, mmap_mode="r", allow_pickle=False))
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path}: is not a readable .npy file: {error}") from error


def open_npz(path: Path) -> dict[str, SampleArray]:
    """Every array of an .npz by name. Raises DataError where the file is damaged or holds objects."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {
                info.filename.removesuffix(".npy"): _member(path, archive, info)
                for info in archive.infolist()
                if info.filename.endswith(".npy")
            }
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, struct.error) as error:
        raise DataError(f"{path}: is not a readable .npz file: {error}") from error


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> SampleArray:
    with archive.open(info) as stream:
        shape, fortran, dtype = _header(stream)
        offset = stream.tell()
    if dtype.hasobject:
        raise DataError(f"{path}: {info.filename} holds Python objects; give plain numbers")
    if info.compress_type == zipfile.ZIP_STORED and all(shape):
        start = _data_offset(path, info) + offset
        return Mapped(np.memmap(path, dtype=dtype, mode="r", offset=start, shape=shape, order="F" if fortran else "C"))
    if fortran:  # rows are not contiguous: there is no reading it in pieces
        with archive.open(info) as stream:
            return Mapped(npy.read_array(stream, allow_pickle=False))
    return Deflated(path, info.filename, shape, dtype)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    version = npy.read_magic(stream)
    if version == (1, 0):
        return npy.read_array_header_1_0(stream)
    return npy.read_array_header_2_0(stream)


def _data_offset(path: Path, info: zipfile.ZipInfo) -> int:
    """Where a member's bytes start: its local header repeats name and extra field with lengths of its own."""
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)
        name, extra = struct.unpack("<HH", file.read(4))
    return info.header_offset + 30 + int(name) + int(extra)


def _skip(stream: IO[bytes], count: int, where: str) -> None:
    while count > 0:
        count -= len(_take(stream, min(count, 1 << 20), where))


def _take(stream: IO[bytes], count: int, where: str) -> bytes:
    try:
        data = stream.read(count)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError) as error:
        raise DataError(f"{where} cannot be read: {error}") from error
    if len(data) != count:
        raise DataError(f"{where} ends early; the file is damaged")
    return data
