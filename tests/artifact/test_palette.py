"""Weights of fewer than 8 bits are stored in as many bits, come back whole, and are refused where they are damaged."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from optkit.artifact import Payload, read_manifest
from optkit.artifact.manifest import ALIGNMENT
from optkit.artifact.palette import MOST_BITS, PLAIN_BITS, fewest_bits, pack, stored_bytes, unpack
from optkit.artifact.writer import MANIFEST, WEIGHTS, manifest_seal
from optkit.errors import ArtifactError
from optkit.runtime import load
from tests.artifact.test_artifact_file import read_everything, remanifest, rewrite
from tests.relax_models import mlp
from tests.relax_models import pack as pack_artifact
from tests.relax_models import payload as make_payload

# Around whole groups of eight codes, and where the table for 4-bit codes becomes the wide one.
SIZES = [1, 7, 8, 9, 1000, (1 << 17) + 3]


def values_of(bits: int, size: int, seed: int = 0) -> np.ndarray:
    """Bytes of 2^bits kinds, or as many as fit."""
    generator = np.random.default_rng(seed)
    palette = generator.choice(256, 1 << bits, replace=False).astype(np.uint8)
    return palette[np.concatenate([np.arange(1 << bits), generator.integers(0, 1 << bits, size)])[:size]]


def unpacked(stored: bytes, bits: int, size: int) -> np.ndarray:
    out = np.full(size, 0xEE, np.uint8)
    unpack(np.frombuffer(stored, np.uint8), bits, out, "x.optk: weight w")
    return out


@pytest.mark.parametrize("bits", range(1, MOST_BITS + 1))
@pytest.mark.parametrize("size", SIZES)
def test_round_trip(bits: int, size: int) -> None:
    data = values_of(bits, size)
    stored = pack(data, bits)
    assert len(stored) == stored_bytes(size, bits) == (1 << bits) + -(-size // 8) * bits
    assert stored == pack(data.copy(), bits)
    np.testing.assert_array_equal(unpacked(stored, bits, size), data)


def test_what_a_code_is() -> None:
    """The format, spelled out: it must not change unnoticed."""
    stored = pack(np.array([7, 249, 0, 7, 7], np.uint8), 2)
    assert stored == bytes([0, 7, 249, 249]) + bytes([0b01_00_10_01, 0b00_00_00_01])


@pytest.mark.parametrize(("bits", "weight_bits"), [(2, 2), (3, 3), (4, 4), (5, 5), (6, 6), (7, 7)])
def test_symmetric_weights_take_their_bits(bits: int, weight_bits: int) -> None:
    top = 2 ** (weight_bits - 1) - 1
    q = np.random.default_rng(0).integers(-top, top + 1, 5000, dtype=np.int8)
    assert fewest_bits(q.view(np.uint8)) == bits


def test_what_is_not_worth_packing_is_left() -> None:
    everything = np.arange(256, dtype=np.uint8).repeat(10)
    assert fewest_bits(everything) == PLAIN_BITS
    late = np.concatenate([np.zeros(9000, np.uint8), everything])
    assert fewest_bits(late) == PLAIN_BITS
    assert fewest_bits(np.zeros(0, np.uint8)) == PLAIN_BITS
    assert fewest_bits(np.zeros(70, np.uint8), spare=64) == PLAIN_BITS
    assert fewest_bits(np.zeros(80, np.uint8), spare=64) == 1


def test_damage_inside_a_packed_weight() -> None:
    data = values_of(3, 100)
    stored = pack(data, 3)
    for wrong, message in (
        (stored + b"\0", "bytes of palette and codes"),
        (stored[:-1], "bytes of palette and codes"),
        (stored[1:2] + stored[:1] + stored[2:], "ascending order"),
        (bytes(8), "bytes of palette and codes"),
        (stored[:-1] + bytes([stored[-1] | 0x80]), "behind its last element"),
    ):
        with pytest.raises(ArtifactError, match=message) as caught:
            unpacked(wrong, 3, data.size)
        assert "x.optk: weight w" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("palette", [[0, 3, 2, 3], [1, 1, 2, 3], [0, 9, 9, 4]])
def test_palettes_that_are_none(palette: list[int]) -> None:
    with pytest.raises(ArtifactError, match="ascending order"):
        unpacked(bytes(palette) + bytes(2), 2, 8)


def narrow_weights() -> list[tuple[str, np.ndarray]]:
    generator = np.random.default_rng(3)
    return [
        ("binary", generator.choice(np.array([-1, 1], np.int8), (64, 33))),
        ("three_bits", generator.integers(-3, 4, (16, 9, 16), dtype=np.int8)),
        ("words", generator.integers(-7, 8, (32, 3, 4), dtype=np.int8).view("<i4")[..., 0]),
        ("eight_bits", generator.integers(-127, 128, (64, 64), dtype=np.int8)),
        ("real", generator.standard_normal((40, 3)).astype(np.float32)),
        ("few", generator.integers(-7, 8, 20, dtype=np.int8)),
    ]


def test_artifact_holds_and_gives_back(mlp_payload: Payload, tmp_path: Path) -> None:
    weights = narrow_weights()
    path = tmp_path / "w.optk"
    pack_artifact(path, dataclasses.replace(mlp_payload, weights=weights))
    read_everything(path)
    manifest = read_manifest(path)
    assert [w.bits for w in manifest.weights] == [1, 3, 4, 8, 8, 8]
    assert [w.nbytes for w in manifest.weights] == [a.nbytes for _, a in weights]
    assert [w.stored for w in manifest.weights] == [stored_bytes(w.nbytes, w.bits) for w in manifest.weights]
    ends = [w.offset + w.stored for w in manifest.weights]
    assert all(0 <= b.offset - a < ALIGNMENT for a, b in zip(ends, manifest.weights[1:], strict=False))
    assert dict(manifest.members)[WEIGHTS].nbytes == ends[-1]
    pack_artifact(tmp_path / "again.optk", dataclasses.replace(mlp_payload, weights=weights))
    assert (tmp_path / "again.optk").read_bytes() == path.read_bytes()


def test_runs_with_packed_weights(tmp_path: Path) -> None:
    """The runner's answer is that of the weights before they were packed."""
    inputs, outputs, weights, body = mlp()
    steps = {name: np.rint(array * 2).clip(-3, 3).astype(np.float32) for name, array in weights}
    wide = [(name, np.ascontiguousarray(steps[name])) for name, _ in weights]
    path = tmp_path / "m.optk"
    pack_artifact(path, make_payload(tmp_path, inputs, outputs, wide, body))
    x = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    expected = np.maximum(x @ steps["w1"], 0) @ steps["w2"] + steps["b"]
    assert any(w.bits < PLAIN_BITS for w in read_manifest(path).weights)
    with load(path) as runner:
        np.testing.assert_allclose(runner.run({"x": x})["y"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("field", "value"), [("bits", 0), ("bits", 9), ("bits", 3), ("stored", 10), ("stored", 1 << 40), ("bits", None)]
)
def test_manifest_that_lies_about_a_weight(field: str, value: object, mlp_payload: Payload, tmp_path: Path) -> None:
    path = tmp_path / "w.optk"
    pack_artifact(path, dataclasses.replace(mlp_payload, weights=narrow_weights()))
    with zipfile.ZipFile(path) as archive:
        entries = json.loads(archive.read(MANIFEST))["weights"]
    entries[0][field] = value
    remanifest(path, tmp_path / "t.optk", weights=entries)
    with pytest.raises(ArtifactError, match=r"t\.optk.*weight binary|t\.optk.*schema"):
        read_everything(tmp_path / "t.optk")


def test_damaged_palette_with_a_hash_that_fits(tmp_path: Path) -> None:
    """What no hash can tell: a file that was made wrong."""
    inputs, outputs, weights, body = mlp()
    wide = [(name, np.ones_like(array)) for name, array in weights]
    path = tmp_path / "m.optk"
    pack_artifact(path, make_payload(tmp_path, inputs, outputs, wide, body))
    with zipfile.ZipFile(path) as archive:
        raw, data = json.loads(archive.read(MANIFEST)), bytearray(archive.read(WEIGHTS))
    at = next(w["offset"] for w in raw["weights"] if w["bits"] < PLAIN_BITS)
    data[at : at + 2] = b"\x05\x01"
    raw["members"][WEIGHTS]["sha256"] = hashlib.sha256(data).hexdigest()
    text = json.dumps(raw).encode()
    rewrite(path, tmp_path / "t.optk", {MANIFEST: text, WEIGHTS: bytes(data)}, manifest_seal(text))
    with pytest.raises(ArtifactError):
        load(tmp_path / "t.optk")
