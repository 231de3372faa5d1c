"""Two processes under torchrun, gloo between them: the same parameters on both ranks, and a model that converts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from optkit.torch import Recipe, prepare  # noqa: E402
from tests.torch.qat_models import images, make  # noqa: E402

pytestmark = pytest.mark.needs_torch
ROOT = Path(__file__).parents[2]


def test_two_ranks_stay_equal(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "tests.torch.qat_worker", str(tmp_path)]
    path = os.pathsep.join([str(ROOT), str(ROOT / "passes"), str(ROOT / "targets"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (torch.load(tmp_path / f"rank{r}.pt", weights_only=True) for r in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[n], second[n]) for n in first)
    start = prepare(make("residual"), Recipe(weight_bits=4), (images(4),), calibration=[images(8)])
    moved = [n for n, p in start.named_parameters() if not torch.equal(p, first[n])]
    assert len(moved) == len(first)  # every parameter was trained, scales too
    assert (tmp_path / "x.onnx").exists()
