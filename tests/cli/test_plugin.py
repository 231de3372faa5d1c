"""Passes and targets of a separately installed package: listed, usable, and never silently in conflict."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = '''
from dataclasses import dataclass, replace
from typing import ClassVar

from optkit.registry import target_family
from optkit.transform import Finding, Pass, Result, option


@dataclass(frozen=True)
class Rename(Pass):
    """Write a word into the graph's doc string."""

    name: ClassVar[str] = "rename"
    word: str = option("plugged", "what to write")

    def run(self, model, context):
        model.graph.doc_string = self.word
        return Result(model, True, [Finding("changed", "", self.word)])


class Family:
    name = "board"

    def names(self):
        return {"board": "a board of ours"}

    def make(self, name):
        return replace(target_family("cpu").make("cpu"), name="board", cores=1)

    def rules(self, target):
        return target_family("cpu").rules(target)

    def why_not_here(self, target):
        return None
'''


def _install(folder: Path, name: str, passes: str = "", targets: str = "") -> None:
    """Lay out what pip would: a module and its metadata."""
    (folder / f"{name}.py").write_text(SOURCE)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[optkit.passes]\n{passes}\n[optkit.targets]\n{targets}\n")


def _optkit(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)])}
    command = [sys.executable, "-c", "from optkit.cli import main; main()", *args]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)


def test_listed(tmp_path: Path) -> None:
    _install(tmp_path, "plug", "rename = plug:Rename", "board = plug:Family")
    passes = json.loads(_optkit(tmp_path, "passes", "--json").stdout)["passes"]
    assert passes["rename"]["help"] == "Write a word into the graph's doc string."
    assert passes["rename"]["options"][0]["default"] == "plugged"
    assert json.loads(_optkit(tmp_path, "targets", "--json").stdout)["board"] == {"board": "a board of ours"}


@pytest.mark.needs_compiler
def test_usable(tmp_path: Path, model: Path) -> None:
    _install(tmp_path, "plug", "rename = plug:Rename", "board = plug:Family")
    done = _optkit(tmp_path, "compile", str(model), "--target", "board", "--passes", "rename{word=mine}", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["pipeline"] == "rename{word=mine}"
    assert report["target"]["name"] == "board" and report["verification"]["status"] == "passed"


def test_clash_names_both(tmp_path: Path) -> None:
    _install(tmp_path, "plug", "fold = plug:Rename")
    done = _optkit(tmp_path, "passes")
    assert done.returncode == 2
    assert "fold" in done.stderr and "plug" in done.stderr and "optkit_passes" in done.stderr
