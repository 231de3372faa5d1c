"""SE-ResNet-50 (Hu et al. 2018), and an image-embedding network on a ResNet-18 (Schroff et al. 2015, FaceNet)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import normalize

from benchmarks.zoo.mobile import SqueezeExcite
from benchmarks.zoo.resnet import STAGES, Block, conv_bn
from benchmarks.zoo.seeded import seeded

INPUT_SHAPE = (1, 3, 224, 224)
EMBEDDING_SHAPE = (1, 3, 112, 112)


def trunk(depth: int, squeeze: bool) -> list[nn.Module]:
    """Everything before the classifier, and the mean over the image."""
    bottleneck = depth >= 50
    layers: list[nn.Module] = [conv_bn(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for stage, blocks in enumerate(STAGES[depth]):
        width = 64 * 2**stage
        for index in range(blocks):
            block = Block(channels, width, 2 if stage and not index else 1, bottleneck)
            channels = width * 4 if bottleneck else width
            if squeeze:
                block.branch.append(SqueezeExcite(channels, channels // 16, nn.ReLU(), nn.Sigmoid()))
            layers.append(block)
    return [*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()]


class Normalized(nn.Module):
    """Vectors of length one, so that a dot product is a cosine."""

    def forward(self, x: Tensor) -> Tensor:
        return normalize(x)


def build(seed: int = 0) -> nn.Module:
    """SE-ResNet-50 with seeded weights, in eval mode."""
    return seeded(nn.Sequential(*trunk(50, squeeze=True), nn.Linear(2048, 1000)), INPUT_SHAPE, seed)


def build_embedding(seed: int = 0) -> nn.Module:
    """Faces of 112x112 to 128 numbers on the unit sphere, in eval mode."""
    return seeded(nn.Sequential(*trunk(18, squeeze=False), nn.Linear(512, 128), Normalized()), EMBEDDING_SHAPE, seed)
