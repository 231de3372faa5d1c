"""Scales that were found elsewhere, as in quantization-aware training, in the form this pass works with."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from optkit.errors import PassError, nearest
from optkit.transform import Finding, GivenScales
from optkit_passes.quantize.anchors import Anchor
from optkit_passes.quantize.params import Params
from optkit_passes.quantize.placement import Placement


def given_params(
    given: GivenScales, placement: Placement, params: dict[ir.Value, Params], symmetric: bool
) -> list[Finding]:
    """Fills `params` with what was given for every tensor of the placement.

    Raises:
        PassError: a tensor has none, one was given that is not quantized, or those of one group differ.
    """
    names = {str(v.name): v for group in placement.groups for v in group.tensors}
    for name in given.activations:
        if name not in names:
            raise PassError(f"a scale was given for tensor {name!r}, which is not quantized; {_hint(name, names)}")
    for group in placement.groups:
        found = {given.activations.get(str(v.name)) for v in group.tensors}
        if len(found) > 1 or None in found:
            what = "no scale was" if None in found else "different scales were"
            raise PassError(f"{what} given for {', '.join(repr(v.name) for v in group.tensors)}; quantize wants one")
        (pair,) = found
        assert pair is not None
        scale, zero = pair
        kind = np.int8 if symmetric else np.uint8
        if not (np.isfinite(scale) and scale > 0 and np.iinfo(kind).min <= zero <= np.iinfo(kind).max):
            raise PassError(f"tensor {group.tensors[0].name!r}: scale {scale} with zero point {zero} is out of range")
        params.update(dict.fromkeys(group.tensors, Params(np.float32(scale), kind(zero))))
    return [Finding("note", "", f"scales of {len(names)} tensors were given")]


def given_weights(given: GivenScales | None, anchors: Collection[Anchor]) -> dict[ir.Node, np.ndarray]:
    """Scales by node, float32 (channels,) or scalars.

    Raises:
        PassError: they name no node that is quantized, or do not fit its channels.
    """
    if given is None:
        return {}
    nodes = {str(a.node.name): a for a in anchors}
    found = {}
    for name, scale in given.weights.items():
        anchor = nodes.get(name)
        if anchor is None or anchor.weight is None:
            raise PassError(f"weight scales were given for node {name!r}, which has none; {_hint(name, nodes)}")
        if scale.size != 1 and scale.shape != (anchor.weight.shape[anchor.axis],):
            raise PassError(f"node {name!r} has {anchor.weight.shape[anchor.axis]} channels, not {scale.shape} scales")
        found[anchor.node] = scale
    return found


def _hint(name: str, names: Collection[str]) -> str:
    hint = nearest(name, names)
    return hint if hint.startswith("did") else "list them with `optkit inspect`"
