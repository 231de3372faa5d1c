"""Artifacts are reproducible, atomic, and refuse whatever was done to them."""

from __future__ import annotations

import dataclasses
import json
import resource
import zipfile
from pathlib import Path

import numpy as np
import pytest

from optkit.artifact import (
    ArtifactFile,
    Manifest,
    Payload,
    TensorSpec,
    open_artifact,
    read_kernels,
    read_manifest,
)
from optkit.artifact.reader import MAX_MANIFEST
from optkit.artifact.writer import MANIFEST, WEIGHTS, manifest_seal
from optkit.artifact.zipping import data_offset
from optkit.errors import ArtifactError
from tests.relax_models import mlp, pack, payload

MEMBERS = ["lib.so", "weights.bin", "kernels.json", "runtime/libtvm_runtime.so", "runtime/libtvm_ffi.so"]


def rewrite(source: Path, target: Path, change: dict[str, bytes], comment: bytes | None = None) -> None:
    """Copy an artifact with members replaced or added (a valid zip, with valid checksums)."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            new.writestr(info, change.pop(info.filename, old.read(info)))
        for name, data in change.items():
            new.writestr(name, data)
        new.comment = old.comment if comment is None else comment


def remanifest(source: Path, out: Path, **fields: object) -> None:
    """Copy an artifact with manifest fields changed and the seal made to fit."""
    with zipfile.ZipFile(source) as old:
        raw = json.loads(old.read(MANIFEST))
    text = json.dumps(raw | fields).encode()
    rewrite(source, out, {MANIFEST: text}, manifest_seal(text))


def weight_entry(dtype: str, size: int, offset: int, nbytes: int) -> dict[str, object]:
    """A manifest's account of a vector that is stored as it is."""
    return {
        "name": "w",
        "dtype": dtype,
        "shape": [size],
        "offset": offset,
        "nbytes": nbytes,
        "bits": 8,
        "stored": nbytes,
    }


def read_everything(path: Path) -> None:
    with open_artifact(path) as artifact:
        artifact.verify()
        artifact.map_weights()


def test_same_build_gives_same_bytes(mlp_payload: Payload, mlp_artifact: Path, tmp_path: Path) -> None:
    again = tmp_path / "elsewhere" / "again.optk"
    again.parent.mkdir()
    pack(again, mlp_payload)
    assert again.read_bytes() == mlp_artifact.read_bytes()


def test_compiling_and_linking_again_gives_same_bytes(mlp_artifact: Path, tmp_path: Path) -> None:
    pack(tmp_path / "b.optk", payload(tmp_path / "other folder", *mlp()))
    assert (tmp_path / "b.optk").read_bytes() == mlp_artifact.read_bytes()


def test_layout(mlp_artifact: Path) -> None:
    with zipfile.ZipFile(mlp_artifact) as archive, mlp_artifact.open("rb") as stream:
        assert archive.testzip() is None
        assert all(i.date_time == (1980, 1, 1, 0, 0, 0) for i in archive.infolist())
        weights = archive.getinfo(WEIGHTS)
        assert weights.compress_type == zipfile.ZIP_STORED
        assert data_offset(stream, weights) % 64 == 0
        assert archive.getinfo("lib.so").compress_type == zipfile.ZIP_DEFLATED


def test_manifest_round_trip(mlp_artifact: Path) -> None:
    manifest = read_manifest(mlp_artifact)
    assert Manifest.from_json(manifest.to_json(), "x") == manifest
    assert manifest.inputs == (TensorSpec("x", "float32", ["batch", 8]),)
    assert [w.name for w in manifest.weights] == ["w1", "w2", "b"]
    assert all(w.offset % 64 == 0 for w in manifest.weights)
    assert manifest.kernels == ("matmul",)
    assert read_kernels(mlp_artifact)[0]["rule"] == "none"
    assert {"optkit", "tvm", "onnx", "onnxruntime", "numpy", "llvm"} <= manifest.versions.keys()


def test_weights_come_back(mlp_artifact: Path) -> None:
    with open_artifact(mlp_artifact) as artifact:
        memory = artifact.map_weights()
    for entry, (_, array) in zip(artifact.manifest.weights, mlp()[2], strict=True):
        found = np.frombuffer(memory, entry.dtype, array.size, entry.offset).reshape(entry.shape)
        np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("member", MEMBERS)
