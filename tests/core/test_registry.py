"""What is installed is found; a plug-in works like a built-in; clashes are errors."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from optkit import registry
from optkit.errors import UsageError
from optkit.pipeline import Pipeline

ROOT = Path(__file__).resolve().parents[2]

PLUGIN = '''
from dataclasses import dataclass
from typing import ClassVar

from optkit.errors import UsageError
from optkit.pipeline import Pipeline
from optkit.target import Target
from optkit.transform import Finding, Pass, Result, option


@dataclass(frozen=True)
class Negate(Pass):
    """Turn every Add into a Sub."""

    name: ClassVar[str] = "negate"
    only: tuple[str, ...] = option((), "names of the nodes to change; empty for all")

    def run(self, model, context):
        changed = []
        for node in model.graph:
            if node.op_type == "Add" and (not self.only or node.name in self.only):
                node.op_type = "Sub"
                changed.append(Finding("changed", node.name, "Add is Sub"))
        return Result(model, bool(changed), changed)


@dataclass(frozen=True)
class Twice(Pipeline):
    """Negates twice."""

    name: ClassVar[str] = "twice"
    passes: tuple[Pass, ...] = (Negate(), Negate())


class Abacus:
    """Targets made of wood."""

    name = "abacus"

    def names(self):
        return {"abacus": "ten rods", "soroban": "one bead above"}

    def make(self, name):
        if name not in self.names() and name != "abacus:xl":
            raise UsageError(f"unknown abacus {name!r}")
        return Target(name=name, device="cpu", tvm={"kind": "llvm"}, cores=10)

    def rules(self, target):
        return ()

    def why_not_here(self, target):
        return "there are no beads here"
'''

ENTRIES = """
[optkit.passes]
negate = plugin_module:Negate
[optkit.targets]
abacus = plugin_module:Abacus
[optkit.pipelines]
twice = plugin_module:Twice
"""


def install(folder: Path, name: str, entries: str, module: str = "", version: str = "1.0") -> None:
    """What pip leaves behind: a module and a .dist-info."""
    folder.mkdir(exist_ok=True)
    if module:
        (folder / "plugin_module.py").write_text(module)
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(textwrap.dedent(entries))


def ask(code: str, *folders: Path) -> str:
    """Run code in a fresh interpreter that sees the folders as installed packages."""
    path = [*map(str, folders), str(ROOT), str(ROOT / "passes"), str(ROOT / "targets")]
    program = f"import sys; sys.path[:0] = {path!r}\n" + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


CATCH = """
from optkit import registry
from optkit.errors import UsageError
try:
    print(registry.get_pass("negate"))
except UsageError as error:
    print("error:", error)
