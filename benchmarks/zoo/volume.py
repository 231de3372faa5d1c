"""Networks for volumes: 3D U-Net (Çiçek et al. 2016), V-Net (Milletari et al. 2016), DeepMedic (Kamnitsas et al.
2017) and VoxResNet (Chen et al. 2018)."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from benchmarks.zoo.seeded import seeded

UNET_SHAPE = (1, 3, 16, 16, 16)
VNET_SHAPE = (1, 1, 16, 16, 16)
VOX_SHAPE = (1, 1, 32, 32, 32)
MODALITIES, NEAR, FAR = 4, 25, 19
DEEPMEDIC = (30, 30, 40, 40, 40, 40, 50, 50)


def conv_bn(cin: int, cout: int, kernel: int = 3, act: type[nn.Module] = nn.ReLU, padded: bool = True) -> nn.Sequential:
    conv = nn.Conv3d(cin, cout, kernel, padding=kernel // 2 if padded else 0)
    return nn.Sequential(conv, nn.BatchNorm3d(cout), act())


class UNet3d(nn.Module):
    """Channels double before each pooling, so that there is no bottleneck (section 2 of the paper)."""

    def __init__(self, cin: int = 3, classes: int = 3, base: int = 32, depth: int = 3) -> None:
        super().__init__()
        widths = [base * 2**level for level in range(depth + 2)]
        ins = [cin, *widths[1:-1]]
        halves = [cin, *widths[1:]]
        self.down = nn.ModuleList(
            nn.Sequential(conv_bn(halves[i], widths[i]), conv_bn(widths[i], widths[i + 1])) for i in range(len(ins))
        )
        self.pool = nn.MaxPool3d(2)
        ups = list(reversed(widths[1:]))
        self.up = nn.ModuleList(nn.ConvTranspose3d(w, w, 2, 2) for w in ups[:-1])
        self.merge = nn.ModuleList(nn.Sequential(conv_bn(a + b, b), conv_bn(b, b)) for a, b in itertools.pairwise(ups))
        self.head = nn.Conv3d(ups[-1], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for level in self.down:
            x = level(self.pool(x) if skips else x)
            skips.append(x)
        for up, merge, skip in zip(self.up, self.merge, reversed(skips[:-1]), strict=True):
            x = merge(torch.cat([up(x), skip], 1))
        y: Tensor = self.head(x)
        return y


class Residual(nn.Module):
    """`count` 5x5x5 convolutions and what came in, added; each with PReLU."""

    def __init__(self, cin: int, channels: int, count: int) -> None:
        super().__init__()
        sizes = [cin, *[channels] * count]
        self.convs = nn.Sequential(*(conv_bn(a, b, 5, nn.PReLU) for a, b in itertools.pairwise(sizes)))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.convs(x)
        return y + x


class VNet(nn.Module):
    """Strided convolutions down, transposed ones up, residual stages."""

    def __init__(self, base: int = 16, counts: tuple[int, ...] = (1, 2, 3, 3, 3)) -> None:
        super().__init__()
        widths = [base * 2**level for level in range(len(counts))]
        self.stages = nn.ModuleList(Residual(w, w, n) for w, n in zip(widths, counts, strict=True))
        self.stages[0] = Residual(1, base, counts[0])
        self.down = nn.ModuleList(self.half(a, b) for a, b in itertools.pairwise(widths))
        pairs = list(zip(widths, counts, strict=True))[-2::-1]
        self.up = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose3d(4 * w if i else 2 * w, w, 2, 2), nn.PReLU())
            for i, (w, _) in enumerate(pairs)
        )
        self.back = nn.ModuleList(Residual(2 * w, 2 * w, n) for w, n in pairs)
        self.head = nn.Sequential(conv_bn(2 * base, 2, 5, nn.PReLU), nn.Conv3d(2, 2, 1))

    @staticmethod
    def half(cin: int, cout: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv3d(cin, cout, 2, 2), nn.PReLU())

    def forward(self, x: Tensor) -> Tensor:
        skips = [self.stages[0](x)]
        for down, stage in zip(self.down, list(self.stages)[1:], strict=True):
            skips.append(stage(down(skips[-1])))
        y = skips.pop()
        for up, back in zip(self.up, self.back, strict=True):
            y = back(torch.cat([up(y), skips.pop()], 1))
        answer: Tensor = self.head(y).softmax(1)
        return answer


class DeepMedic(nn.Module):
    """Two pathways of unpadded convolutions, the second on a larger surrounding at a third of the resolution."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.near, self.far = self.pathway(), self.pathway()
        self.repeat = nn.Upsample(scale_factor=3, mode="nearest")
        self.head = nn.Sequential(conv_bn(100, 150, 1, nn.PReLU), conv_bn(150, 150, 1, nn.PReLU))
        self.classify = nn.Conv3d(150, classes, 1)

    @staticmethod
    def pathway() -> nn.Sequential:
        sizes = (MODALITIES, *DEEPMEDIC)
        pairs = itertools.pairwise(sizes)
        return nn.Sequential(*(conv_bn(a, b, 3, nn.PReLU, padded=False) for a, b in pairs))

    def forward(self, near: Tensor, far: Tensor) -> Tensor:
        both = torch.cat([self.near(near), self.repeat(self.far(far))], 1)
        y: Tensor = self.classify(self.head(both)).softmax(1)
        return y


