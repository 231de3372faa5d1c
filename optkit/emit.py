"""What can be written beside an artifact: the model after all passes, and the compiler's own texts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from optkit.errors import UsageError, nearest
from optkit.files import check_writable, write_whole

if TYPE_CHECKING:
    import onnx_ir as ir

    from optkit.compiler.build import Built

FORMS = ("onnx", "relax", "tir", "asm")


def parse_forms(words: Iterable[str]) -> tuple[str, ...]:
    """The forms asked for, in a fixed order; "all" stands for every one.

    >>> parse_forms(["asm", "onnx,asm"])
    ('onnx', 'asm')

    Raises:
        UsageError: an unknown form.
    """
    asked = {word.strip() for text in words for word in text.split(",")}
    for word in sorted(asked - {*FORMS, "all"}):
        raise UsageError(f"nothing to emit is called {word!r}; {nearest(word, (*FORMS, 'all'))}")
    return tuple(form for form in FORMS if form in asked or "all" in asked)


def emitted_path(output: Path, form: str, precision: str) -> Path:
    """Where a form goes: `x.optk` gives x.int8.onnx, x.relax.py, x.tir.py and x.s."""
    suffix = {"onnx": f".{precision}.onnx", "relax": ".relax.py", "tir": ".tir.py", "asm": ".s"}[form]
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
            texts = {"relax": lambda: built.relax_text, "tir": lambda: built.tir_text, "asm": built.assembly}
            write_whole(path, texts[form]().encode())
        written[form] = path
    return written
