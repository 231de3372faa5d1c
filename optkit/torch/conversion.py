"""From a trained, prepared module to ONNX with Q/DQ nodes, in the form that the pass `quantize` writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx

from optkit.errors import UsageError, VerificationError
from optkit.files import check_writable
from optkit.model import save_model
from optkit.torch.exporter import DynamicAxes
from optkit.torch.insertion import RECIPE, _tensors
from optkit.torch.match import run_onnx
from optkit.torch.plan import make_plan, run_quantize
from optkit.torch.qdq import read_products, read_tensors
from optkit.torch.ranges import check_names
from optkit.torch.trace import layers_of
from optkit.torch.twin import export_twin, input_step, quantizer_nodes, twin_of
from optkit.transform import GivenScales, PassContext

LEVELS = 255


def convert(
    module: torch.nn.Module,
    args: Sequence[Any],
    path: str | Path,
    *,
    dynamic: DynamicAxes | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    verify: bool = True,
) -> Path:
    """Write a prepared module, as it computes in eval mode, as ONNX with Q/DQ nodes and return the path.

    Args:
        module: what `prepare` returned, trained, or a DistributedDataParallel around it; not changed.
        args, dynamic, input_names, output_names: as for `export`.
        verify: run ONNX Runtime on `args`; it must answer as the module does, up to one step of 255 in the output's
            range.

    Raises:
        UsageError: `module` was not prepared, or an argument does not fit it.
        ModelError: it cannot be exported, or is quantized elsewhere than it was trained.
        VerificationError: ONNX Runtime's answer differs; nothing is written.
    """
    inner: Any = getattr(module, "module", module)
    if not isinstance(inner, fx.GraphModule) or RECIPE not in inner.meta:
        raise UsageError(f"convert wants what prepare returned, not a {type(module).__name__}")
    target = check_writable(path)
    tensors = tuple(args)
    recipe = inner.meta[RECIPE]
    names = {"input_names": input_names, "output_names": output_names}
    plan = make_plan(inner, tensors, recipe, dynamic, names)
    quantizers = {n.args[0].name: inner.get_submodule(n.target) for n in quantizer_nodes(inner)}
    for tensor in plan.tensors:
        if not all(i.node in quantizers for i in tensor.insertions):
            raise UsageError(f"{tensor.node!r} would be quantized, but was not trained so; convert as it was prepared")
    layers = layers_of(inner)
    given = GivenScales(
        {t.name: _pair(quantizers[t.insertions[0].node]) for t in plan.tensors},
        {p.name: _scales(inner, p.layer, layers[p.layer]) for p in plan.layers},
    )
    model = export_twin(twin_of(inner, quantized=True), tensors, dynamic, names)
    quantized = run_quantize(model, recipe, plan.exclude, PassContext(given=given))
    check_names(plan, (t.name for t in read_tensors(quantized)), (p.name for p in read_products(quantized)))
    if verify:
        _verify(inner, quantized, tensors)
    save_model(quantized, target)
    return target


def _pair(quantizer: Any) -> tuple[float, int]:
    with torch.no_grad():
        return float(quantizer.step()), int(quantizer.zero_point)


@torch.no_grad()  # type: ignore[untyped-decorator]
def _scales(inner: fx.GraphModule, name: str, layer: Any) -> np.ndarray:
    scale: np.ndarray = layer.quantized(input_step(inner, name))[0].cpu().numpy().astype(np.float32)
    return scale


@torch.no_grad()  # type: ignore[untyped-decorator]
def _verify(inner: fx.GraphModule, model: Any, args: tuple[Any, ...]) -> None:
    modes = [(m, m.training) for m in inner.modules()]
    inner.eval()
    try:
        wanted = [t.float().cpu().numpy() for t in _tensors(inner(*args))]
    finally:
        for part, training in modes:
            part.training = training
    names = [str(v.name) for v in model.graph.outputs]
    found = run_onnx(model, args, names)
    for name, want in zip(names, wanted, strict=True):
        step = max(float(np.ptp(want)) / LEVELS, 1e-6) if want.size else 0.0
        error = float(np.abs(found[name].astype(np.float64) - want).max(initial=0.0))
        if not error <= step:
            raise VerificationError(
                f"output {name!r} of the converted model differs from the module's by {error:.3g}, more than one step "
                f"({step:.3g}); convert with verify=False to inspect the file"
            )
