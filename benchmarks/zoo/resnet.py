"""ResNet-18 and ResNet-50 (He et al. 2016), with the stride in the 3x3 convolution of a bottleneck (v1.5)."""

from __future__ import annotations

from torch import Tensor, nn

from benchmarks.zoo.seeded import seeded

INPUT_SHAPE = (1, 3, 224, 224)
STAGES = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}


def conv_bn(cin: int, cout: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(cout))


class Block(nn.Module):
    """relu(branch(x) + shortcut(x)), the branch basic (two 3x3) or a bottleneck (1x1, 3x3, 1x1)."""

    def __init__(self, cin: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        cout = width * 4 if bottleneck else width
        basic = ((3, stride, width), (3, 1, cout))
        kernels = ((1, 1, width), (3, stride, width), (1, 1, cout)) if bottleneck else basic
        layers: list[nn.Module] = []
        channels = cin
        for kernel, step, out in kernels:
            layers += [conv_bn(channels, out, kernel, step), nn.ReLU()]
            channels = out
        self.branch = nn.Sequential(*layers[:-1])
        identity = stride == 1 and cin == cout
        self.shortcut: nn.Module = nn.Identity() if identity else conv_bn(cin, cout, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return (self.branch(x) + self.shortcut(x)).relu()


def build(seed: int = 0, depth: int = 18) -> nn.Module:
    """ResNet of `depth` 18 or 50 with seeded weights, in eval mode."""
    bottleneck = depth >= 50
    layers: list[nn.Module] = [conv_bn(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for stage, blocks in enumerate(STAGES[depth]):
        width = 64 * 2**stage
        for index in range(blocks):
            layers.append(Block(channels, width, 2 if stage and not index else 1, bottleneck))
            channels = width * 4 if bottleneck else width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000)]
    return seeded(nn.Sequential(*layers), INPUT_SHAPE, seed)


def build50(seed: int = 0) -> nn.Module:
    """ResNet-50 with seeded weights, in eval mode."""
    return build(seed, depth=50)
