"""CIFAR-10 as uint8 arrays, decoded once, with the usual augmentation: crops of the padded image, and mirror images."""

from __future__ import annotations

import io
import os
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
PADDING = 4


def decode(archive: Path, cache: Path | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 images (n, 3, 32, 32) and int64 labels (n,) of a zip with one folder a class, in the order of names.

    Args:
        archive: of JPEG or PNG images.
        cache: folder that keeps the arrays, by default one in the system's folder for temporary files.
    """
    folder = cache or Path(tempfile.gettempdir()) / "optkit-cifar"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{archive.stem}.npz"
    if not path.exists():
        with zipfile.ZipFile(archive) as members:
            names = sorted(n for n in members.namelist() if n.lower().endswith((".jpg", ".jpeg", ".png")))
            images = np.stack([np.asarray(Image.open(io.BytesIO(members.read(n))).convert("RGB")) for n in names])
        classes = [name.split("/")[-2] for name in names]
        labels = np.unique(classes, return_inverse=True)[1]
        partial = folder / f"{archive.stem}.{os.getpid()}.npz"
        np.savez(partial, images=images.transpose(0, 3, 1, 2), labels=labels)
        partial.rename(path)
    arrays = np.load(path)
    return torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"]).long()


def normalize(images: torch.Tensor) -> torch.Tensor:
    """float32 channels-last input of the networks: (image / 255 - MEAN) / STD."""
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    return ((images.float() / 255 - mean) / std).to(memory_format=torch.channels_last)


def augmented(
    images: torch.Tensor, labels: torch.Tensor, batch: int, generator: torch.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """One epoch of shuffled batches, each image cropped at random from its zero-padded self and mirrored half the time.

    The last, smaller batch is left out.
    """
    order = torch.randperm(len(labels), generator=generator)
    side = images.shape[-1]
    span = torch.arange(side)
    for start in range(0, len(labels) - batch + 1, batch):
        chosen = order[start : start + batch]
        x = functional.pad(normalize(images[chosen]), (PADDING,) * 4)
        top, left = torch.randint(0, 2 * PADDING + 1, (2, batch, 1), generator=generator)
        mirror = torch.rand(batch, 1, generator=generator) < 0.5
        columns = torch.where(mirror, left + side - 1 - span, left + span)
        rows = top + span
        index = torch.arange(batch).view(-1, 1, 1)
        # indexed as (batch, row, column, channel), which channels-last memory already is
        x = x.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]]
        yield x.permute(0, 3, 1, 2), labels[chosen]
