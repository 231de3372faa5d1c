"""What can be written beside an artifact: the model after all passes, and the compiler's own texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from optkit.errors import UsageError, nearest
from optkit.files import check_writable, write_whole

if TYPE_CHECKING:
    import onnx_ir as ir

    from optkit.compiler.build import Built
    from optkit.target import Target

FORMS = ("onnx", "relax", "tir", "asm")
"""For every target; "cuda" is for those with a GPU and is written only when named."""
CUDA = "cuda"


def parse_forms(words: Iterable[str]) -> tuple[str, ...]:
    """The forms asked for, in a fixed order; "all" stands for every one.

    >>> parse_forms(["asm", "onnx,asm"])
    ('onnx', 'asm')

    Raises:
        UsageError: an unknown form.
    """
    asked = {word.strip() for text in words for word in text.split(",")}
    for word in sorted(asked - {*FORMS, CUDA, "all"}):
        raise UsageError(f"nothing to emit is called {word!r}; {nearest(word, (*FORMS, CUDA, 'all'))}")
    return tuple(form for form in (*FORMS, CUDA) if form in asked or (form != CUDA and "all" in asked))


def check_forms(forms: Iterable[str], target: Target) -> None:
    """Refuse forms that a target has not.

    Raises:
        UsageError: CUDA C++ of a target without a GPU.
    """
    if CUDA in forms and target.device != "cuda":
        raise UsageError(f"--emit {CUDA}: target {target.name!r} has no CUDA kernels")


def emitted_path(output: Path, form: str, precision: str) -> Path:
    """Where a form goes: `x.optk` gives x.int8.onnx, x.relax.py, x.tir.py, x.s and x.cu."""
    suffix = {"onnx": f".{precision}.onnx", "relax": ".relax.py", "tir": ".tir.py", "asm": ".s", CUDA: ".cu"}[form]
    return output.with_name(output.stem + suffix)


def emit(forms: Iterable[str], output: Path, model: ir.Model, precision: str, built: Built) -> dict[str, Path]:
    """Write the forms beside `output` and return their paths.

    Raises:
        OptkitError: a file cannot be written.
    """
    from optkit.model import save_model

    written = {}
    for form in forms:
        path = check_writable(emitted_path(output, form, precision))
        if form == "onnx":
            save_model(model, path)
        else:
            texts: dict[str, Callable[[], str]] = {
                "relax": lambda: built.relax_text,
                "tir": lambda: built.tir_text,
                "asm": built.assembly,
                CUDA: lambda: built.executable.whole_source(),
            }
            write_whole(path, texts[form]().encode())
        written[form] = path
    return written
