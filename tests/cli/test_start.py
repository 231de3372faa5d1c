"""How the command line starts: fast, and without importing what a verb does not need."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from optkit.cli.group import VERBS, cli
from tests.cli.conftest import Optkit

HEAVY = ("tvm", "torch", "onnx", "onnx_ir", "onnxruntime", "numpy", "rich")


def _run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_help_imports_nothing_heavy() -> None:
    out = _run(
        "import sys, json, contextlib, io\n"
        "from optkit.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit): main(['--help'])\n"
        f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    assert json.loads(out) == []


def test_import_optkit_imports_nothing_heavy() -> None:
    loaded = _run(f"import sys, json, optkit; print(json.dumps([n for n in {HEAVY!r} if n in sys.modules]))")
    assert json.loads(loaded) == []


def test_help_is_fast() -> None:
    def once() -> float:
        start = time.perf_counter()
        _run("from optkit.cli import main; main(['--help'])")
        return time.perf_counter() - start

    # the best of several: the machine may be busy, and what is asked for is what the program needs
    assert min(once() for _ in range(6)) < 0.3


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(optkit: Optkit, verb: str) -> None:
    done = optkit(verb, "--help")
    assert done.code == 0
    assert f"Usage: optkit {verb}" in done.out
    assert "--quiet" in done.out  # the shared options
    if verb != "completion":
        assert "--json" in done.out


def test_table_agrees_with_the_commands() -> None:
    context = cli.make_context("optkit", ["--help"], resilient_parsing=True)
    for verb, (_, text) in VERBS.items():
        command = cli.get_command(context, verb)
        assert command is not None
        assert command.short_help == text


def test_version(optkit: Optkit) -> None:
    import optkit as package

    assert optkit("--version").out == f"optkit {package.__version__}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(optkit: Optkit, shell: str) -> None:
    done = optkit("completion", shell)
    assert done.code == 0
    assert f"_OPTKIT_COMPLETE={shell}_complete" in done.out


def test_completion_completes(monkeypatch: pytest.MonkeyPatch, optkit: Optkit) -> None:
    monkeypatch.setenv("_OPTKIT_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "optkit compile --target x86-64")
    monkeypatch.setenv("COMP_CWORD", "3")
    assert "plain,x86-64-v3" in optkit().out.split()
