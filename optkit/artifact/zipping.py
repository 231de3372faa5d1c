"""A zip file that depends on its contents alone, with members that can be mapped where they lie."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterable
from typing import IO

from optkit.artifact.manifest import ALIGNMENT

_EPOCH = (1980, 1, 1, 0, 0, 0)
_LEVEL = 6  # 9 takes three times as long and saves half a percent
_PADDING_ID = 0xD935
"""Header id of the extra field that Android's zipalign pads with; readers skip ids they do not know."""
_LOCAL_HEADER = 30
_ZIP64_EXTRA = 20


def _entry(name: str, size: int, stored: bool) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.create_system = 3
    info.external_attr = 0o100644 << 16
    info.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
    info.file_size = size
    return info


def add_deflated(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    """Append a compressed member."""
    archive.writestr(_entry(name, len(data), stored=False), data, compresslevel=_LEVEL)


def add_stored(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    """Append a member as it is."""
    archive.writestr(_entry(name, len(data), stored=True), data)


def add_aligned(archive: zipfile.ZipFile, name: str, size: int, chunks: Iterable[bytes | memoryview]) -> None:
    """Append an uncompressed member of `size` bytes whose first byte is 64-byte aligned within the file."""
    info = _entry(name, size, stored=True)
    stream: IO[bytes] | None = archive.fp
    if stream is None:
        raise ValueError("the archive is closed")
    large = size * 1.05 > zipfile.ZIP64_LIMIT  # zipfile's own rule for a zip64 local header
    start = stream.tell() + _LOCAL_HEADER + len(name.encode()) + (_ZIP64_EXTRA if large else 0)
    padding = -(start + 4) % ALIGNMENT
    info.extra = struct.pack("<HH", _PADDING_ID, padding) + bytes(padding)
    with archive.open(info, "w") as out:
        for chunk in chunks:
            out.write(chunk)


def data_offset(stream: IO[bytes], info: zipfile.ZipInfo) -> int:
    """Offset in the file of the first byte of a member, read from its local header."""
    stream.seek(info.header_offset)
    header = stream.read(_LOCAL_HEADER)
    if len(header) != _LOCAL_HEADER or header[:4] != b"PK\x03\x04":
        raise zipfile.BadZipFile(f"no local header for {info.filename}")
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    return info.header_offset + _LOCAL_HEADER + int(name_length) + int(extra_length)