def test_tampered_member(member: str, mlp_artifact: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(mlp_artifact) as archive:
        data = bytearray(archive.read(member))
    data[len(data) // 2] ^= 1
    rewrite(mlp_artifact, tmp_path / "t.optk", {member: bytes(data)})
    with pytest.raises(ArtifactError, match=member):
        read_everything(tmp_path / "t.optk")


def test_tampered_manifest(mlp_artifact: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(mlp_artifact) as archive:
        text = archive.read(MANIFEST)
    rewrite(mlp_artifact, tmp_path / "t.optk", {MANIFEST: text.replace(b'"fold"', b'"fuse"')})
    with pytest.raises(ArtifactError, match=r"manifest.json was edited"):
        open_artifact(tmp_path / "t.optk")


def test_any_flipped_byte_is_noticed_or_harmless(mlp_artifact: Path, tmp_path: Path) -> None:
    data = mlp_artifact.read_bytes()
    with open_artifact(mlp_artifact) as artifact:
        manifest, weights = artifact.manifest, bytes(artifact.map_weights())
    rng = np.random.default_rng(0)
    places = [*range(200), *range(len(data) - 500, len(data)), *rng.integers(0, len(data), 100)]
    noticed = 0
    for place in map(int, places[::4]):
        changed = bytearray(data)
        changed[place] ^= 0xFF
        path = tmp_path / "f.optk"
        path.write_bytes(changed)
        try:
            with open_artifact(path) as artifact:
                artifact.verify()
                assert artifact.manifest == manifest
                assert bytes(artifact.map_weights()) == weights
        except ArtifactError:
            noticed += 1
    assert noticed > 50


@pytest.mark.parametrize("keep", [0, 10, 0.3, 0.9, 0.9999])
def test_truncated(keep: float, mlp_artifact: Path, tmp_path: Path) -> None:
    data = mlp_artifact.read_bytes()
    (tmp_path / "t.optk").write_bytes(data[: int(keep if keep >= 1 else keep * len(data))])
    with pytest.raises(ArtifactError, match=r"t\.optk"):
        open_artifact(tmp_path / "t.optk")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="No such file"):
        open_artifact(tmp_path / "nothing.optk")


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "a\\evil", "C:evil", "runtime/", "a//b"])
def test_names_that_leave_the_artifact(name: str, mlp_artifact: Path, tmp_path: Path) -> None:
    rewrite(mlp_artifact, tmp_path / "t.optk", {name: b"x"})
    with pytest.raises(ArtifactError, match="leaves the artifact"):
        open_artifact(tmp_path / "t.optk")


def test_name_with_a_nul(mlp_artifact: Path, tmp_path: Path) -> None:
    # zipfile cuts names at a NUL; the name as stored is what counts
    rewrite(mlp_artifact, tmp_path / "t.optk", {"lib_so": b"x"})
    data = (tmp_path / "t.optk").read_bytes().replace(b"lib_so", b"lib.s\0")
    (tmp_path / "t.optk").write_bytes(data)
    with pytest.raises(ArtifactError, match="leaves the artifact"):
        open_artifact(tmp_path / "t.optk")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicate_member(mlp_artifact: Path, tmp_path: Path) -> None:
    rewrite(mlp_artifact, tmp_path / "t.optk", {})
    with zipfile.ZipFile(tmp_path / "t.optk", "a") as archive:
        archive.writestr("lib.so", b"other")
    with pytest.raises(ArtifactError, match="occurs twice"):
        open_artifact(tmp_path / "t.optk")


def test_unlisted_and_missing_members(mlp_artifact: Path, tmp_path: Path) -> None:
    rewrite(mlp_artifact, tmp_path / "a.optk", {"extra.txt": b"x"})
    with pytest.raises(ArtifactError, match=r"holds extra.txt"):
        open_artifact(tmp_path / "a.optk")
    with zipfile.ZipFile(mlp_artifact) as old, zipfile.ZipFile(tmp_path / "b.optk", "w") as new:
        for info in old.infolist():
            if info.filename != "lib.so":
                new.writestr(info, old.read(info))
        new.comment = old.comment
    with pytest.raises(ArtifactError, match=r"lib.so is missing"):
        open_artifact(tmp_path / "b.optk")


