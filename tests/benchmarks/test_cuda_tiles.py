"""The program that times tiles, as far as no GPU is needed."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from optkit_targets.cuda import nvcc

from benchmarks import cuda_tiles
from optkit.compiler.operator import Operator

CONV = Operator.parse(
    "conv2d float16 n=2 c=64 h=28 w=28 o=128 kh=3 kw=3 sh=1 sw=1 dh=1 dw=1 pt=1 pl=1 pb=1 pr=1 groups=1 b=8"
)
PRODUCT = Operator.parse("matmul int8 m=197 k=256 n=128")


@pytest.mark.parametrize("operator", [CONV, PRODUCT])
def test_tiles_of_every_kind_are_timed(operator: Operator) -> None:
    kinds: tuple[Callable[[dict[str, int]], bool], ...] = (
        lambda p: not p["wide"],
        lambda p: cuda_tiles.plain(p, False),
        lambda p: p["parts"] > 1,
        lambda p: p["cast"] == 4,
    )
    found = [tile.params for tile in cuda_tiles.chosen(operator, "sm_90")]
    assert all(any(fits(params) for params in found) for fits in kinds)
    assert any(cuda_tiles.plain(params, True) for params in found) == (operator is CONV)
    assert len({tuple(params.items()) for params in found}) == len(found)


@pytest.mark.needs_nvcc
def test_the_program_compiles(tmp_path: Path) -> None:
    (tmp_path / "tiles.cu").write_text(cuda_tiles.source_of([CONV, PRODUCT], "sm_90"))
    command = [nvcc.find_nvcc(), *nvcc.FLAGS, "-gencode", "arch=compute_90a,code=sm_90a", "-Xptxas=-v", "tiles.cu"]
    done = subprocess.run([*command, "-o", "tiles"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "serialized" not in done.stderr
    assert set(re.findall(r"(\d+) bytes spill", done.stderr)) == {"0"}
