"""SSD300 on VGG-16 (Liu et al. 2016) with its decoding and non-maximum suppression in the graph."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from benchmarks.zoo.detection import decode, grid, nms
from benchmarks.zoo.seeded import seeded, standardize

INPUT_SHAPE = (1, 3, 300, 300)
CLASSES = 21
VGG = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512))
# side of the feature map, size of its boxes and of the next map's, aspect ratios (section 2.2 of the paper)
MAPS = (
    (38, 30, 60, (2,)),
    (19, 60, 111, (2, 3)),
    (10, 111, 162, (2, 3)),
    (5, 162, 213, (2, 3)),
    (3, 213, 264, (2,)),
    (1, 264, 315, (2,)),
)


def convs(*sizes: int) -> list[nn.Module]:
    return [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Conv2d(a, b, 3, padding=1), nn.ReLU())]


def default_boxes() -> Tensor:
    """(8732, 4): centre and size of every default box, relative to the image."""
    boxes = []
    for side, small, large, ratios in MAPS:
        sizes = [(small, small), ((small * large) ** 0.5,) * 2]
        for ratio in ratios:
            sizes += [(small * ratio**0.5, small / ratio**0.5), (small / ratio**0.5, small * ratio**0.5)]
        shapes = torch.tensor(sizes) / 300
        centres = (grid(side, side) / side)[:, None].expand(-1, len(sizes), -1)
        boxes.append(torch.cat([centres, shapes[None].expand(side * side, -1, -1)], -1).flatten(0, 1))
    return torch.cat(boxes).clamp(0, 1)


class ScaledNorm(nn.Module):
    """Each pixel's channels on a sphere of learned radii (ParseNet, Liu et al. 2015)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(x) * (self.scale[:, None, None] + 10.0)


class Ssd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for (cin, *_), widths in zip(((3,), *VGG[:-1]), VGG, strict=True):
            layers += [*([nn.MaxPool2d(2, ceil_mode=True)] if layers else []), *convs(cin, *widths)]
        self.first, self.norm = nn.Sequential(*layers), ScaledNorm(512)
        fc6 = [nn.MaxPool2d(3, 1, 1), nn.Conv2d(512, 1024, 3, padding=6, dilation=6), nn.ReLU()]
        second = [nn.MaxPool2d(2), *convs(512, 512, 512, 512), *fc6, nn.Conv2d(1024, 1024, 1), nn.ReLU()]
        self.later = nn.ModuleList([nn.Sequential(*second)])
        for cin, mid, cout, stride in ((1024, 256, 512, 2), (512, 128, 256, 2), (256, 128, 256, 1), (256, 128, 256, 1)):
            conv = nn.Conv2d(mid, cout, 3, stride, 1 if stride == 2 else 0)
            self.later.append(nn.Sequential(nn.Conv2d(cin, mid, 1), nn.ReLU(), conv, nn.ReLU()))
        channels, counts = (512, 1024, 512, 256, 256, 256), [2 + 2 * len(ratios) for *_, ratios in MAPS]
        pairs = list(zip(channels, counts, strict=True))
        self.boxes = nn.ModuleList(nn.Conv2d(c, 4 * n, 3, padding=1) for c, n in pairs)
        self.classes = nn.ModuleList(nn.Conv2d(c, CLASSES * n, 3, padding=1) for c, n in pairs)
        self.register_buffer("defaults", default_boxes(), persistent=False)

    def predict(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Corners (1, 8732, 4) relative to the image, and probabilities (1, 8732, classes)."""
        x = self.first(x)
        maps = [self.norm(x)]
        for stage in self.later:
            x = stage(x)
            maps.append(x)

        def gather(heads: nn.ModuleList, last: int) -> Tensor:
            rows = [head(m).permute(0, 2, 3, 1).flatten(1) for head, m in zip(heads, maps, strict=True)]
            return torch.cat(rows, 1).unflatten(1, (-1, last))

        return decode(gather(self.boxes, 4), self.defaults, (0.1, 0.2)), gather(self.classes, CLASSES).softmax(2)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        boxes, probabilities = self.predict(image)
        scores = probabilities[:, :, 1:].transpose(1, 2)
        kept = nms(boxes, scores, 20, 0.45, 0.3)
        labels, rows = kept[:, 1], kept[:, 2]
        return boxes[0][rows], scores[0].flatten()[labels * scores.shape[2] + rows], labels + 1


def build(seed: int = 0) -> nn.Module:
    """SSD300 for the 20 classes of VOC with seeded weights, in eval mode."""
    model = Ssd()
    seeded(model, INPUT_SHAPE, seed)
    standardize(model, list(model.classes), INPUT_SHAPE, 0.0, 1.2)
    standardize(model, list(model.boxes), INPUT_SHAPE, 0.0, 1.0)
    return model
