"""MobileNetV3-Large (Howard et al. 2019) and EfficientNet-B0 (Tan and Le 2019): inverted residuals that squeeze
and excite."""

from __future__ import annotations

from torch import Tensor, nn

from benchmarks.zoo.seeded import seeded

INPUT_SHAPE = (1, 3, 224, 224)
# kernel, hidden channels, output channels, squeeze, hard swish, stride (table 1 of the paper)
MOBILENET_V3 = (
    (3, 16, 16, 0, 0, 1),
    (3, 64, 24, 0, 0, 2),
    (3, 72, 24, 0, 0, 1),
    (5, 72, 40, 1, 0, 2),
    (5, 120, 40, 1, 0, 1),
    (5, 120, 40, 1, 0, 1),
    (3, 240, 80, 0, 1, 2),
    (3, 200, 80, 0, 1, 1),
    (3, 184, 80, 0, 1, 1),
    (3, 184, 80, 0, 1, 1),
    (3, 480, 112, 1, 1, 1),
    (3, 672, 112, 1, 1, 1),
    (5, 672, 160, 1, 1, 2),
    (5, 960, 160, 1, 1, 1),
    (5, 960, 160, 1, 1, 1),
)
# expansion, kernel, stride of the first repeat, output channels, repeats (table 1 of the paper)
EFFICIENTNET_B0 = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


def conv_bn(cin: int, cout: int, kernel: int, stride: int = 1, *, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(cout)]


class SqueezeExcite(nn.Module):
    """Scale every channel by what the means of all channels say (Hu et al. 2018)."""

    def __init__(self, channels: int, squeezed: int, act: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        down, up = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)
        self.scale = nn.Sequential(nn.AdaptiveAvgPool2d(1), down, act, up, gate)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x * self.scale(x)
        return y


class InvertedResidual(nn.Module):
    def __init__(
        self,
        cin: int,
        hidden: int,
        cout: int,
        kernel: int,
        stride: int,
        act: type[nn.Module],
        squeeze: nn.Module | None,
    ) -> None:
        super().__init__()
        layers = [*conv_bn(cin, hidden, 1), act()] if hidden != cin else []
        layers += [*conv_bn(hidden, hidden, kernel, stride, groups=hidden), act()]
        layers += [squeeze] if squeeze else []
        self.branch = nn.Sequential(*layers, *conv_bn(hidden, cout, 1))
        self.residual = stride == 1 and cin == cout

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.branch(x)
        return x + y if self.residual else y


def eighth(width: float) -> int:
    """The multiple of 8 next to `width`, but at least nine tenths of it."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * width else rounded + 8


def build_mobilenet_v3(seed: int = 0) -> nn.Module:
    """MobileNetV3-Large with seeded weights, in eval mode."""
    layers: list[nn.Module] = [*conv_bn(3, 16, 3, 2), nn.Hardswish()]
    channels = 16
    for kernel, hidden, cout, squeeze, swish, stride in MOBILENET_V3:
        excite = SqueezeExcite(hidden, eighth(hidden / 4), nn.ReLU(), nn.Hardsigmoid()) if squeeze else None
        act = nn.Hardswish if swish else nn.ReLU
        layers.append(InvertedResidual(channels, hidden, cout, kernel, stride, act, excite))
        channels = cout
    layers += [*conv_bn(160, 960, 1), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    layers += [nn.Linear(960, 1280), nn.Hardswish(), nn.Linear(1280, 1000)]
    return seeded(nn.Sequential(*layers), INPUT_SHAPE, seed)


def build_efficientnet_b0(seed: int = 0) -> nn.Module:
    """EfficientNet-B0 with seeded weights, in eval mode."""
    layers: list[nn.Module] = [*conv_bn(3, 32, 3, 2), nn.SiLU()]
    channels = 32
    for expansion, kernel, stride, cout, repeats in EFFICIENTNET_B0:
        for index in range(repeats):
            hidden = channels * expansion
            excite = SqueezeExcite(hidden, channels // 4, nn.SiLU(), nn.Sigmoid())
            step = 1 if index else stride
            layers.append(InvertedResidual(channels, hidden, cout, kernel, step, nn.SiLU, excite))
            channels = cout
    layers += [*conv_bn(320, 1280, 1), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000)]
    return seeded(nn.Sequential(*layers), INPUT_SHAPE, seed)
