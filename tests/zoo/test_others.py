"""Models by others: what is listed, and what is said where a package is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.zoo import others
from benchmarks.zoo.others import OTHERS, need
from optkit.errors import UsageError


def test_every_model_says_what_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["others"])
    assert others.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(OTHERS)
    assert all(len(line.split(maxsplit=1)[1]) > 20 for line in lines)


def test_missing_package_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="pip install some-package"):
        need("no_such_module", "some-package")
    with pytest.raises(UsageError, match="pip install some-package"):
        others._inside("no_such_module", "some-package", "x.onnx")(tmp_path / "x.onnx")


def test_unknown_model(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["others", "minilmm"])
    assert others.main() == 2
    assert "did you mean 'minilm'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["sklearn_logistic", "sklearn_forest"])
def test_scikit_learn(name: str, tmp_path: Path) -> None:
    pytest.importorskip("skl2onnx")
    OTHERS[name](tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").stat().st_size > 1000
