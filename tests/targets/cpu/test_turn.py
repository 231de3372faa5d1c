"""Moves between layouts by squares in registers: blocks of 8 and 16 channels, whole and not, areas known and open."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import optkit
from optkit.artifact.reader import read_kernels
from tests.graphs import proto, session, weights


def rules(artifact: optkit.Artifact) -> dict[str, str]:
    return {kernel["name"]: kernel["rule"] for kernel in read_kernels(artifact.path)}


@pytest.mark.parametrize("target", ["cpu", "x86-64-v3"])
@pytest.mark.parametrize(
    ("channels", "filters", "size"),
    [(16, 32, (8, 8)), (21, 17, (5, 7)), (32, 255, (13, 13)), (40, 3, (70, 90)), (16, 16, (1, 16))],
)
def test_every_number_of_channels_and_positions(
    target: str, channels: int, filters: int, size: tuple[int, ...], tmp_path: Path
) -> None:
    kernel = (1,) * len(size)
    extents = ",".join(map(str, size))
    model = proto(
        "y = Conv(x, w)",
        f"float[2,{channels},{extents}] x",
        f"float[2,{filters},{extents}] y",
        w=weights(filters, channels, *kernel, scale=0.2),
    )
    made = optkit.compile(model, target=target, output=tmp_path / "m.optk")
    assert [name for name, rule in rules(made).items() if rule == "cpu.turn"] == ["to_blocked", "to_plain"]


def test_open_areas_down_to_less_than_a_square(tmp_path: Path) -> None:
    model = proto("y = Conv(x, w)", "float[n,20,h,v] x", "float[n,35,h,v] y", w=weights(35, 20, 1, 1, scale=0.2))
    made = optkit.compile(model, output=tmp_path / "m.optk")
    assert {rules(made)[name] for name in ("to_blocked", "to_plain")} == {"cpu.turn"}
    reference = session(model)
    with optkit.load(made.path) as runner:
        for n, h, v in ((1, 1, 1), (2, 3, 5), (1, 4, 4), (3, 1, 17), (1, 31, 67)):
            x = np.random.default_rng(n).standard_normal((n, 20, h, v)).astype(np.float32)
            np.testing.assert_allclose(runner(x)["y"], reference.run(None, {"x": x})[0], rtol=1e-5, atol=1e-5)
