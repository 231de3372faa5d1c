"""PyTorch to ONNX through torch.export, with nothing of the exporting machine left in the file."""

from __future__ import annotations

import contextlib
import inspect
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from optkit.errors import ModelError, UsageError, VerificationError, nearest
from optkit.model import save_model
from optkit.torch.strip import strip_metadata

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

DynamicAxes = Mapping[str, Mapping[int, str]]
"""Input name to {axis: name of the axis}; axes of one name must agree at run time."""

MINIMUM_OPSET = 18
NORM_TOLERANCE = 1e-4


def export(
    module: torch.nn.Module,
    args: Sequence[Any],
    path: str | Path,
    *,
    dynamic: DynamicAxes | None = None,
    opset: int = MINIMUM_OPSET,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    verify: bool = True,
    translations: Mapping[Any, Callable[..., Any]] | None = None,
) -> Path:
    """Write `module`, in eval mode, as one ONNX file and return its path.

    Args:
        args: example inputs, positional; their shapes are the model's, except on dynamic axes.
        dynamic: axes that stay open, by name, e.g. `{"x": {0: "batch"}}`.
        opset: ONNX operator set, 18 or later.
        input_names: names of the inputs in order; by default those of `forward`'s parameters.
        output_names: names of the outputs in order.
        verify: compare with ONNX Runtime, on `args` and with every dynamic axis made longer.
        translations: for operators of `torch.library` that the exporter does not know, such as
            `torch.ops.mine.nms.default`: an onnxscript function that takes their place.

    Weights lie inside the file, or beside it as `<path>.data` where they exceed what protobuf holds (2 GB).
    Axis names are kept; the exporter's stack traces and notes are not.

    Raises:
        UsageError: an unknown input or axis, too old an opset, or torch is not installed.
        ModelError: torch.export cannot trace the module, or a dynamic axis turned out to be fixed.
        VerificationError: ONNX Runtime's answer differs from PyTorch's.
    """
    torch = _require_torch()
    if opset < MINIMUM_OPSET:
        raise UsageError(f"opset {opset} is too old to export to: use {MINIMUM_OPSET} or later")
    tensors = tuple(args)
    names = _input_names(module, tensors, input_names)
    axes = _check_dynamic(dict(dynamic or {}), names, tensors)
    traced = tuple(_widen(tensor, axes.get(name, {})) for name, tensor in zip(names, tensors, strict=True))
    shapes = tuple(dict(axes.get(name, {})) or None for name in names) if axes else None
    with _eval_mode(module), _quiet():
        _try_out(module, tensors)
        try:
            program = torch.onnx.export(
                module,
                traced,
                dynamo=True,
                opset_version=opset,
                dynamic_shapes=shapes,
                input_names=list(names),
                output_names=list(output_names) if output_names else None,
                custom_translation_table=dict(translations) if translations else None,
                verbose=False,
            )
        except Exception as error:
            raise ModelError(_explain(error, module)) from error
        model: ir.Model = program.model
        strip_metadata(model)
        _check_axes(model, axes)
        target = Path(path)
        save_model(model, target)
        if verify:
            try:
                _verify(module, target, names, tensors, axes)
            except VerificationError:
                target.unlink()
                raise
    return target


def _require_torch() -> Any:
    try:
        import torch
        import torch.onnx
    except ImportError as error:
        raise UsageError("export needs PyTorch: pip install 'optkit[torch]'") from error
    return torch


def _input_names(module: torch.nn.Module, args: tuple[Any, ...], names: Sequence[str] | None) -> tuple[str, ...]:
    parameters = list(inspect.signature(module.forward).parameters)
    if len(args) > len(parameters) and not any(p.startswith("arg") for p in parameters):
        raise UsageError(f"{type(module).__name__}.forward takes {len(parameters)} inputs, {len(args)} were given")
    if names is None:
        # torch.nn.Sequential and friends call their parameter "input"
        return tuple(parameters[: len(args)])
    if len(names) != len(args):
        raise UsageError(f"{len(names)} input names for {len(args)} inputs")
    return tuple(names)


