"""A model's kernels as a program of their own for another machine, run here by an emulator.

Everything that a model computes is calls of kernels one after the other. They are compiled for the target, linked
with a small C program (`aarch64.c`) that has their order as a table and the few functions of TVM's runtime that they
call, and run by qemu as the very CPU, so that an instruction which it has not is an error.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import relax, tirx

from optkit.artifact.link import find_linker
from optkit.compiler.build import Prepared, tvm_target
from optkit.compiler.schedule import Kernel, schedule_module
from optkit.compiler.stack import pipeline
from optkit.target import Target

EMULATOR = "qemu-aarch64-static"
ZIG_TARGET = "aarch64-linux-musl"
_FLAGS = ("-static", "-nostdlib", "-O1", "-fno-builtin", "-fno-stack-protector", "-fno-sanitize=all")
"""Without a C library, which zig would compile first."""
_CODES = {"int": 0, "uint": 1, "float": 2}
DRIVER = Path(__file__).with_name("aarch64.c")

needs_emulator = pytest.mark.skipif(
    shutil.which(EMULATOR) is None or find_spec("ziglang") is None,
    reason=f"needs {EMULATOR} (Debian's qemu-user-static) and ziglang (optkit[cross])",
)


class Program:
    """The calls of a model's `main` as slots of memory and the kernels that work on them."""

    def __init__(self, ready: Prepared, feeds: Sequence[np.ndarray]) -> None:
        main = ready.module["main"]
        self.slots: list[tuple[tuple[int, ...], np.dtype[Any]]] = []
        self.data: list[np.ndarray | None] = []
        self.calls: list[tuple[str, list[int]]] = []
        self.outputs: list[int] = []
        self._known: dict[Any, int] = {}
        given = [*feeds, *(array for _, array in ready.weights)]
        for parameter, array in zip(main.params, given, strict=True):
            self._known[parameter] = self._slot(array.shape, array.dtype, array)
        for block in main.body.blocks:
            for binding in block.bindings:
                self._bind(binding.var, binding.value)
        self.outputs = self._results(main.body.body)

    def header(self) -> str:
        """The program as C tables."""
        lines = [f"#define SLOTS {len(self.slots)}", f"#define CALLS {len(self.calls)}"]
        lines.append(f"#define OUTPUTS {len(self.outputs)}")
        names = sorted({name for name, _ in self.calls})
        lines += [f"int __tvm_ffi_{name}(void *, const struct any *, int32_t, struct any *);" for name in names]
        lines.append("static struct slot slots[] = {")
        for (shape, dtype), array in zip(self.slots, self.data, strict=True):
            kind = dtype.name.rstrip("0123456789")
            extents = ", ".join(map(str, shape))
            size = int(np.prod(shape, dtype="int64")) * dtype.itemsize
            bits = dtype.itemsize * 8
            text = f"{{{_CODES[kind]}, {bits}, 1}}, {len(shape)}, {{{extents}}}, {size}, {int(array is not None)}"
            lines.append(f"  {{{text}}},")
        lines += ["};", "static const struct call calls[] = {"]
        lines += [
            f'  {{"{name}", __tvm_ffi_{name}, {len(at)}, {{{", ".join(map(str, at))}}}}},' for name, at in self.calls
        ]
        lines += ["};", f"static const int outputs[] = {{{', '.join(map(str, self.outputs))}}};", ""]
        return "\n".join(lines)

    def _slot(self, shape: Sequence[int], dtype: Any, array: np.ndarray | None = None) -> int:
        self.slots.append((tuple(int(d) for d in shape), np.dtype(dtype)))
        self.data.append(array)
        return len(self.slots) - 1

    def _bind(self, var: Any, value: Any) -> None:
        if isinstance(value, relax.Tuple):
            self._known[var] = -1
            self.outputs = [self._known[f] for f in value.fields]
        elif isinstance(value, relax.Var):
            self._known[var] = self._known[value]
        else:
            assert isinstance(value, relax.Call), value
            made = self._slot([int(d) for d in var.ty.shape.values], str(var.ty.dtype))
            self._known[var] = made
            if value.op == tvm.ir.Op.get("relax.reshape"):
                self.calls.append(("view", [self._argument(value.args[0]), made]))
                return
            assert value.op == tvm.ir.Op.get("relax.call_tir"), value
            fields = value.args[1].fields if isinstance(value.args[1], relax.Tuple) else [value.args[1]]
            self.calls.append((str(value.args[0].name_hint), [*(self._argument(f) for f in fields), made]))

    def _argument(self, field: Any) -> int:
        if isinstance(field, tvm.ir.GenericConst):
            array = field.value.numpy()
            return self._slot(array.shape, array.dtype, array)
        return self._known[field]

    def _results(self, body: Any) -> list[int]:
        return [self._known[f] for f in body.fields] if isinstance(body, relax.Tuple) else self.outputs


def run_foreign(
    ready: Prepared, target: Target, feeds: Sequence[np.ndarray], folder: Path
) -> tuple[list[np.ndarray], list[Kernel]]:
    """The outputs of a model on an emulated machine, and its kernels."""
    kernels = link_foreign(ready, target, feeds, folder)
    return emulate(ready, target, feeds, folder), kernels


def link_foreign(ready: Prepared, target: Target, feeds: Sequence[np.ndarray], folder: Path) -> list[Kernel]:
    """Make the program of a model for inputs of these shapes; its kernels."""
    machine = tvm_target(target)
    with machine:
        module, kernels = schedule_module(ready.module, target, ready.labels, place=False)
        functions = {
            str(v.name_hint): f.with_attr("global_symbol", str(v.name_hint))
            for v, f in module.functions.items()
            if isinstance(f, tirx.PrimFunc)
        }
        compiled = tvm.compile(tvm.IRModule(functions), machine, tir_pipeline=pipeline())
    compiled.mod.write_to_file(str(folder / "kernels.o"))
    (folder / "program.h").write_text(Program(ready, feeds).header())
    shutil.copyfile(DRIVER, folder / "driver.c")
    _do([*find_linker(target=ZIG_TARGET), *_FLAGS, "-o", "program", "driver.c", "kernels.o"], folder)
    return kernels


def emulate(ready: Prepared, target: Target, feeds: Sequence[np.ndarray], folder: Path) -> list[np.ndarray]:
    """The outputs of a program that `link_foreign` made, for inputs of the same shapes."""
    program = Program(ready, feeds)
    data = b"".join(a.tobytes() for a in program.data if a is not None)
    name = str(target.tvm["mcpu"])
    known = subprocess.run([EMULATOR, "-cpu", "help"], capture_output=True, check=False, text=True).stdout.split()
    # An emulator older than the CPU stands in for it with all it has.
    blob = _do([EMULATOR, "-cpu", name if name in known else "max", "./program"], folder, data)
    found = []
    for at in program.outputs:
        shape, dtype = program.slots[at]
        size = int(np.prod(shape, dtype="int64"))
        found.append(np.frombuffer(blob, dtype, size).reshape(shape))
        blob = blob[size * dtype.itemsize :]
    assert not blob
    return found


def _do(command: list[str], folder: Path, data: bytes = b"") -> bytes:
    """What a command says that is given the data; fails where it does."""
    done = subprocess.run(command, cwd=folder, input=data, capture_output=True, check=False)
    said = done.stderr[-2000:].decode(errors="replace")
    assert done.returncode == 0, f"{' '.join(command)}: exit status {done.returncode}\n{said}"
    return done.stdout
