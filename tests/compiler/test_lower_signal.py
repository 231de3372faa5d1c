"""Windows, Fourier transforms, ranges, centred crops and dropout against ONNX Runtime or numpy."""

from __future__ import annotations

import numpy as np
import pytest

from optkit.errors import UnsupportedError
from tests.compiler.bundle import Bundle, run


def test_transforms() -> None:
    b = Bundle(opset=17)
    real, both = b.input(2, 6, 10, 1), b.input(2, 6, 10, 2)
    for axis in (1, 2):
        b.case(b.op("DFT", real, axis=axis), f"real {axis}")
        b.case(b.op("DFT", real, axis=axis, onesided=1), f"one-sided {axis}")
        b.case(b.op("DFT", both, axis=axis), f"complex {axis}")
        b.case(b.op("DFT", both, axis=axis, inverse=1), f"inverse {axis}")
    for length in (4, 16):
        size = b.const(np.array(length))
        b.case(b.op("DFT", real, size, axis=2, onesided=1), f"cut or padded to {length}")
    signal = b.input(2, 40, 1)
    taps = b.const(np.hanning(8).astype("float32"))
    b.case(b.op("STFT", signal, b.const(np.array(4)), taps), "windowed frames")
    b.case(b.op("STFT", signal, b.const(np.array(5)), "", b.const(np.array(10)), onesided=0), "plain frames")
    b.check()


def test_axis_known_at_run_time_only() -> None:
    for axis in (1, -2):
        b = Bundle(opset=20)
        x, at = b.input(2, 6, 6, 1), b.input(dtype="int64", values=np.array(axis))
        b.case(b.op("DFT", x, "", at), "axis")
        model = b.model()
        model.graph.outputs[0].producer().inputs[0].shape = model.graph.outputs[0].shape
        from optkit.compiler.build import build
        from optkit.registry import find_target

        found = run(build(model, find_target("cpu")), [b.feeds[x], b.feeds[at]])[0]
        wanted = np.fft.fft(b.feeds[x][..., 0], axis=axis % 4)
        np.testing.assert_allclose(found[..., 0] + 1j * found[..., 1], wanted, rtol=1e-4, atol=1e-4)


def test_windows_and_mel_weights() -> None:
    b = Bundle(opset=17)
    for name in ("HannWindow", "HammingWindow", "BlackmanWindow"):
        for periodic in (0, 1):
            b.case(b.op(name, b.const(np.array(12)), periodic=periodic), f"{name} {periodic}")
    numbers = [np.array(8), np.array(64), np.array(8000), np.float32(100.0), np.float32(3500.0)]
    b.case(b.op("MelWeightMatrix", *[b.const(np.asarray(n)) for n in numbers]), "mel")
    b.case(b.input(1), "an input")
    b.check(limit=1e-4)


def test_crops_and_pads() -> None:
    b = Bundle()
    x = b.input(5, 8, 3)
    b.case(b.op("CenterCropPad", x, b.const(np.array([3, 9, 3]))), "crop and pad")
    b.case(b.op("CenterCropPad", x, b.const(np.array([10, 5])), axes=[-3, 1]), "two axes")
    built = b.build()
    found = run(built, [b.feeds[x]])
    data = b.feeds[x]
    wanted = np.zeros((3, 9, 3), "float32")
    wanted[:, :8] = data[1:4]
    np.testing.assert_array_equal(found[0], wanted)
    wanted = np.zeros((10, 5, 3), "float32")
    wanted[2:7] = data[:, 1:6]
    np.testing.assert_array_equal(found[1], wanted)


def test_dropout() -> None:
    b = Bundle()
    x = b.input(20, 30)
    ratio, on = b.input(dtype="float32", values=np.array(0.25)), b.input(dtype="bool", values=np.array(True))
    for value in b.op("Dropout", x, ratio, on, outputs=2, seed=3):
        b.case(value, "training")
    for value in b.op("Dropout", x, outputs=2):
        b.case(value, "inference")
    built = b.build()
    y, mask, same, ones = run(built, [b.feeds[i.name] for i in built.inputs])
    assert 0.6 < mask.mean() < 0.9
    np.testing.assert_allclose(y, np.where(mask, b.feeds[x] / 0.75, 0), rtol=1e-6)
    np.testing.assert_array_equal(same, b.feeds[x])
    assert ones.all()
    b.feeds[on] = np.array(False)
    y, mask = run(built, [b.feeds[i.name] for i in built.inputs])[:2]
    np.testing.assert_array_equal(y, b.feeds[x])
    assert mask.all()


def test_dropout_without_a_seed_is_refused() -> None:
    b = Bundle()
    on = b.input(dtype="bool", values=np.array(True))
    b.case(b.op("Dropout", b.input(3), b.const(np.float32(0.5)), on), "training")
    with pytest.raises(UnsupportedError, match="seed"):
        b.build()
