"""A module named on the command line, and example inputs for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from optkit.errors import UsageError, nearest
from optkit.objects import load_object

if TYPE_CHECKING:
    import torch


def load_module(text: str) -> torch.nn.Module:
    """The torch module that `module:callable` makes, or that `module:object` is.

    Raises:
        UsageError: no such object, calling it fails, or the result is no `torch.nn.Module`.
    """
    try:
        import torch
    except ImportError as error:
        raise UsageError("export needs PyTorch: pip install 'optkit[torch]'") from error
    found = load_object(text)
    if not isinstance(found, torch.nn.Module):
        if not callable(found):
            raise UsageError(f"{text!r} is a {type(found).__name__}; name a torch.nn.Module or what makes one")
        try:
            found = found()
        except Exception as error:  # the user's own code
            raise UsageError(f"calling {text!r} failed: {type(error).__name__}: {error}") from error
    if not isinstance(found, torch.nn.Module):
        raise UsageError(f"{text!r} makes a {type(found).__name__}, not a torch.nn.Module")
    return found


def example_inputs(shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, str], seed: int) -> dict[str, Any]:
    """Seeded example tensors by name: standard normal floats, integers 0 and 1, random booleans.

    Raises:
        UsageError: an element type torch does not have, or a type for an input without a shape.
    """
    import torch

    for name in dtypes:
        if name not in shapes:
            raise UsageError(f"a type for input {name!r}, which has no --input-shape; {nearest(name, shapes)}")
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        kind = getattr(torch, dtypes.get(name, "float32"), None)
        if not isinstance(kind, torch.dtype):
            known = ["float32", "float16", "float64", "int64", "int32", "uint8", "bool"]
            raise UsageError(f"input {name!r}: no element type {dtypes[name]!r}; {nearest(dtypes[name], known)}")
        if kind.is_floating_point:
            tensors[name] = torch.randn(shape, generator=generator).to(kind)
        else:
            tensors[name] = torch.randint(0, 2, shape, generator=generator).to(kind)
    return tensors
