"""ResNet-18 and ResNet-50 (He et al. 2016), with the stride in the 3x3 convolution of a bottleneck (v1.5)."""

from __future__ import annotations

from torch import Tensor, nn

from benchmarks.zoo.seeded import seeded

INPUT_SHAPE = (1, 3, 224, 224)
STAGES = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}


def conv_bn(cin: int, cout: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2 * dilation, dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(cout))


class Block(nn.Module):
    """relu(branch(x) + shortcut(x)), the branch basic (two 3x3) or a bottleneck (1x1, 3x3, 1x1)."""

    def __init__(self, cin: int, width: int, stride: int, bottleneck: bool, dilation: int = 1) -> None:
        super().__init__()
        cout = width * 4 if bottleneck else width
        basic = ((3, stride, width), (3, 1, cout))
        kernels = ((1, 1, width), (3, stride, width), (1, 1, cout)) if bottleneck else basic
        layers: list[nn.Module] = []
        channels = cin
        for kernel, step, out in kernels:
            layers += [conv_bn(channels, out, kernel, step, dilation), nn.ReLU()]
            channels = out
        self.branch = nn.Sequential(*layers[:-1])
        identity = stride == 1 and cin == cout
        self.shortcut: nn.Module = nn.Identity() if identity else conv_bn(cin, cout, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return (self.branch(x) + self.shortcut(x)).relu()


class Trunk(nn.Module):
    """ResNet-50 up to its last block: the outputs of stages 2 to 5, as detectors and segmenters use them.

    Args:
        dilated: how many of the last stages keep their resolution and dilate instead (Chen et al. 2017).
    """

    channels = (256, 512, 1024, 2048)

    def __init__(self, dilated: int = 0) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.stages = nn.ModuleList()
        cin, dilation = 64, 1
        for stage, blocks in enumerate(STAGES[50]):
            keep = stage >= 4 - dilated
            layers = []
            for index in range(blocks):
                stride = 2 if stage and not index and not keep else 1
                layers.append(Block(cin, 64 * 2**stage, stride, True, dilation))
                cin = 256 * 2**stage
                if keep and not index:
                    dilation *= 2
            self.stages.append(nn.Sequential(*layers))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return outputs


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
