"""Linking: reproducible, silent about the machine, and clear when it cannot."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from optkit.artifact.link import find_linker, link_library
from optkit.errors import CompileError, UsageError
from tests.relax_models import executable, mlp

zig = pytest.mark.skipif(find_spec("ziglang") is None, reason="needs ziglang (optkit[cross])")


@pytest.fixture(scope="module")
def compiled() -> Any:
    inputs, _, weights, body = mlp()
    return executable(inputs, weights, body)


@pytest.mark.needs_compiler
def test_same_bytes_from_another_folder(compiled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = link_library(compiled, tmp_path / "a.so")
    assert info.name in ("cc", "gcc", "clang")
    assert info.version
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.chdir(tmp_path)
    link_library(compiled, tmp_path / "sub" / "b.so")
    assert (tmp_path / "a.so").read_bytes() == (tmp_path / "sub" / "b.so").read_bytes()
    assert not list((tmp_path / "sub").glob(".*"))


@pytest.mark.needs_compiler
def test_no_path_of_this_machine(compiled: Any, tmp_path: Path) -> None:
    link_library(compiled, tmp_path / "a.so")
    data = (tmp_path / "a.so").read_bytes()
    for place in (str(Path.cwd()), str(Path.home()) + "/", str(tmp_path), "/tmp/", "/usr/"):
        assert place.encode() not in data, place


@pytest.mark.needs_compiler
def test_linker_that_fails(compiled: Any, tmp_path: Path) -> None:
    script = tmp_path / "badcc"
    script.write_text("#!/bin/sh\necho 'no space for you' >&2\nexit 1\n")
    script.chmod(0o755)
    with pytest.raises(CompileError, match="badcc failed to link: no space for you"):
        link_library(compiled, tmp_path / "a.so", cc=str(script))
    assert not (tmp_path / "a.so").exists()


def test_unknown_linker() -> None:
    with pytest.raises(UsageError, match="--cc gccc: no such program"):
        find_linker("gccc")


def test_nothing_to_link_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    monkeypatch.setattr("optkit.artifact.link.find_spec", lambda _name: None)
    with pytest.raises(CompileError, match=r"optkit\[cross\]"):
        find_linker()
    with pytest.raises(CompileError, match="aarch64-linux-gnu needs zig"):
        find_linker(target="aarch64-linux-gnu")


def test_foreign_targets_go_to_zig(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optkit.artifact.link.find_spec", lambda _name: object())
    command = find_linker(target="aarch64-linux-gnu")
    assert command == [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-gnu"]


@zig
@pytest.mark.slow
def test_zig_links_twice_the_same(compiled: Any, tmp_path: Path) -> None:
    info = link_library(compiled, tmp_path / "a.so", cc="zig")
    link_library(compiled, tmp_path / "b.so", cc="zig")
    assert info.name == "zig"
    assert (tmp_path / "a.so").read_bytes() == (tmp_path / "b.so").read_bytes()
