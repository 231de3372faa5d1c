"""A Siamese tracker (Bertinetto et al. 2016), a spatial transformer (Jaderberg et al. 2015), and a convolutional
autoencoder (Masci et al. 2011, with transposed convolutions)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, conv2d, grid_sample

from benchmarks.zoo.lenet import INPUT_SHAPE as DIGIT
from benchmarks.zoo.seeded import seeded

TEMPLATE, SEARCH = (1, 3, 127, 127), (1, 3, 255, 255)
PICTURE = (1, 3, 32, 32)


def conv_bn(cin: int, cout: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(cin, cout, kernel, stride, groups=groups), nn.BatchNorm2d(cout), nn.ReLU()]


class SiamFc(nn.Module):
    """How well a template fits at each place of a search image: the template's features are the filter."""

    def __init__(self) -> None:
        super().__init__()
        layers = [*conv_bn(3, 96, 11, 2), nn.MaxPool2d(3, 2), *conv_bn(96, 256, 5, groups=2), nn.MaxPool2d(3, 2)]
        layers += [*conv_bn(256, 384, 3), *conv_bn(384, 384, 3, groups=2)]
        self.features = nn.Sequential(*layers, nn.Conv2d(384, 256, 3, groups=2))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, template: Tensor, search: Tensor) -> Tensor:
        return 1e-3 * conv2d(self.features(search), self.features(template)) + self.bias


class SpatialTransformer(nn.Module):
    """A localization network finds an affine map, the image is sampled through it and classified."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Conv2d(1, 8, 7), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(8, 10, 5), nn.MaxPool2d(2), nn.ReLU()]
        self.locate = nn.Sequential(*layers, nn.Flatten(), nn.Linear(90, 32), nn.ReLU(), nn.Linear(32, 6))
        layers = [nn.Conv2d(1, 10, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(10, 20, 5), nn.MaxPool2d(2), nn.ReLU()]
        self.classify = nn.Sequential(*layers, nn.Flatten(), nn.Linear(320, 50), nn.ReLU(), nn.Linear(50, 10))

    def forward(self, x: Tensor) -> Tensor:
        theta = 0.1 * self.locate(x) + torch.tensor([1.0, 0, 0, 0, 1, 0])
        grid = affine_grid(theta.unflatten(1, (2, 3)), list(x.shape), align_corners=False)
        y: Tensor = self.classify(grid_sample(x, grid, align_corners=False)).log_softmax(1)
        return y


def build_siamese(seed: int = 0) -> nn.Module:
    """SiamFC with seeded weights, in eval mode."""

    def draw(generator: torch.Generator) -> tuple[Tensor, ...]:
        # the template's batch is the number of filters
        search = torch.randn(4, *SEARCH[1:], generator=generator)
        return search[:, :, 64:191, 64:191], search

    return seeded(SiamFc(), draw, seed)


def build_transformer(seed: int = 0) -> nn.Module:
    """A spatial transformer on 28x28 digits, in eval mode."""
    return seeded(SpatialTransformer(), DIGIT, seed)


def build_autoencoder(seed: int = 0) -> nn.Module:
    """32x32 pictures through 64x4x4 numbers and back, in eval mode."""
    down = [nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1)]
    up: list[nn.Module] = [nn.ReLU()]
    for cin, cout in ((64, 32), (32, 16), (16, 3)):
        up += [nn.ConvTranspose2d(cin, cout, 3, 2, 1, output_padding=1), nn.ReLU()]
    return seeded(nn.Sequential(*down, *up[:-1], nn.Sigmoid()), PICTURE, seed)
