"""Windows, Fourier transforms, mel weights and ranges, of sizes known when compiling."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from tvm import te, tirx

from optkit.compiler.operators.common import const, static

WINDOWS = {
    "HannWindow": (0.5, 0.5, 0.0),
    "HammingWindow": (25 / 46, 21 / 46, 0.0),
    "BlackmanWindow": (0.42, 0.5, 0.08),
}
"""Coefficients of 1, -cos(t) and cos(2t) (ONNX, operators of these names)."""


def window(size: int, name: str, periodic: bool) -> np.ndarray:
    """A window of `size` samples, in float64."""
    a0, a1, a2 = WINDOWS[name]
    count = size if periodic else size - 1
    t = 2 * np.pi * np.arange(size) / max(count, 1)
    return np.asarray(a0 - a1 * np.cos(t) + a2 * np.cos(2 * t))


def fourier_matrix(points: int, length: int, channels: int, inverse: bool, onesided: bool) -> np.ndarray:
    """The transform as a matrix: (points * channels) to (frequencies * channels), real and imaginary parts in turns.

    `length` is what the signal is cut or padded to. One-sided and inverse, it goes back to real samples.
    """
    one = np.eye(points)
    parts = [one, 1j * one][:channels]
    if inverse and onesided:
        made = [np.fft.irfft(p, length)[..., None] for p in parts]
    else:
        full = [(np.fft.ifft if inverse else np.fft.fft)(p, length) for p in parts]
        kept = [f[:, : length // 2 + 1] if onesided else f for f in full]
        made = [np.stack([f.real, f.imag], -1) for f in kept]
    matrix = np.stack(made, 1)
    return matrix.reshape(points * channels, -1)


def arange(start: te.Tensor, delta: te.Tensor, size: Any) -> te.Tensor:
    """start + i * delta."""
    dtype = str(start.dtype)
    kind = "float32" if dtype in ("float16", "bfloat16") else dtype

    def element(i: Any) -> Any:
        first, step = (t(*[0] * len(t.shape)).astype(kind) for t in (start, delta))
        return (first + i.astype(kind) * step).astype(dtype)

    return te.compute((size,), element, name="range")


def frames(signal: te.Tensor, step: te.Tensor, taps: te.Tensor | None, count: int, length: int) -> te.Tensor:
    """(batch, samples, channels) to (batch, count, length, channels), every frame under the window `taps`."""
    batch, samples, channels = static(signal.shape)
    hop = [0] * len(step.shape)

    def element(b: Any, f: Any, i: Any, c: Any) -> Any:
        at = f * step(*hop).astype("int64") + i
        value = te.if_then_else(at < samples, signal(b, te.min(at, samples - 1), c), const(0, str(signal.dtype)))
        return value if taps is None else value * taps(i)

    return te.compute((batch, count, length, channels), element, name="frames")


def short_transform(framed: te.Tensor, length: te.Tensor, bins: int) -> te.Tensor:
    """The Fourier transform of frames (batch, count, most, channels) of a length that is known at run time only."""
    batch, count, most, channels = static(framed.shape)
    n = te.reduce_axis((0, most), "n")
    size = [0] * len(length.shape)

    def element(b: Any, f: Any, k: Any, part: Any) -> Any:
        valid = length(*size).astype("int64")
        angle = ((k * n) % valid).astype("float64") * const(-2 * math.pi, "float64") / valid.astype("float64")
        cosine, sine = te.cos(angle), te.sin(angle)
        real = framed(b, f, n, 0).astype("float64")
        value = tirx.Select(part == 0, real * cosine, real * sine)
        if channels == 2:
            imaginary = framed(b, f, n, 1).astype("float64")
            value = value + tirx.Select(part == 0, -imaginary * sine, imaginary * cosine)
        return te.sum(te.if_then_else(n < valid, value, const(0, "float64")), axis=n)

    return te.compute((batch, count, bins, 2), element, name="short_transform")


def mel_weights(
    mels: te.Tensor, length: te.Tensor, rate: te.Tensor, lowest: te.Tensor, highest: te.Tensor, shape: Any, dtype: str
) -> te.Tensor:
    """Triangular filters (bins, mels), evenly spaced on the mel scale between two edges (ONNX MelWeightMatrix)."""

    def scalar(t: te.Tensor, kind: str) -> Any:
        return t(*[0] * len(t.shape)).astype(kind)

    def mel(hertz: Any) -> Any:
        return const(2595 / math.log(10), "float64") * te.log(const(1, "float64") + hertz / const(700, "float64"))

    low, high = mel(scalar(lowest, "float64")), mel(scalar(highest, "float64"))
    step = (high - low) / (scalar(mels, "float64") + const(2, "float64"))

    def corner(i: Any) -> Any:
        at = (i.astype("float64") * step + low) * const(math.log(10) / 2595, "float64")
        hertz = const(700, "float64") * (te.exp(at) - const(1, "float64"))
        width = scalar(length, "float64") + const(1, "float64")
        return te.floor(width * hertz / scalar(rate, "float64")).astype("int64")

    points = te.compute((shape[1] + 2,), corner, name="mel_corners")

    def weight(bin_: Any, m: Any) -> Any:
        j = bin_.astype("int64")
        left, centre, right = points(m), points(m + 1), points(m + 2)
        one, zero = const(1, "float64"), const(0, "float64")
        rise = (j - left).astype("float64") / te.max(centre - left, const(1, "int64")).astype("float64")
        fall = (right - j).astype("float64") / te.max(right - centre, const(1, "int64")).astype("float64")
        value = tirx.Select(tirx.all(j >= left, j <= centre), tirx.Select(centre == left, one, rise), zero)
        value = tirx.Select(tirx.all(j >= centre, j < right), fall, value)
        return value.astype(dtype)

    return te.compute(tuple(shape), weight, name="mel_weights")
