"""Python objects named on the command line as `module:attribute`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from optkit.errors import UsageError, nearest


def load_object(text: str) -> Any:
    """The object that `module:attribute` names; modules of the current folder are found too.

    Raises:
        UsageError: not of that form, no such module or attribute, or importing the module fails.
    """
    module_name, colon, attribute = text.partition(":")
    if not colon or not module_name or not attribute:
        raise UsageError(f"{text!r} names no object; write module:callable, for example models.resnet:build")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's module raises while it is imported
        raise UsageError(f"cannot import {module_name!r}: {type(error).__name__}: {error}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [name for name in dir(found) if not name.startswith("_")]
            raise UsageError(f"{module_name!r} has no {part!r}; {nearest(part, public[:50])}")
        found = getattr(found, part)
    return found
