"""Running the command line inside the test process, and small models for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
import pytest

from optkit.cli import main
from tests.graphs import proto, weights


@dataclass(frozen=True)
class Done:
    """What a call left behind."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line on standard error that begins with "error:"."""
        lines = [line for line in self.err.splitlines() if line.startswith("error:")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0]


class Optkit(Protocol):
    def __call__(self, *args: object) -> Done: ...


@pytest.fixture
def optkit(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Optkit:
    """Call as optkit("compile", path, "--int8"); runs in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")

    def call(*args: object) -> Done:
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(a) for a in args])
        out, err = capfd.readouterr()
        return Done(int(stop.value.code or 0), out, err)

    return call


def small() -> onnx.ModelProto:
    """A convolution and an activation on (n, 3, 8, 8)."""
    return proto(
        "c = Conv <pads = [1, 1, 1, 1]> (x, w, b) y = Relu (c)",
        outputs="float[n,4,8,8] y",
        w=weights(4, 3, 3, 3),
        b=weights(4, seed=1),
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The small model as a file, `small.onnx`."""
    path = tmp_path / "small.onnx"
    onnx.save(small(), path)
    return path


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Eight calibration samples for the small model."""
    path = tmp_path / "samples.npz"
    np.savez(path, x=weights(8, 3, 8, 8, seed=2))
    return path