def _check_dynamic(
    dynamic: dict[str, Mapping[int, str]], names: tuple[str, ...], args: tuple[Any, ...]
) -> dict[str, dict[int, str]]:
    checked: dict[str, dict[int, str]] = {}
    for name, axes in dynamic.items():
        if name not in names:
            raise UsageError(f"dynamic axes for unknown input {name!r}: {nearest(name, names)}")
        rank = args[names.index(name)].ndim
        for axis in axes:
            if not -rank <= axis < rank:
                raise UsageError(f"input {name!r} has {rank} axes, so no axis {axis}")
        checked[name] = {axis % rank: label for axis, label in axes.items()}
    return checked


def _widen(tensor: Any, axes: Mapping[int, str]) -> Any:
    """Repeat `tensor` along dynamic axes of length 0 or 1: torch.export treats those lengths as constants."""
    for axis in axes:
        if tensor.shape[axis] == 1:
            tensor = tensor.repeat_interleave(2, dim=axis)
        elif tensor.shape[axis] == 0:
            raise UsageError(f"an example input has length 0 on its dynamic axis {axis}; give it at least 1")
    return tensor


@contextlib.contextmanager
def _eval_mode(module: torch.nn.Module) -> Iterator[None]:
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for submodule, training in modes:
            submodule.training = training


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the exporter logs and warns while it tries one strategy after the other; errors raise."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _try_out(module: torch.nn.Module, args: tuple[Any, ...]) -> None:
    """Run the module once: its own error says more than the one that tracing it would end in."""
    import torch

    try:
        with torch.no_grad():
            module(*args)
    except Exception as error:  # the user's own code
        shapes = ", ".join(str(list(getattr(t, "shape", ()))) for t in args)
        raise ModelError(f"{type(module).__name__} does not run on inputs of shape {shapes}: {error}") from error


def _explain(error: BaseException, module: torch.nn.Module) -> str:
    """The deepest cause in one line; the exporter wraps it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = lines[0] if lines else type(error).__name__
    if cause.endswith(":"):  # a heading: what it announces comes next
        cause = " ".join(lines[:2])
    return f"torch.export cannot trace {type(module).__name__}: {cause}"


def _check_axes(model: ir.Model, axes: Mapping[str, Mapping[int, str]]) -> None:
    for value in model.graph.inputs:
        for axis, label in axes.get(value.name or "", {}).items():
            length = value.shape[axis] if value.shape is not None else None
            if isinstance(length, int):
                raise ModelError(
                    f"axis {axis} ({label!r}) of input {value.name!r} is not dynamic: the module fixes it to {length}"
                )


def _verify(
    module: torch.nn.Module,
    path: Path,
    names: tuple[str, ...],
    args: tuple[Any, ...],
    axes: Mapping[str, Mapping[int, str]],
) -> None:
    """Compare with ONNX Runtime: as given, and with every named axis three times as long."""
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    longer = list(args)
    for index, name in enumerate(names):
        for axis in axes.get(name, {}):
            longer[index] = longer[index].repeat_interleave(3, dim=axis)
    for inputs in [args, tuple(longer)] if axes else [args]:
        with torch.no_grad():
            answer = module(*inputs)
        expected = [t.numpy(force=True) for t in _flatten(answer)]
        feed = {i.name: t.numpy(force=True) for i, t in zip(session.get_inputs(), inputs, strict=True)}
        for output, got, want in zip(session.get_outputs(), session.run(None, feed), expected, strict=True):
            error = _relative_error(got, want)
            if not error <= NORM_TOLERANCE:
                raise VerificationError(
                    f"output {output.name!r} of the exported model differs from PyTorch: "
                    f"relative error {error:.2e}, tolerance {NORM_TOLERANCE:.0e}; "
                    "export with verify=False to inspect the file"
                )


def _relative_error(got: np.ndarray, want: np.ndarray) -> float:
    """Norm of the difference over the norm of `want`; infinite where shapes differ."""
    if got.shape != want.shape:
        return float("inf")
    difference = np.linalg.norm((got.astype(np.float64) - want.astype(np.float64)).ravel())
    scale = np.linalg.norm(want.astype(np.float64).ravel())
    return float(difference / max(scale, np.finfo(np.float32).tiny))


def _flatten(answer: Any) -> list[Any]:
    from torch.utils import _pytree

    leaves: list[Any] = _pytree.tree_leaves(answer)
    return leaves
