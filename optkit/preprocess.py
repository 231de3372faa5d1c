"""How an image becomes a model input: the text form of `--preprocess`, and what it does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from optkit.errors import DataError, UsageError, nearest

if TYPE_CHECKING:
    from PIL.Image import Image

_COLORS = {"rgb": 3, "bgr": 3, "gray": 1}
_KEYS = ("resize", "crop", "mean", "std", "scale", "color", "layout", "augment")
_AUGMENTS = ("flip", "crop")


@dataclass(frozen=True)
class Preprocess:
    """Steps from a decoded image to an array, in this order.

    Attributes:
        resize: shorter side in pixels, or (height, width) for an exact size; None: to the model's own size.
        crop: (height, width) of the centre crop; None: the model's height and width.
        scale: pixels 0..255 are multiplied by this first; 1/255 gives 0..1, 1 leaves them raw.
        mean, std: (pixel * scale - mean) / std, one number or one a channel, in the order of `color`.
        color: "rgb", "bgr" or "gray"; None: gray for a model with one channel, else rgb.
        layout: "nchw" or "nhwc".
        flip: mirror every second image, on average, left to right.
        part: of each side, the least that a random crop before all other steps leaves; 1 leaves all.
    """

    resize: int | tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    color: str | None = None
    layout: str = "nchw"
    flip: bool = False
    part: float = 1.0

    @classmethod
    def parse(cls, text: str | None) -> Preprocess:
        """Reads 'resize=256,crop=224,mean=[0.485,0.456,0.406],std=[0.229,0.224,0.225],color=rgb'.

        `resize=256` is the shorter side, `resize=240x320` an exact height and width; `scale=1` keeps
        pixels in 0..255, e.g. 'scale=1,mean=[127],std=[128]'. `augment=flip`, `augment=crop:0.8` and
        `augment=[flip,crop:0.8]` vary the images, the same way for the same seed: each may be mirrored, or cut to at
        least 0.8 of its width and height anywhere. Raises UsageError with the offending word.
        """
        found: dict[str, str] = {}
        for word in _split(text or ""):
            key, equals, value = (part.strip() for part in word.partition("="))
            if key not in _KEYS:
                raise UsageError(f"preprocess: unknown word {key!r}; {nearest(key, _KEYS)}")
            if not equals or not value:
                raise UsageError(f"preprocess: {key} needs a value, as in '{key}=...'")
            if key in found:
                raise UsageError(f"preprocess: {key} is given twice")
            found[key] = value
        std = _numbers("std", found.get("std", "1"))
        if 0.0 in std:
            raise UsageError("preprocess: std holds a zero; every value divides a channel")
        resize = _size("resize", found["resize"]) if "resize" in found else None
        crop = _size("crop", found["crop"]) if "crop" in found else None
        flip, part = _augment(found.get("augment", ""))
        return cls(
            resize=resize,
            crop=(crop, crop) if isinstance(crop, int) else crop,
            scale=_number("scale", found.get("scale", "1/255")),
            mean=_numbers("mean", found.get("mean", "0")),
            std=std,
            color=_one_of("color", found["color"], tuple(_COLORS)) if "color" in found else None,
            layout=_one_of("layout", found.get("layout", "nchw"), ("nchw", "nhwc")),
            flip=flip,
            part=part,
        )

    def apply(
        self,
        image: Image,
        height: int | None,
        width: int | None,
        channels: int | None,
        rng: np.random.Generator | None = None,
    ) -> np.ndarray:
        """float32 array (1, C, H, W), or (1, H, W, C) for nhwc.

        Args:
            image: as decoded by Pillow.
            height, width, channels: what the model wants; None where the model leaves it open.
            rng: decides about flips and random crops; without it there are none.

        Raises:
            DataError: the image is smaller than the crop, or channels do not fit the model.
        """
        color = self.color or ("gray" if channels == 1 else "rgb")
        if channels is not None and _COLORS[color] != channels:
            raise DataError(f"color={color} gives {_COLORS[color]} channels, the model wants {channels}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, _COLORS[color]):
                raise DataError(f"{name} has {len(values)} values for {_COLORS[color]} channel(s)")
        image = image.convert("L" if color == "gray" else "RGB")
        image = self._fit(image if rng is None else self._varied(image, rng), height, width)
        pixels = np.asarray(image, dtype=np.float32)
        pixels = pixels[:, :, None] if color == "gray" else pixels
        pixels = pixels[:, :, ::-1] if color == "bgr" else pixels
        mean, std = (np.asarray(v, dtype=np.float32) for v in (self.mean, self.std))
        pixels = (pixels * np.float32(self.scale) - mean) / std
        if self.layout == "nchw":
            pixels = pixels.transpose(2, 0, 1)
        return np.ascontiguousarray(pixels[None])

    def _varied(self, image: Image, rng: np.random.Generator) -> Image:
        from PIL.Image import Transpose

        if self.flip and rng.random() < 0.5:
            image = image.transpose(Transpose.FLIP_LEFT_RIGHT)
        if self.part < 1:
            share = rng.uniform(self.part, 1)  # one for both sides: the aspect stays
            width, height = (max(1, round(side * share)) for side in image.size)
            left = int(rng.integers(0, image.width - width + 1))
            top = int(rng.integers(0, image.height - height + 1))
            image = image.crop((left, top, left + width, top + height))
        return image

    def _fit(self, image: Image, height: int | None, width: int | None) -> Image:
        crop = self.crop or (height or 0, width or 0)
        if isinstance(self.resize, tuple):
            image = _resized(image, self.resize[1], self.resize[0])
        elif self.resize is not None:
            ratio = self.resize / min(image.size)
            image = _resized(image, *(max(self.resize, round(side * ratio)) for side in image.size))
        elif self.crop is None and all(crop):
            # nothing was asked for: the smallest size that covers the model's input, keeping the aspect
            ratio = max(crop[1] / image.width, crop[0] / image.height)
            image = _resized(image, max(crop[1], round(image.width * ratio)), max(crop[0], round(image.height * ratio)))
        crop = (crop[0] or image.height, crop[1] or image.width)
        if image.height < crop[0] or image.width < crop[1]:
            raise DataError(
                f"is {image.height}x{image.width} after resizing, smaller than {crop[0]}x{crop[1]}; "
                f"give preprocess a larger resize="
            )
        left, top = round((image.width - crop[1]) / 2), round((image.height - crop[0]) / 2)
        return image.crop((left, top, left + crop[1], top + crop[0]))


def _resized(image: Image, width: int, height: int) -> Image:
    from PIL.Image import Resampling

    if image.size == (width, height):
        return image
    return image.resize((width, height), Resampling.BILINEAR)


def _split(text: str) -> list[str]:
    """Commas outside brackets separate."""
    words, depth, word = [], 0, ""
    for char in text:
        depth += (char in "[(") - (char in "])")
        if char == "," and depth == 0:
            words.append(word)
            word = ""
        else:
            word += char
    return [w for w in (*words, word) if w.strip()]


def _number(key: str, text: str) -> float:
    over, slash, under = text.partition("/")
    try:
        value = float(over) / float(under) if slash else float(over)
    except (ValueError, ZeroDivisionError):
        raise UsageError(f"preprocess: {key}={text} is not a number") from None
    if not np.isfinite(value):
        raise UsageError(f"preprocess: {key}={text} is not finite")
    return value


def _numbers(key: str, text: str) -> tuple[float, ...]:
    return tuple(_number(key, part.strip()) for part in text.strip("[]() ").split(","))


def _size(key: str, text: str) -> int | tuple[int, int]:
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.strip().isdigit() and int(side) > 0 for side in sides):
        raise UsageError(f"preprocess: {key}={text}: a size is one whole number or HEIGHTxWIDTH")
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))


def _augment(text: str) -> tuple[bool, float]:
    """(flip, part) of 'flip', 'crop:0.8' or '[flip,crop:0.8]'."""
    flip, part = False, 1.0
    for word in filter(None, (w.strip() for w in text.strip("[] ").split(","))):
        name, colon, value = word.partition(":")
        if name not in _AUGMENTS:
            raise UsageError(f"preprocess: augment={word}; {nearest(name, _AUGMENTS)}")
        if name == "flip":
            if colon:
                raise UsageError(f"preprocess: augment={word}: flip takes no value")
            flip = True
        else:
            part = _number("augment=crop", value) if value else 0.0
            if not 0 < part <= 1:
                raise UsageError(f"preprocess: augment={word}: crop takes a share above 0 and up to 1, as in crop:0.8")
    return flip, part


def _one_of(key: str, text: str, known: tuple[str, ...]) -> str:
    if text.lower() not in known:
        raise UsageError(f"preprocess: {key}={text}; {nearest(text, known)}")
    return text.lower()
