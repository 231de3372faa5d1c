"""What training saw is what is shipped: PyTorch, ONNX Runtime and the compiled artifact, within one step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

torch = pytest.importorskip("torch")

import optkit  # noqa: E402
from optkit.model import load_model  # noqa: E402
from optkit.torch import Recipe, convert, export, prepare  # noqa: E402
from optkit.torch.qdq import read_products, read_tensors  # noqa: E402
from tests.torch.qat_models import MODELS, images, make  # noqa: E402

pytestmark = pytest.mark.needs_torch

BITS = {"residual": 4, "concat": 8, "shared": 3, "perceptron": 8}


@pytest.fixture(scope="module", params=list(MODELS))
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, object, Path]:
    """A few steps of training, in which scales, weights and batch statistics move, and the converted model."""
    name = request.param
    module = prepare(make(name), Recipe(weight_bits=BITS[name]), (images(4),), calibration=[images(16)])
    module.train()
    optimizer = torch.optim.SGD(module.parameters(), 0.05, momentum=0.9)
    for step in range(5):
        optimizer.zero_grad()
        module(images(16, seed=step)).square().mean().backward()
        optimizer.step()
    path = tmp_path_factory.mktemp("qat") / f"{name}.onnx"
    assert convert(module, (images(4),), path, dynamic={"x": {0: "batch"}}) == path
    return name, module.eval(), path


def test_three_runtimes_agree(trained: tuple[str, torch.nn.Module, Path], tmp_path: Path) -> None:
    _, module, path = trained
    x = images(7, seed=3)
    with torch.no_grad():
        want = module(x).numpy()
    (onnx,) = ort.InferenceSession(str(path)).run(None, {"x": x.numpy()})
    artifact = optkit.compile(path, input_shapes={"x": x.shape}, output=tmp_path / "x.optk")
    compiled = next(iter(artifact.runner().run({"x": x.numpy()}).values()))
    step = np.ptp(want) / 255
    np.testing.assert_allclose(onnx, want, rtol=0, atol=step)
    np.testing.assert_allclose(compiled, want, rtol=0, atol=step)
    # with exact scales nearly all outputs are the same integers, rescaled alike
    assert np.mean(np.abs(onnx - want) < step / 100) > 0.9
    # in integers: the artifact's kernels, not float ones around dequantized weights
    assert artifact.report["macs"]["by_compute"].get("int8", 0) > 0.99


def test_quantized_where_post_training_quantization_does_it(
    trained: tuple[str, torch.nn.Module, Path], tmp_path: Path
) -> None:
    name, _, path = trained
    exported = export(make(name), (images(4),), tmp_path / "float.onnx", dynamic={"x": {0: "batch"}})
    wanted = optkit.quantize(exported, passes="int8", calib_data={"x": images(8).numpy()})
    learned = load_model(path)
    got, want = read_tensors(learned), read_tensors(wanted)
    assert [len(t.readers) for t in got] == [len(t.readers) for t in want]
    assert [t.everyone for t in got] == [t.everyone for t in want]
    assert len({t.group for t in got}) == len({t.group for t in want})
    kinds = [[n.op_type for n in m.graph if not n.op_type.endswith("Linear")] for m in (learned, wanted)]
    assert kinds[0] == kinds[1]
    assert [p.bias for p in read_products(learned)] == [p.bias for p in read_products(wanted)]


def test_weights_have_the_bits_they_were_trained_with(trained: tuple[str, torch.nn.Module, Path]) -> None:
    name, _, path = trained
    top = 2 ** (BITS[name] - 1) - 1
    products = read_products(load_model(path))
    assert products
    for product in products:
        assert product.q.dtype == np.int8
        assert np.abs(product.q.astype(int)).max() <= top
        assert product.scale.ndim == 1
