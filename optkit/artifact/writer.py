"""Writing an artifact: one file that depends on its contents alone, and appears whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from optkit.artifact.libraries import elf_machine, runtime_libraries
from optkit.artifact.manifest import ALIGNMENT, PARTITIONED, WHOLE, Manifest, Member, WeightEntry
from optkit.artifact.palette import PLAIN_BITS, fewest_bits, pack
from optkit.artifact.payload import BuildInfo, Payload
from optkit.artifact.spec import numpy_dtype
from optkit.artifact.versions import collect_versions
from optkit.artifact.zipping import add_aligned, add_deflated, add_stored
from optkit.errors import ArtifactError

MANIFEST = "manifest.json"
LIBRARY = "lib.so"
WEIGHTS = "weights.bin"
KERNELS = "kernels.json"
RUNTIME_FOLDER = "runtime/"


def write_artifact(
    path: str | os.PathLike[str], payload: Payload, info: BuildInfo, *, compress: bool = True
) -> Manifest:
    """Write `payload` as one artifact and return its manifest.

    Without `compress` it is three times as large and written at once: for one that is only tried.

    Raises:
        ArtifactError: the path cannot be written (nothing is left behind then), or a weight has an
            element type that artifacts do not hold.
    """
    path = Path(path)
    # The device's own runtime registers itself in the TVM runtime, which needs the FFI library: this order.
    libraries = runtime_libraries(payload.device, elf_machine(payload.library))
    kernels = json.dumps(list(payload.kernels), sort_keys=True, indent=1, ensure_ascii=False).encode() + b"\n"
    deflated: dict[str, bytes] = {KERNELS: kernels, LIBRARY: payload.library.read_bytes()}
    deflated |= {RUNTIME_FOLDER + name: file.read_bytes() for name, file in libraries.items()}
    deflated |= payload.members
    arrays = [_portable(name, array) for name, array in payload.weights]
    entries, blobs = _layout(payload, arrays)
    size = entries[-1].offset + entries[-1].stored if entries else 0
    digest = hashlib.sha256()
    for chunk in _chunks(entries, blobs):
        digest.update(chunk)
    members = {name: Member(hashlib.sha256(data).hexdigest(), len(data)) for name, data in deflated.items()}
    members[WEIGHTS] = Member(digest.hexdigest(), size)
    manifest = Manifest(
        inputs=tuple(payload.inputs),
        outputs=tuple(payload.outputs),
        weights=entries,
        members=members,
        target=_json_only(payload.target, "target"),
        device=payload.device,
        flavour=PARTITIONED if payload.partitions else WHOLE,
        entry=payload.entry,
        pipeline=info.pipeline,
        options=_json_only(info.options, "options"),
        versions={**collect_versions(info.linker), **info.versions},
        source_sha256=info.source_sha256,
        tuning_records=tuple(info.tuning_records),
        verification=_json_only(info.verification, "verification"),
        kernels=tuple(str(k["name"]) for k in payload.kernels),
        runtime=tuple(RUNTIME_FOLDER + name for name in libraries),
        reads_values=payload.reads_values,
        entry_weights=payload.entry_weights,
        variants=tuple(payload.variants),
        ranges=dict(payload.ranges),
        partitions=tuple(payload.partitions),
    )
    text = manifest.to_json()
    with _replacing(path) as temporary, zipfile.ZipFile(temporary, "w", allowZip64=True) as archive:
        # An edited manifest is noticed by this; it is no signature.
        archive.comment = manifest_seal(text)
        add = add_deflated if compress else add_stored
        add(archive, MANIFEST, text)
        add_aligned(archive, WEIGHTS, size, _chunks(entries, blobs))
        for name in sorted(deflated):
            add(archive, name, deflated[name])
    return manifest


def manifest_seal(text: bytes) -> bytes:
    """The zip comment of an artifact: the hash of its manifest, which the manifest itself cannot hold."""
    return b"optk manifest sha256:" + hashlib.sha256(text).hexdigest().encode()


def _portable(name: str, array: np.ndarray) -> np.ndarray:
    """C order, little endian; reports element types that artifacts do not hold by the weight's name."""
    try:
        dtype = numpy_dtype(array.dtype.name)
    except ArtifactError as e:
        raise ArtifactError(f"weight {name!r}: {e}") from e
    return np.ascontiguousarray(array).astype(dtype.newbyteorder("<"), copy=False).reshape(array.shape)


def _layout(payload: Payload, arrays: list[np.ndarray]) -> tuple[tuple[WeightEntry, ...], list[bytes | memoryview]]:
    """Every weight's entry, and what is stored of it: its bytes, packed where that saves a line of the cache."""
    entries, blobs = [], []
    offset = 0
    for (name, _), array in zip(payload.weights, arrays, strict=True):
        offset += -offset % ALIGNMENT
        data = array.reshape(-1).view(np.uint8)
        bits = fewest_bits(data, ALIGNMENT)
        blob = data.data if bits == PLAIN_BITS else pack(data, bits)
        entries.append(WeightEntry(name, array.dtype.name, array.shape, offset, array.nbytes, bits, len(blob)))
        blobs.append(blob)
        offset += len(blob)
    return tuple(entries), blobs


def _chunks(entries: Iterable[WeightEntry], blobs: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    position = 0
    for entry, blob in zip(entries, blobs, strict=True):
        yield bytes(entry.offset - position)
        yield blob
        position = entry.offset + entry.stored


def _json_only(value: Any, what: str) -> Any:
    """The value after a round trip through JSON, so that a manifest equals what is read back."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as e:
        raise ArtifactError(f"the manifest's {what} hold more than JSON can: {e}") from e


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that takes its place on success and vanishes on failure."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as e:
        reason = e.strerror or str(e)
        raise ArtifactError(f"cannot write {path}: {reason}; nothing was left there") from e
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Makes the rename durable; some file systems refuse to sync folders, which is no failure."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
