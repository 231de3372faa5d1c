"""What runs inside the user's PyTorch; needs the extra `optkit[torch]`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from optkit.torch.exporter import export
from optkit.torch.recipe import Recipe

if TYPE_CHECKING:
    from optkit.torch.conversion import convert
    from optkit.torch.insertion import freeze_batch_norm, prepare, scale_parameters

__all__ = ["Recipe", "convert", "export", "freeze_batch_norm", "prepare", "scale_parameters"]

_LAZY = {
    "convert": "optkit.torch.conversion",
    "freeze_batch_norm": "optkit.torch.insertion",
    "prepare": "optkit.torch.insertion",
    "scale_parameters": "optkit.torch.insertion",
}


def __getattr__(name: str) -> Any:
    # These subclass torch's own classes, so they import it; without it, the command line still explains itself.
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