class VoxRes(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        half = [nn.BatchNorm3d(channels), nn.ReLU(), nn.Conv3d(channels, channels, 3, padding=1)]
        other = [nn.BatchNorm3d(channels), nn.ReLU(), nn.Conv3d(channels, channels, 3, padding=1)]
        self.branch = nn.Sequential(*half, *other)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.branch(x)
        return x + y


class VoxResNet(nn.Module):
    """Pre-activated residual modules; classifiers at four depths, brought to full size and summed."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        first = nn.Sequential(conv_bn(1, 32), nn.Conv3d(32, 32, 3, padding=1))
        stages = [first]
        for cin in (32, 64, 64):
            norm = [nn.BatchNorm3d(cin), nn.ReLU(), nn.Conv3d(cin, 64, 3, 2, 1)]
            stages.append(nn.Sequential(*norm, VoxRes(64), VoxRes(64)))
        self.stages = nn.ModuleList(stages)
        heads = [nn.Sequential(nn.Conv3d(32, classes, 1))]
        for level in (1, 2, 3):
            up = nn.ConvTranspose3d(64, 64, 2**level, 2**level)
            heads.append(nn.Sequential(up, nn.ReLU(), nn.Conv3d(64, classes, 1)))
        self.heads = nn.ModuleList(heads)

    def forward(self, x: Tensor) -> Tensor:
        scores = []
        for stage, head in zip(self.stages, self.heads, strict=True):
            x = stage(x)
            scores.append(head(x))
        return (scores[0] + scores[1] + scores[2] + scores[3]).softmax(1)


def build_unet3d(seed: int = 0) -> nn.Module:
    """3D U-Net at its published width, padded, on a small volume, in eval mode."""
    return seeded(UNet3d(), UNET_SHAPE, seed)


def build_vnet(seed: int = 0) -> nn.Module:
    """V-Net at its published width, on a small volume, in eval mode."""
    return seeded(VNet(), VNET_SHAPE, seed)


def draw_pathways(generator: torch.Generator) -> tuple[Tensor, ...]:
    """A batch for DeepMedic: patches at full and at a third of the resolution."""
    return tuple(torch.randn(4, MODALITIES, side, side, side, generator=generator) for side in (NEAR, FAR))


def build_deepmedic(seed: int = 0) -> nn.Module:
    """DeepMedic with its 11 layers, in eval mode."""
    return seeded(DeepMedic(), draw_pathways, seed)


def build_voxresnet(seed: int = 0) -> nn.Module:
    """VoxResNet on one modality, in eval mode."""
    return seeded(VoxResNet(), VOX_SHAPE, seed)
