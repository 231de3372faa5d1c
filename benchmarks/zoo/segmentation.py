"""U-Net (Ronneberger et al. 2015), FCN-8s (Long et al. 2015) and DeepLabV3 (Chen et al. 2017), the last two on
ResNet-50."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from benchmarks.zoo.resnet import Trunk, conv_bn
from benchmarks.zoo.seeded import seeded

UNET_SHAPE = (1, 1, 256, 256)
INPUT_SHAPE = (1, 3, 224, 224)
CLASSES = 21


def double(cin: int, cout: int) -> nn.Sequential:
    convs = [nn.Conv2d(cin, cout, 3, padding=1), nn.ReLU(), nn.Conv2d(cout, cout, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*convs)


class UNet(nn.Module):
    """Two 3x3 convolutions a level; the way up sees the way down at the same resolution."""

    def __init__(self, cin: int = 1, classes: int = 2, base: int = 64, depth: int = 4) -> None:
        super().__init__()
        widths = [base * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(double(a, b) for a, b in zip([cin, *widths], widths, strict=False))
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, 2) for w in reversed(widths[:-1]))
        self.merge = nn.ModuleList(double(2 * w, w) for w in reversed(widths[:-1]))
        self.head = nn.Conv2d(base, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for level in self.down:
            x = level(self.pool(x) if skips else x)
            skips.append(x)
        for up, merge, skip in zip(self.up, self.merge, reversed(skips[:-1]), strict=True):
            x = merge(torch.cat([skip, up(x)], 1))
        y: Tensor = self.head(x)
        return y


class Fcn(nn.Module):
    """Scores of three resolutions, brought together by transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = Trunk()
        self.scores = nn.ModuleList(nn.Conv2d(c, CLASSES, 1) for c in Trunk.channels[1:])
        self.twice = nn.ModuleList(nn.ConvTranspose2d(CLASSES, CLASSES, 4, 2, 1, bias=False) for _ in range(2))
        self.last = nn.ConvTranspose2d(CLASSES, CLASSES, 16, 8, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        c8, c16, c32 = (score(c) for score, c in zip(self.scores, self.trunk(x)[1:], strict=True))
        y: Tensor = self.last(c8 + self.twice[1](c16 + self.twice[0](c32)))
        return y


class DeepLabV3(nn.Module):
    """Atrous spatial pyramid pooling on a trunk of stride 8, scores resized to the image."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = Trunk(dilated=2)
        rates = ((1, 1), (3, 12), (3, 24), (3, 36))
        self.pyramid = nn.ModuleList(
            nn.Sequential(conv_bn(2048, 256, kernel, 1, rate), nn.ReLU()) for kernel, rate in rates
        )
        self.whole = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv_bn(2048, 256, 1), nn.ReLU())
        head = [conv_bn(5 * 256, 256, 1), nn.ReLU(), conv_bn(256, 256, 3), nn.ReLU(), nn.Conv2d(256, CLASSES, 1)]
        self.head = nn.Sequential(*head)

    def forward(self, x: Tensor) -> Tensor:
        deep = self.trunk(x)[-1]
        whole = self.whole(deep).expand(-1, -1, *deep.shape[2:])
        scores = self.head(torch.cat([*(branch(deep) for branch in self.pyramid), whole], 1))
        return interpolate(scores, size=x.shape[2:], mode="bilinear", align_corners=False)


def build_unet(seed: int = 0) -> nn.Module:
    """U-Net at its published width, padded instead of cropped, in eval mode."""
    return seeded(UNet(), UNET_SHAPE, seed)


def build_unet_tiny(seed: int = 0) -> nn.Module:
    """A U-Net of two levels for tests, in eval mode."""
    return seeded(UNet(1, 2, 8, 2), (1, 1, 32, 32), seed)


def build_fcn(seed: int = 0) -> nn.Module:
    """FCN-8s on ResNet-50 with seeded weights, in eval mode."""
    return seeded(Fcn(), INPUT_SHAPE, seed)


def build_deeplab(seed: int = 0) -> nn.Module:
    """DeepLabV3 on ResNet-50 with seeded weights, in eval mode."""
    return seeded(DeepLabV3(), INPUT_SHAPE, seed)
