"""Faster R-CNN (Ren et al. 2015) and Mask R-CNN (He et al. 2017) on ResNet-50 with a feature pyramid (Lin et al.
2017): proposals, aligned regions and detections, each as many as there are."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d

from benchmarks.zoo.detection import decode, grid, nms, roi_align
from benchmarks.zoo.resnet import Trunk
from benchmarks.zoo.seeded import seeded, standardize

INPUT_SHAPE = (1, 3, 256, 256)
CLASSES, WIDTH = 91, 256
STRIDES, RATIOS = (4, 8, 16, 32, 64), (0.5, 1.0, 2.0)
CANDIDATES, PROPOSALS, DETECTIONS = 200, 100, 10


def anchors(image: int, stride: int) -> Tensor:
    """(cells * ratios, 4): centre and size, of area (8 stride) squared."""
    shapes = torch.tensor([[8 * stride / ratio**0.5, 8 * stride * ratio**0.5] for ratio in RATIOS])
    cells = math.ceil(image / stride)
    centres = (grid(cells, cells) * stride)[:, None].expand(-1, len(RATIOS), -1)
    return torch.cat([centres, shapes[None].expand(cells * cells, -1, -1)], -1).flatten(0, 1)


class Pyramid(nn.Module):
    """Features of one width at strides 4 to 64."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = Trunk()
        self.inner = nn.ModuleList(nn.Conv2d(c, WIDTH, 1) for c in Trunk.channels)
        self.outer = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in Trunk.channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        sides = [inner(c) for inner, c in zip(self.inner, self.trunk(x), strict=True)]
        for index in (2, 1, 0):
            sides[index] = sides[index] + interpolate(sides[index + 1], scale_factor=2.0)
        levels = [outer(side) for outer, side in zip(self.outer, sides, strict=True)]
        return [*levels, max_pool2d(levels[-1], 1, 2)]


class Proposals(nn.Module):
    """Regions that look like objects: the best of each level, those that overlap suppressed."""

    def __init__(self, image: int) -> None:
        super().__init__()
        self.image = image
        self.conv, self.score = nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, len(RATIOS), 1)
        self.box = nn.Conv2d(WIDTH, 4 * len(RATIOS), 1)
        for level, stride in enumerate(STRIDES):
            self.register_buffer(f"anchors{level}", anchors(image, stride), persistent=False)

    def forward(self, levels: list[Tensor]) -> Tensor:
        boxes, scores, apart = [], [], []
        for index, level in enumerate(levels):
            x = self.conv(level).relu()
            score = self.score(x).permute(0, 2, 3, 1).flatten().sigmoid()
            delta = self.box(x).permute(0, 2, 3, 1).reshape(-1, 4)
            best, rows = score.topk(min(CANDIDATES, score.shape[0]))
            box = decode(delta[rows], getattr(self, f"anchors{index}")[rows], (1.0, 1.0)).clamp(0, self.image)
            boxes.append(box)
            scores.append(best)
            apart.append(box + 2.0 * self.image * index)
        kept = nms(torch.cat(apart)[None], torch.cat(scores)[None, None], PROPOSALS, 0.7, 0.0)
        return torch.cat(boxes)[kept[:, 2]]


def pool(levels: list[Tensor], rois: Tensor, side: int) -> Tensor:
    """Each region from the level that its size belongs to (equation 1 of the pyramid's paper)."""
    size = ((rois[:, 2] - rois[:, 0]) * (rois[:, 3] - rois[:, 1])).sqrt()
    wanted = (4 + (size / 224 + 1e-6).log2()).floor().clamp(2, 5) - 2
    pooled = roi_align(levels[0], rois, side, 1 / STRIDES[0])
    for index in (1, 2, 3):
        here = (wanted == index)[:, None, None, None]
        pooled = torch.where(here, roi_align(levels[index], rois, side, 1 / STRIDES[index]), pooled)
    return pooled


class Rcnn(nn.Module):
    """Boxes, scores, labels, and with `masks` a 28x28 mask of each detection."""

    def __init__(self, masks: bool, image: int = INPUT_SHAPE[2]) -> None:
        super().__init__()
        self.image = image
        self.pyramid, self.proposals = Pyramid(), Proposals(image)
        self.hidden = nn.Sequential(nn.Linear(WIDTH * 49, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU())
        self.classify, self.refine = nn.Linear(1024, CLASSES), nn.Linear(1024, 4 * CLASSES)
        convs = [layer for _ in range(4) for layer in (nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.ReLU())]
        up = [nn.ConvTranspose2d(WIDTH, WIDTH, 2, 2), nn.ReLU(), nn.Conv2d(WIDTH, CLASSES, 1)]
        self.mask = nn.Sequential(*convs, *up) if masks else None

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        levels = self.pyramid(image)
        rois = self.proposals(levels)
        x = self.hidden(pool(levels, rois, 7).flatten(1))
        scores = self.classify(x).softmax(1)[:, 1:].T
        regions = torch.cat([(rois[:, :2] + rois[:, 2:]) / 2, rois[:, 2:] - rois[:, :2]], 1)
        deltas = self.refine(x).unflatten(1, (CLASSES, 4))[:, 1:].transpose(0, 1)
        boxes = decode(deltas, regions[None], (0.1, 0.2)).clamp(0, self.image)
        # every class has boxes of its own: classes take the place of the batch
        kept = nms(boxes, scores[:, None], DETECTIONS, 0.5, 0.3)
        labels, rows = kept[:, 0], kept[:, 2]
        found = boxes[labels, rows]
        answer = (found, scores[labels, rows], labels + 1)
        if self.mask is None:
            return answer
        shapes = self.mask(pool(levels, found, 14)).sigmoid()
        return (*answer, shapes[torch.arange(shapes.shape[0]), labels + 1])


def build(seed: int = 0, masks: bool = False) -> nn.Module:
    """Faster R-CNN on 256x256 images with seeded weights, in eval mode."""
    model = Rcnn(masks)
    seeded(model.pyramid, INPUT_SHAPE, seed)
    for index, part in enumerate((model.proposals, model.hidden, model.classify, model.refine, model.mask)):
        if part is not None:
            seeded(part, (), seed + 1 + index)
    standardize(model, [model.proposals.score], INPUT_SHAPE, 0.0, 1.0)
    standardize(model, [model.proposals.box], INPUT_SHAPE, 0.0, 0.3)
    standardize(model, [model.classify], INPUT_SHAPE, 0.0, 2.0)
    standardize(model, [model.refine], INPUT_SHAPE, 0.0, 1.0)
    return model.eval()


def build_mask(seed: int = 0) -> nn.Module:
    """Mask R-CNN on 256x256 images with seeded weights, in eval mode."""
    return build(seed, masks=True)
