"""TextCNN (Kim 2014), LSTM and GRU classifiers, CRNN (Shi et al. 2017), and an image+text fusion model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.zoo.lenet import member
from benchmarks.zoo.seeded import CALIBRATION_BATCH, seeded

WORDS, TEXT_SHAPE = 8000, (1, 56)
CRNN_SHAPE = (1, 1, 32, 100)
FUSION_IMAGE, FUSION_TEXT = (1, 3, 64, 64), (1, 16)


class TextCnn(nn.Module):
    """Windows of three, four and five words over 300-dimensional vectors, the maximum over time of each."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, 300)
        self.windows = nn.ModuleList(nn.Conv1d(300, 100, size) for size in (3, 4, 5))
        self.classify = nn.Linear(300, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens).transpose(1, 2)
        y: Tensor = self.classify(torch.cat([window(x).relu().amax(2) for window in self.windows], 1))
        return y


class Recurrent(nn.Module):
    """The last states of both directions, classified."""

    def __init__(self, cell: type[nn.RNNBase], classes: int = 5, layers: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, 128)
        self.cell = cell(128, 128, num_layers=layers, batch_first=True, bidirectional=True)
        self.classify = nn.Linear(256, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        states, _ = self.cell(self.embed(tokens))
        last = torch.cat([states[:, -1, :128], states[:, 0, 128:]], 1)
        y: Tensor = self.classify(last)
        return y


def conv(cin: int, cout: int, kernel: int = 3, norm: bool = False) -> list[nn.Module]:
    layer = nn.Conv2d(cin, cout, kernel, padding=1 if kernel == 3 else 0, bias=not norm)
    return [layer, *([nn.BatchNorm2d(cout)] if norm else []), nn.ReLU()]


class Crnn(nn.Module):
    """A line of text to log-probabilities of 36 characters and the blank, frame by frame, as CTC wants them."""

    def __init__(self, classes: int = 37) -> None:
        super().__init__()
        layers = [*conv(1, 64), nn.MaxPool2d(2), *conv(64, 128), nn.MaxPool2d(2), *conv(128, 256), *conv(256, 256)]
        layers += [nn.MaxPool2d((2, 1)), *conv(256, 512, norm=True), *conv(512, 512, norm=True)]
        self.features = nn.Sequential(*layers, nn.MaxPool2d((2, 1)), *conv(512, 512, 2))
        self.first = nn.LSTM(512, 256, bidirectional=True)
        self.between = nn.Linear(512, 256)
        self.second = nn.LSTM(256, 256, bidirectional=True)
        self.classify = nn.Linear(512, classes)

    def forward(self, image: Tensor) -> Tensor:
        frames = self.features(image).squeeze(2).permute(2, 0, 1)
        states, _ = self.first(frames)
        states, _ = self.second(self.between(states))
        return self.classify(states).log_softmax(2)


class Fusion(nn.Module):
    """A residual network on the image and a GRU on the text; the text gates what the image says."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.image = nn.Sequential(*list(member(32))[:-1])
        self.embed, self.text = nn.Embedding(WORDS, 64), nn.GRU(64, 128, batch_first=True)
        self.gate = nn.Linear(128, 128)
        self.classify = nn.Sequential(nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, classes))

    def forward(self, image: Tensor, tokens: Tensor) -> Tensor:
        states, _ = self.text(self.embed(tokens))
        text = states[:, -1]
        y: Tensor = self.classify(torch.cat([self.image(image) * self.gate(text).sigmoid(), text], 1))
        return y


def build_textcnn(seed: int = 0) -> nn.Module:
    """TextCNN (CNN-non-static) with seeded weights, in eval mode."""
    return seeded(TextCnn(), TEXT_SHAPE, seed)


def build_lstm(seed: int = 0) -> nn.Module:
    """A two-layer bidirectional LSTM classifier, in eval mode."""
    return seeded(Recurrent(nn.LSTM), TEXT_SHAPE, seed)


def build_gru(seed: int = 0) -> nn.Module:
    """A two-layer bidirectional GRU classifier, in eval mode."""
    return seeded(Recurrent(nn.GRU), TEXT_SHAPE, seed)


def build_crnn(seed: int = 0) -> nn.Module:
    """CRNN on 32x100 gray images, in eval mode."""
    return seeded(Crnn(), CRNN_SHAPE, seed)


def draw_fusion(generator: torch.Generator) -> tuple[Tensor, ...]:
    """A batch of images with their texts."""
    image = torch.randn(CALIBRATION_BATCH, *FUSION_IMAGE[1:], generator=generator)
    return image, torch.randint(0, WORDS, (CALIBRATION_BATCH, *FUSION_TEXT[1:]), generator=generator)


def build_fusion(seed: int = 0) -> nn.Module:
    """Image and text to ten classes, in eval mode."""
    return seeded(Fusion(), draw_fusion, seed)
