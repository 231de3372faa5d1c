"""YOLOv8n (Jocher et al. 2023) with its decoding and non-maximum suppression in the graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from benchmarks.zoo.detection import grid, nms
from benchmarks.zoo.seeded import seeded, standardize

INPUT_SHAPE = (1, 3, 640, 640)
TINY_SHAPE = (1, 3, 64, 64)
BINS, STRIDES = 16, (8, 16, 32)


class Conv(nn.Sequential):
    def __init__(self, cin: int, cout: int, kernel: int = 1, stride: int = 1) -> None:
        conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, bias=False)
        super().__init__(conv, nn.BatchNorm2d(cout, eps=1e-3), nn.SiLU())


class Bottleneck(nn.Module):
    def __init__(self, channels: int, shortcut: bool) -> None:
        super().__init__()
        self.branch, self.shortcut = nn.Sequential(Conv(channels, channels, 3), Conv(channels, channels, 3)), shortcut

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.branch(x)
        return x + y if self.shortcut else y


class C2f(nn.Module):
    """Half the channels go through bottlenecks; every intermediate result is concatenated."""

    def __init__(self, cin: int, cout: int, count: int = 1, shortcut: bool = False) -> None:
        super().__init__()
        half = cout // 2
        self.first, self.last = Conv(cin, cout), Conv((2 + count) * half, cout)
        self.blocks = nn.ModuleList(Bottleneck(half, shortcut) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.first(x).chunk(2, 1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        y: Tensor = self.last(torch.cat(parts, 1))
        return y


class Sppf(nn.Module):
    """Three poolings after each other, all kept (spatial pyramid pooling)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.last = Conv(channels, channels // 2), Conv(2 * channels, channels)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.first(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        y: Tensor = self.last(torch.cat(parts, 1))
        return y


class Cells(nn.Module):
    """The network, in front of what is done with its boxes.

    Args:
        base: channels of the first layer; the last has 16 times as many.
    """

    def __init__(self, base: int = 16, classes: int = 80) -> None:
        super().__init__()
        a, b, c, d = (base * 2**i for i in range(1, 5))
        self.p3 = nn.Sequential(Conv(3, base, 3, 2), Conv(base, a, 3, 2), C2f(a, a, 1, True), Conv(a, b, 3, 2))
        self.p3.append(C2f(b, b, 2, True))
        self.p4 = nn.Sequential(Conv(b, c, 3, 2), C2f(c, c, 2, True))
        self.p5 = nn.Sequential(Conv(c, d, 3, 2), C2f(d, d, 1, True), Sppf(d))
        self.up4, self.up3 = C2f(c + d, c), C2f(b + c, b)
        self.step4, self.down4 = Conv(b, b, 3, 2), C2f(b + c, c)
        self.step5, self.down5 = Conv(c, c, 3, 2), C2f(c + d, d)
        wide, deep = max(16, b // 4, 4 * BINS), max(b, min(classes, 100))
        self.boxes, self.classes = nn.ModuleList(), nn.ModuleList()
        for channels in (b, c, d):
            layers = [Conv(channels, wide, 3), Conv(wide, wide, 3), nn.Conv2d(wide, 4 * BINS, 1)]
            self.boxes.append(nn.Sequential(*layers))
            layers = [Conv(channels, deep, 3), Conv(deep, deep, 3), nn.Conv2d(deep, classes, 1)]
            self.classes.append(nn.Sequential(*layers))
        self.register_buffer("bins", torch.arange(BINS).float(), persistent=False)

    def pyramid(self, x: Tensor) -> tuple[Tensor, ...]:
        p3 = self.p3(x)
        p4 = self.p4(p3)
        p5 = self.p5(p4)
        n4 = self.up4(torch.cat([interpolate(p5, size=p4.shape[2:]), p4], 1))
        n3 = self.up3(torch.cat([interpolate(n4, size=p3.shape[2:]), p3], 1))
        n4 = self.down4(torch.cat([self.step4(n3), n4], 1))
        return n3, n4, self.down5(torch.cat([self.step5(n4), p5], 1))

    def predict(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Corners (batch, n, 4) in pixels and class scores (batch, n, classes) of all n cells."""
        levels = self.pyramid(x)
        sides = torch.cat([head(level).flatten(2) for head, level in zip(self.boxes, levels, strict=True)], 2)
        places = [grid(*level.shape[2:]) for level in levels]
        centres = torch.cat([place * step for place, step in zip(places, STRIDES, strict=True)])
        steps = torch.cat([torch.full_like(place[:, :1], step) for place, step in zip(places, STRIDES, strict=True)])
        # distances to the four sides as the mean of a distribution over bins (Li et al. 2020)
        distances = (sides.transpose(1, 2).unflatten(2, (4, BINS)).softmax(3) * self.bins).sum(3) * steps
        boxes = torch.cat([centres - distances[..., :2], centres + distances[..., 2:]], 2)
        logits = torch.cat([head(level).flatten(2) for head, level in zip(self.classes, levels, strict=True)], 2)
        return boxes, logits.transpose(1, 2).sigmoid()


class Yolo(Cells):
    """Boxes, scores and labels of what was found: as many as there are, in one image of any size.

    Attributes:
        apart: longer than any image's side.
    """

    apart = 4096.0

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        boxes, scores = (rows[0] for rows in self.predict(image))
        best, labels = scores.max(1)
        if self.training:
            return boxes, best, labels
        # boxes of different classes must not suppress each other: they are moved apart
        apart = boxes + (labels * self.apart)[:, None]
        kept = nms(apart[None], best[None, None], 300, 0.45, 0.25)[:, 2]
        return boxes[kept], best[kept], labels[kept]


class DenseYolo(Cells):
    """Boxes and scores of every cell, of as many images as there are: what is left of them is the application's."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.predict(images)


def rare(model: Cells, shape: tuple[int, ...], logit: float) -> Cells:
    """Let few cells see an object."""
    standardize(model, [head[-1] for head in model.classes], shape, logit, 1.5)
    return model


def build(seed: int = 0) -> nn.Module:
    """YOLOv8n with seeded weights, in eval mode."""
    return _weighted(Yolo(), INPUT_SHAPE, -6.0, seed)


def build_dense(seed: int = 0) -> nn.Module:
    """The same network without suppression."""
    return _weighted(DenseYolo(), INPUT_SHAPE, -6.0, seed)


def build_tiny(seed: int = 0) -> nn.Module:
    """A narrow one with ten classes on 64x64 images for tests, in eval mode."""
    return _weighted(Yolo(8, 10), TINY_SHAPE, -2.0, seed)


def build_dense_tiny(seed: int = 0) -> nn.Module:
    """The narrow network without suppression."""
    return _weighted(DenseYolo(8, 10), TINY_SHAPE, -2.0, seed)


def _weighted(model: Cells, shape: tuple[int, ...], logit: float, seed: int) -> Cells:
    seeded(model, shape, seed)
    return rare(model, shape, logit)
