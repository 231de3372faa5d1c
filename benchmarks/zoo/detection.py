"""What detectors need besides layers: NonMaxSuppression and RoiAlign, computed by PyTorch here and by the ONNX
operators in an exported graph, and boxes.

Pass `TRANSLATIONS` to `optkit.torch.export`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from onnxscript import opset18 as op
from torch import Tensor


@torch.library.custom_op("optkit_zoo::nms", mutates_args=())
def nms(boxes: Tensor, scores: Tensor, limit: int, overlap: float, least: float) -> Tensor:
    """Rows (batch, class, box) of the boxes that are kept, best first within each batch and class.

    Args:
        boxes: (batch, n, 4) corners; scores: (batch, classes, n).
        limit: boxes kept at most for each batch and class.
        overlap: intersection over union from which the lesser box goes.
        least: scores must lie above.
    """
    kept = []
    for batch, rows in enumerate(scores):
        for label, row in enumerate(rows):
            order = row.argsort(descending=True, stable=True)
            order = order[row[order] > least]
            overlaps = intersection_over_union(boxes[batch, order]) > overlap
            gone = torch.zeros(len(order), dtype=torch.bool)
            chosen: list[int] = []
            for place, index in enumerate(order.tolist()):
                if len(chosen) == limit:
                    break
                if not gone[place]:
                    chosen.append(index)
                    gone |= overlaps[place]
            kept += [(batch, label, index) for index in chosen]
    return torch.tensor(kept, dtype=torch.int64).reshape(-1, 3)


@nms.register_fake
def _(boxes: Tensor, _scores: Tensor, _limit: int, _overlap: float, _least: float) -> Tensor:
    return boxes.new_empty((torch.library.get_ctx().new_dynamic_size(), 3), dtype=torch.int64)


def intersection_over_union(boxes: Tensor) -> Tensor:
    """(n, n) of corners (n, 4)."""
    low = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(2)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return shared / (area[:, None] + area[None] - shared)


@torch.library.custom_op("optkit_zoo::roi_align", mutates_args=())
def roi_align(features: Tensor, rois: Tensor, side: int, scale: float) -> Tensor:
    """Mean of 2x2 bilinear samples in each of side x side bins of every region (He et al. 2017), of batch 0."""
    x0, y0, x1, y1 = (rois * scale - 0.5).unbind(1)
    steps = (torch.arange(2 * side) + 0.5) / (2 * side)
    rows, columns = y0[:, None] + steps * (y1 - y0)[:, None], x0[:, None] + steps * (x1 - x0)[:, None]
    height, width = features.shape[2:]

    def weights(places: Tensor, extent: int) -> Tensor:
        """(n, 2 side, extent): how much each line of the features counts; nothing past the border."""
        inside = (places >= -1) & (places <= extent)
        clamped = places.clamp(0, extent - 1)
        distance = (clamped[..., None] - torch.arange(extent)).abs()
        return (1 - distance).clamp(min=0) * inside[..., None]

    samples = torch.einsum("nyh,chw,nxw->ncyx", weights(rows, height), features[0], weights(columns, width))
    return samples.unflatten(2, (side, 2)).unflatten(4, (side, 2)).mean((3, 5))


@roi_align.register_fake
def _(features: Tensor, rois: Tensor, side: int, _scale: float) -> Tensor:
    return features.new_empty((rois.shape[0], features.shape[1], side, side))


def _onnx_nms(boxes: Any, scores: Any, limit: int, overlap: float, least: float) -> Any:
    constants = (
        op.Constant(value_ints=[limit]),
        op.Constant(value_floats=[overlap]),
        op.Constant(value_floats=[least]),
    )
    return op.NonMaxSuppression(boxes, scores, *constants)


def _onnx_roi_align(features: Any, rois: Any, side: int, scale: float) -> Any:
    count = op.Shape(rois, start=0, end=1)
    batches = op.Expand(op.Constant(value_ints=[0]), count)
    return op.RoiAlign(
        features,
        rois,
        batches,
        coordinate_transformation_mode="half_pixel",
        mode="avg",
        output_height=side,
        output_width=side,
        sampling_ratio=2,
        spatial_scale=scale,
    )


TRANSLATIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.optkit_zoo.nms.default: _onnx_nms,
    torch.ops.optkit_zoo.roi_align.default: _onnx_roi_align,
}


def corners(boxes: Tensor) -> Tensor:
    """Centre and size to corners, along the last axis."""
    centre, size = boxes.split(2, -1)
    return torch.cat([centre - size / 2, centre + size / 2], -1)


def decode(deltas: Tensor, anchors: Tensor, variances: tuple[float, float]) -> Tensor:
    """Corners of boxes given as differences to anchors (centre and size), as SSD and Faster R-CNN encode them."""
    centre = anchors[..., :2] + deltas[..., :2] * variances[0] * anchors[..., 2:]
    size = anchors[..., 2:] * (deltas[..., 2:] * variances[1]).clamp(max=math.log(1000 / 16)).exp()
    return corners(torch.cat([centre, size], -1))


def grid(height: int, width: int) -> Tensor:
    """(height * width, 2): x and y of the centres of cells of size 1."""
    rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([columns, rows], -1).flatten(0, 1)