def test_over_long_member(mlp_artifact: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(mlp_artifact) as archive:
        library = archive.read("lib.so")
    rewrite(mlp_artifact, tmp_path / "t.optk", {"lib.so": library + b"\0"})
    with pytest.raises(ArtifactError, match="its manifest states"):
        open_artifact(tmp_path / "t.optk")


def test_size_in_the_directory_that_is_a_lie(mlp_artifact: Path, tmp_path: Path) -> None:
    """A member that unpacks to more than the zip's directory says must not be read beyond that."""
    rewrite(mlp_artifact, tmp_path / "t.optk", {})
    data = bytearray((tmp_path / "t.optk").read_bytes())
    size = dict(read_manifest(mlp_artifact).members)["lib.so"].nbytes
    with zipfile.ZipFile(tmp_path / "t.optk") as archive:
        longer = archive.read("lib.so") + bytes(1 << 20)
    rewrite(mlp_artifact, tmp_path / "t.optk", {"lib.so": longer})
    data = bytearray((tmp_path / "t.optk").read_bytes())
    stated = len(longer).to_bytes(4, "little")
    assert data.count(stated) >= 1
    (tmp_path / "t.optk").write_bytes(bytes(data).replace(stated, size.to_bytes(4, "little")))
    with pytest.raises(ArtifactError, match=r"t\.optk"):
        read_everything(tmp_path / "t.optk")


def test_manifest_bomb(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "t.optk", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MANIFEST, bytes(MAX_MANIFEST + 1))
    with pytest.raises(ArtifactError, match="unpacks to more than"):
        open_artifact(tmp_path / "t.optk")


def test_other_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "t.optk", "w") as archive:
        archive.writestr("readme", b"x")
    with pytest.raises(ArtifactError, match=r"no manifest.json"):
        open_artifact(tmp_path / "t.optk")


def test_unknown_schema(mlp_artifact: Path, tmp_path: Path) -> None:
    remanifest(mlp_artifact, tmp_path / "t.optk", schema=999)
    with pytest.raises(ArtifactError, match="schema version 999, this optkit reads 2"):
        open_artifact(tmp_path / "t.optk")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("inputs", [{"name": "x"}]),
        ("inputs", [{"name": "x", "dtype": "float31", "shape": [1]}]),
        ("weights", [weight_entry("float32", 2, 0, 4)]),
        ("weights", [weight_entry("float32", 2, 4, 8)]),
        ("weights", [weight_entry("int8", 1 << 40, 0, 1 << 40)]),
        ("weights", [weight_entry("int8", -1, 0, -1)]),
        ("members", {}),
        ("members", {"lib.so": 3}),
        ("target", None),
        ("runtime", ["runtime/libother.so"]),
    ],
)
def test_manifests_that_make_no_sense(field: str, value: object, mlp_artifact: Path, tmp_path: Path) -> None:
    remanifest(mlp_artifact, tmp_path / "t.optk", **{field: value})
    with pytest.raises(ArtifactError, match=r"t\.optk"):
        open_artifact(tmp_path / "t.optk")


def test_failed_write_leaves_nothing(mlp_payload: Payload, tmp_path: Path) -> None:
    path = tmp_path / "x.optk"
    path.write_bytes(b"before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(ArtifactError, match=r"cannot write .*x\.optk"):
            pack(path, mlp_payload)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in tmp_path.iterdir()] == ["x.optk"]
    assert path.read_bytes() == b"before"


def test_unwritable_folder(mlp_payload: Payload, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"cannot write .*No such file or directory"):
        pack(tmp_path / "nowhere" / "x.optk", mlp_payload)


def test_odd_weights(mlp_payload: Payload, tmp_path: Path) -> None:
    import ml_dtypes

    weights = [
        ("scalar", np.array(3, np.int64)),
        ("empty", np.zeros((0, 4), np.float32)),
        ("big_endian", np.arange(5, dtype=">f4")),
        ("strided", np.arange(12, dtype=np.int8).reshape(3, 4).T),
        ("bf16", np.arange(6).astype(ml_dtypes.bfloat16)),
        ("bool", np.array([True, False])),
    ]
    pack(tmp_path / "w.optk", dataclasses.replace(mlp_payload, weights=weights))
    with ArtifactFile(tmp_path / "w.optk") as artifact:
        memory = artifact.map_weights()
        for entry, (_, array) in zip(artifact.manifest.weights, weights, strict=True):
            raw = bytes(memory[entry.offset : entry.offset + entry.nbytes])
            assert entry.shape == array.shape
            assert raw == array.astype(array.dtype.newbyteorder("<")).tobytes()
    with pytest.raises(ArtifactError, match=r"weight 'c'.*complex64"):
        pack(tmp_path / "c.optk", dataclasses.replace(mlp_payload, weights=[("c", np.zeros(2, np.complex64))]))
