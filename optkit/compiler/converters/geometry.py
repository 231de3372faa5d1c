"""Reading windows, padding and broadcast layouts from ONNX attributes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax

from optkit.compiler.lowering import Node
from optkit.compiler.operators.conv import Window
from optkit.compiler.operators.windows import Windows
from optkit.compiler.values import PLAIN, Value


def static_shape(value: Value, *axes: int) -> bool:
    """Whether the given axes have known extents."""
    return all(isinstance(value.shape[a], int) for a in axes)


def window(node: Node, kernel: Sequence[int], size: Sequence[int]) -> Window:
    """The node's two-dimensional window; auto_pad is resolved with the input's height and width."""
    strides = list(node.get("strides") or (1, 1))
    dilations = list(node.get("dilations") or (1, 1))
    pads = list(node.get("pads") or (0, 0, 0, 0))
    auto = node.get("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        for i in range(2):
            out = -(-size[i] // strides[i])
            total = max((out - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 - size[i], 0)
            small, large = total // 2, total - total // 2
            pads[i], pads[i + 2] = (small, large) if auto == "SAME_UPPER" else (large, small)
    elif auto == "VALID":
        pads = [0, 0, 0, 0]
    return Window(
        (int(kernel[0]), int(kernel[1])),
        (int(strides[0]), int(strides[1])),
        (int(dilations[0]), int(dilations[1])),
        (int(pads[0]), int(pads[1]), int(pads[2]), int(pads[3])),
    )


def open_size(node: Node, kernel: Sequence[int]) -> Sequence[int] | None:
    """A size that gives the padding of images of any size; None where the padding depends on the size."""
    same = str(node.get("auto_pad", "NOTSET")).startswith("SAME")
    return None if same and any(s != 1 for s in node.get("strides") or (1, 1)) else kernel


def windows(node: Node, kernel: Sequence[int]) -> Windows:
    """The node's window in any number of dimensions."""
    rank = len(kernel)
    strides, dilations = (tuple(node.get(name) or [1] * rank) for name in ("strides", "dilations"))
    auto = node.get("auto_pad", "NOTSET")
    pads = tuple(node.get("pads") or [0] * (2 * rank)) if auto == "NOTSET" else (0,) * (2 * rank)
    same = auto if auto.startswith("SAME") else ""
    ceil = bool(node.get("ceil_mode", 0))
    return Windows(tuple(kernel), strides, dilations, pads[:rank], pads[rank:], same, ceil)


def channel_constant(values: np.ndarray, block: int, spatial: int, dtype: str) -> Any:
    """(C,) as a Relax constant that broadcasts over (N, C/b, *spatial, b), or (N, C, *spatial) when plain."""
    if block == PLAIN:
        return relax.const(values.reshape(1, -1, *[1] * spatial).astype(dtype), dtype)
    padded = np.pad(values, (0, -len(values) % block)).reshape(1, -1, *[1] * spatial, block)
    return relax.const(padded.astype(dtype), dtype)
