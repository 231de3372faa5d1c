"""Convolutions whose taps share what they read: strips, and their device code run thread by thread."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from optkit_targets.cuda.kernels.tiles import Tile

from tests.targets.cuda.host import NEEDS
from tests.targets.cuda.tiled import WIDE_KINDS, Geometry, agree, convolution, spread, strips, tiles

pytestmark = pytest.mark.needs_nvcc  # for the toolkit's headers
PADDED = {"ky": 3, "kx": 3, "top": 1, "left": 1}
# Tile, width of its strips, and what is summed; channels are whole blocks of 16 bytes.
CASES = {
    "one strip an image": (Tile(64, 64, 2, 4, 1, wide=1), 7, Geometry(16, 20, 6, 7, 6, 7, **PADDED, fill=0x80808080)),
    "images share their halo": (
        Tile(128, 64, 2, 3, 1, wide=1),
        7,
        Geometry(28, 32, 7, 7, 7, 7, **PADDED, fill=0x01010101, images=5),
    ),
    "strips": (Tile(64, 128, 2, 4, 1, wide=1), 11, Geometry(32, 20, 9, 22, 9, 22, **PADDED, fill=0x80808080, images=2)),
    "strips, the last one narrower": (Tile(128, 64, 4, 3, 1, wide=1), 9, Geometry(32, 16, 5, 25, 5, 25, **PADDED)),
    "rows of four warpgroups": (Tile(256, 64, 2, 5, 1, wide=1), 18, Geometry(24, 16, 17, 18, 17, 18, **PADDED)),
    "32 columns, most stages": (
        Tile(128, 32, 4, 8, 1, wide=1),
        7,
        Geometry(32, 20, 9, 7, 9, 7, **PADDED, fill=0x80808080, images=2),
    ),
    "parts": (
        Tile(64, 64, 2, 4, 1, 4, wide=1),
        6,
        Geometry(64, 16, 6, 6, 6, 6, **PADDED, fill=0x80808080, images=3),
    ),
    "5x5, padded more before": (
        Tile(64, 64, 2, 4, 1, wide=1),
        8,
        Geometry(16, 16, 9, 8, 8, 8, 5, 5, top=3, left=3, fill=0x07070707, images=2),
    ),
    "not padded, not square, dilated": (
        Tile(64, 256, 2, 4, 1, wide=1),
        8,
        Geometry(16, 68, 11, 12, 9, 8, 2, 3, dy=2, dx=2, images=2),
    ),
    "padded behind alone": (
        Tile(64, 64, 2, 3, 1, wide=1),
        9,
        Geometry(16, 16, 9, 9, 9, 9, 2, 2, images=3, fill=0x03030303),
    ),
    "one line": (Tile(64, 64, 2, 3, 1, wide=1), 40, Geometry(16, 16, 1, 40, 1, 40, 1, 3, left=1, images=3)),
    "groups": (Tile(64, 64, 2, 4, 1, wide=1), 6, Geometry(32, 64, 6, 6, 6, 6, **PADDED, images=3, groups=2)),
}


@NEEDS
@pytest.mark.parametrize(("name", "kind"), [*itertools.product(CASES, WIDE_KINDS)])
def test_tiles_of_strips_hold_the_sums(kind: str, name: str, tmp_path: Path) -> None:
    tile, width, g = CASES[name]
    tile, g = replace(tile, strip=width, cut=strips(g, width)), g if kind == "uint8" else replace(g, fill=0)
    assert tile.cut is not None
    (blocked, packed), numbers, want = convolution(g, kind)
    numbers = (*numbers[:-2], tile.cut.positions(g.images), numbers[-1])
    image, y, x = np.indices((g.images, g.oh, g.ow))
    places = tile.cut.position(image, y, x).ravel()
    assert len(set(places.tolist())) == len(places)
    agree(tiles(tmp_path, "OptkitConv", tile, numbers, (blocked, packed))[places], want)
    if g.images > 1:
        apart, second = spread(blocked, g.images)
        for clusters in {False, tile.parts > 1}:
            folder = tmp_path / f"apart_{clusters}"
            folder.mkdir()
            found = tiles(folder, "OptkitConv", tile, numbers, (apart, packed), clusters=clusters, more=second)
            agree(found[places], want)


@NEEDS
@pytest.mark.parametrize("kind", WIDE_KINDS)
def test_other_gpus_compute_strips_without_warpgroups(kind: str, tmp_path: Path) -> None:
    tile, width, g = CASES["images share their halo"]
    tile, g = replace(tile, strip=width, cut=strips(g, width)), replace(g, fill=0)
    assert tile.cut is not None
    (blocked, packed), numbers, want = convolution(g, kind)
    numbers = (*numbers[:-2], tile.cut.positions(g.images), numbers[-1])
    places = tile.cut.position(*np.indices((g.images, g.oh, g.ow))).ravel()
    found = tiles(tmp_path, "OptkitConv", tile, numbers, (blocked, packed), "-DOPTKIT_WITHOUT_WARPGROUPS")
    agree(found[places], want)