"""


def test_plugin_appears_and_works(tmp_path: Path) -> None:
    install(tmp_path / "site", "plugin", ENTRIES, PLUGIN)
    out = ask(
        """
        from optkit import registry
        from optkit.pipeline import Pipeline
        from optkit.transform import PassContext
        import numpy as np, onnx, onnx_ir as ir
        print("negate" in registry.passes(), "twice" in registry.pipelines(), registry.target_family("abacus").name)
        model = ir.from_proto(onnx.parser.parse_model(
            '<ir_version: 10, opset_import: ["": 18]> g (float[2] x) => (float[2] y) { a = Add(x, x)  y = Add(a, x) }'))
        result = Pipeline.parse("negate{only=[Add_1]},twice").run(model, PassContext())
        print([n.op_type for n in result.model.graph], [r.text for r in result.reports])
        print(result.reports[0].findings[0].where)
        print(registry.find_target("soroban").cores, registry.find_target("abacus:xl").name)
        print(registry.find_target("abacus").runs_here())
        """,
        tmp_path / "site",
    )
    assert out.splitlines() == [
        "True True abacus",
        "['Sub', 'Sub'] ['negate{only=[Add_1]}', 'negate', 'negate']",
        "Add_1",
        "10 abacus:xl",
        "there are no beads here",
    ]


def test_a_clash_names_both(tmp_path: Path) -> None:
    install(tmp_path / "one", "plugin", ENTRIES, PLUGIN)
    install(tmp_path / "two", "rival", "[optkit.passes]\nnegate = rival_module:Other\n")
    out = ask(CATCH, tmp_path / "one", tmp_path / "two")
    assert out.startswith("error: pass 'negate' is provided twice: ")
    assert all(word in out for word in ("plugin_module:Negate by plugin", "rival_module:Other by rival", "uninstall"))


def test_a_clash_with_a_built_in(tmp_path: Path) -> None:
    install(tmp_path / "site", "rival", "[optkit.passes]\nfold = rival_module:Fold\n")
    out = ask(CATCH, tmp_path / "site")
    assert "pass 'fold' is provided twice" in out and "by rival" in out and "by optkit" in out


def test_stale_metadata_of_the_same_distribution_is_no_clash(tmp_path: Path) -> None:
    install(tmp_path / "site", "plugin", ENTRIES, PLUGIN)
    install(tmp_path / "site", "plugin", ENTRIES, version="0.9")
    install(tmp_path / "again", "Plugin", ENTRIES)
    assert ask(CATCH, tmp_path / "site", tmp_path / "again") == "<class 'plugin_module.Negate'>"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("missing_module:Negate", "cannot be loaded: ModuleNotFoundError"),
        ("plugin_module:Nothing", "cannot be loaded: AttributeError"),
        ("plugin_module:Twice", "must be a class whose `name` is 'negate'"),
    ],
)
def test_a_broken_plugin_is_named(tmp_path: Path, entry: str, message: str) -> None:
    install(tmp_path / "site", "plugin", f"[optkit.passes]\nnegate = {entry}\n", PLUGIN)
    out = ask(CATCH, tmp_path / "site")
    assert message in out and f"({entry} of plugin)" in out


def test_a_target_that_two_families_list(tmp_path: Path) -> None:
    slate = 'class Slate(Abacus):\n    name = "slate"\n'
    entries = "[optkit.targets]\nabacus = plugin_module:Abacus\nslate = plugin_module:Slate\n"
    install(tmp_path / "site", "plugin", entries, f"{PLUGIN}\n\n{slate}")
    out = ask(
        """
        from optkit import registry
        from optkit.errors import UsageError
        try:
            registry.find_target("soroban")
        except UsageError as error:
            print(error)
        """,
        tmp_path / "site",
    )
    assert out == "target 'soroban' is claimed by abacus and slate; write abacus:soroban"


def test_listing_names_loads_nothing(tmp_path: Path) -> None:
    out = ask(
        """
        from optkit import registry
        print(sorted({"fold", "fuse", "fp16", "bf16", "tf32"} - set(registry.pass_names())), registry.pipeline_names())
        print([m for m in ("torch", "tvm", "onnxruntime", "onnx", "optkit_passes") if m in sys.modules])
        """
    )
    assert out.splitlines() == ["[] ('bf16', 'default', 'fp16', 'int8', 'int8-fp16', 'tf32')", "[]"]


def test_unknown_names_give_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown pass 'fsue'; did you mean 'fuse'\?"):
        registry.get_pass("fsue")
    with pytest.raises(UsageError, match=r"unknown pipeline 'defaut'; did you mean 'default'\?"):
        registry.get_pipeline("defaut")
    with pytest.raises(UsageError, match="unknown target 'tpu9'"):
        registry.target_family("tpu9")


def test_built_in_pipelines() -> None:
    assert str(registry.get_pipeline("default")) == "recognize,fold,fuse,fold"
    assert str(registry.get_pipeline("fp16")) == "recognize,fold,fuse,fold,fp16"
    assert str(registry.get_pipeline("bf16")) == "recognize,fold,fuse,fold,bf16"
    assert str(registry.get_pipeline("tf32")) == "recognize,fold,fuse,fold,tf32"
    assert str(registry.get_pipeline("int8-fp16")) == "recognize,fold,fuse,fold,quantize{products=false},fp16"
    # A word that is both a pass and a pipeline is the pass.
    assert str(Pipeline.parse("default,fp16")) == "@default,fp16"
    assert Pipeline.parse("@fp16").passes == (registry.get_pipeline("fp16"),)
    for name, cls in registry.passes().items():
        assert cls.name == name and cls.__doc__
