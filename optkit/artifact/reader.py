"""Reading an artifact: nothing in it is used before its structure and its hashes have been checked."""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import re
import zipfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from optkit.artifact.manifest import ALIGNMENT, WHOLE, Manifest
from optkit.artifact.writer import KERNELS, LIBRARY, MANIFEST, WEIGHTS, manifest_seal
from optkit.artifact.zipping import data_offset
from optkit.errors import ArtifactError

MAX_MANIFEST = 64 << 20
"""Bytes of an unpacked manifest; ResNet-152's takes 60 kB."""
MAX_INFLATED = 1 << 30
"""Bytes that all compressed members may unpack to; weights are not compressed and thus not bounded by it."""
_MAX_MEMBERS = 64
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*")
_CHUNK = 1 << 20
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)


class ArtifactFile:
    """An open artifact. Structure and manifest are checked on opening, members when they are read.

    Use as a context manager. Raises ArtifactError, which names the file and what is wrong.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self._stream = self.path.open("rb")
        except OSError as e:
            raise ArtifactError(f"cannot read {self.path}: {e.strerror}") from e
        try:
            with self._damaged():
                self._zip = zipfile.ZipFile(self._stream)
                self._entries = self._checked_entries()
                text = self._zip.read(MANIFEST)
            if self._zip.comment != manifest_seal(text):
                raise ArtifactError(f"{self.path}: manifest.json was edited; compile the model again")
            self.manifest = Manifest.from_json(text, str(self.path))
            self._check_members()
        except BaseException:
            self._stream.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; mappings made from it stay valid."""
        self._stream.close()

    def read(self, name: str) -> bytes:
        """The unpacked bytes of a member, after checking its hash."""
        chunks: list[bytes] = []
        self._hash(name, chunks)
        return b"".join(chunks)

    def verify(self, skip: Collection[str] = ()) -> None:
        """Check the hash of every member but those in `skip`."""
        for name in self.manifest.members:
            if name not in skip:
                self._hash(name, None)

    def map_weights(self) -> memoryview:
        """The weights as they are stored, mapped from the file, hash checked; nothing written reaches the file.

        The first byte is 64-byte aligned. Pages are read from disk when touched.
        """
        member = self.manifest.members[WEIGHTS]
        if member.nbytes == 0:
            return memoryview(b"")
        with self._damaged():
            offset = data_offset(self._stream, self._entries[WEIGHTS])
        if offset % ALIGNMENT or offset + member.nbytes > os.fstat(self._stream.fileno()).st_size:
            raise ArtifactError(f"{self.path}: weights are not where they were written; damaged")
        mapped = mmap.mmap(self._stream.fileno(), 0, access=mmap.ACCESS_COPY)
        view = memoryview(mapped)[offset : offset + member.nbytes]
        self._compare(WEIGHTS, hashlib.sha256(view).hexdigest())
        return view

    def _checked_entries(self) -> dict[str, zipfile.ZipInfo]:
        infos = self._zip.infolist()
        if len(infos) > _MAX_MEMBERS:
            raise ArtifactError(f"{self.path}: {len(infos)} members, an artifact has at most {_MAX_MEMBERS}")
        entries: dict[str, zipfile.ZipInfo] = {}
        for info in infos:
            name = info.orig_filename
            if not _NAME.fullmatch(name):
                raise ArtifactError(f"{self.path}: member name {name!r} leaves the artifact or is malformed")
            if name in entries:
                raise ArtifactError(f"{self.path}: member {name} occurs twice")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
                raise ArtifactError(f"{self.path}: member {name} is packed in a way that artifacts never are")
            if info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size:
                raise ArtifactError(f"{self.path}: member {name} states two sizes; the artifact is damaged")
            entries[name] = info
        if MANIFEST not in entries:
            raise ArtifactError(f"{self.path}: no manifest.json; this is no artifact of optkit")
        if entries[MANIFEST].file_size > MAX_MANIFEST:
            raise ArtifactError(f"{self.path}: manifest.json unpacks to more than {MAX_MANIFEST >> 20} MiB")
        inflated = sum(i.file_size for i in infos if i.compress_type == zipfile.ZIP_DEFLATED)
        if inflated > MAX_INFLATED:
            raise ArtifactError(f"{self.path}: unpacks to {inflated} bytes, the limit is {MAX_INFLATED}")
        return entries

    def _check_members(self) -> None:
        listed = dict(self.manifest.members)
        for name in self._entries.keys() - listed.keys() - {MANIFEST}:
            raise ArtifactError(f"{self.path}: holds {name}, which its manifest does not list")
        parts = [part.entry for part in self.manifest.partitions if part.runner != WHOLE]
        for name in (LIBRARY, WEIGHTS, KERNELS, *self.manifest.runtime, *parts):
            if name not in listed:
                raise ArtifactError(f"{self.path}: manifest.json does not list {name}; damaged")
        for name, member in listed.items():
            if name not in self._entries:
                raise ArtifactError(f"{self.path}: {name} is missing; the artifact is damaged")
            if self._entries[name].file_size != member.nbytes:
                raise ArtifactError(
                    f"{self.path}: {name} has {self._entries[name].file_size} bytes, "
                    f"its manifest states {member.nbytes}; the artifact is damaged"
                )
        for weight in self.manifest.weights:
            if weight.offset + weight.stored > listed[WEIGHTS].nbytes:
                raise ArtifactError(f"{self.path}: weight {weight.name} lies outside weights.bin")

    def _hash(self, name: str, keep: list[bytes] | None) -> None:
        digest = hashlib.sha256()
        with self._damaged(), self._zip.open(self._entries[name]) as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
                if keep is not None:
                    keep.append(chunk)
        self._compare(name, digest.hexdigest())

    def _compare(self, name: str, found: str) -> None:
        if found != self.manifest.members[name].sha256:
            raise ArtifactError(f"{self.path}: {name} does not match its hash; damaged or edited")

    @contextlib.contextmanager
    def _damaged(self) -> Iterator[None]:
        """Turns what zipfile raises on bytes that are no proper zip into one line."""
        try:
            yield
        except _ZIP_ERRORS as e:
            raise ArtifactError(f"{self.path}: damaged, truncated or no artifact ({e})") from e
        except OSError as e:
            raise ArtifactError(f"cannot read {self.path}: {e.strerror or e}") from e


def open_artifact(path: str | os.PathLike[str]) -> ArtifactFile:
    """Open an artifact for reading; structure and manifest are checked, members are not yet."""
    return ArtifactFile(path)


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """The manifest of an artifact."""
    with ArtifactFile(path) as artifact:
        return artifact.manifest


def read_kernels(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The records of an artifact's kernels: name, rule, template, params, compute, macs, nodes."""
    with ArtifactFile(path) as artifact:
        kernels: list[dict[str, Any]] = json.loads(artifact.read(KERNELS))
    return kernels
