"""Export from PyTorch: dynamic axes by name, nothing of this machine in the file, clear errors."""

from __future__ import annotations

import getpass
import socket
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

torch = pytest.importorskip("torch")

from optkit.errors import ModelError, UsageError, VerificationError  # noqa: E402
from optkit.torch import export  # noqa: E402

pytestmark = pytest.mark.needs_torch


class Small(torch.nn.Module):  # type: ignore[misc]
    """A convolution, batch norm and a reshape that depends on the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.BatchNorm2d(4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(image)).relu().flatten(1)


class Fixed(torch.nn.Module):  # type: ignore[misc]
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(2, 3)


def _small() -> torch.nn.Module:
    torch.manual_seed(0)
    return Small()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.nn.Module, Path]:
    module = _small()
    path = tmp_path_factory.mktemp("export") / "small.onnx"
    args = (torch.randn(1, 3, 8, 8),)
    assert export(module, args, path, dynamic={"image": {0: "batch"}}, output_names=["features"]) == path
    return module, path


@pytest.mark.parametrize("batch", [1, 3, 17])
def test_dynamic_batch(exported: tuple[torch.nn.Module, Path], batch: int) -> None:
    module, path = exported
    x = torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(batch))
    module.eval()
    with torch.no_grad():
        want = module(x).numpy()
    (got,) = ort.InferenceSession(str(path)).run(["features"], {"image": x.numpy()})
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_axis_keeps_its_name(exported: tuple[torch.nn.Module, Path]) -> None:
    graph = onnx.load(exported[1]).graph
    dims = [d.dim_param or d.dim_value for d in graph.input[0].type.tensor_type.shape.dim]
    assert dims == ["batch", 3, 8, 8]
    assert graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_nothing_of_this_machine(exported: tuple[torch.nn.Module, Path]) -> None:
    data = exported[1].read_bytes()
    here = [str(Path(__file__).resolve().parent), str(Path(torch.__file__).parent), "site-packages", ".py"]
    here += [socket.gethostname(), "stack_trace", "pkg.torch"]
    user = getpass.getuser()
    assert not [word for word in [*here, f"/{user}/"] if word.encode() in data]
    model = onnx.load(exported[1])
    assert not model.metadata_props and not model.doc_string
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


def test_module_keeps_its_mode(tmp_path: Path) -> None:
    module = _small().train()
    module.conv.eval()
    export(module, (torch.randn(1, 3, 8, 8),), tmp_path / "m.onnx")
    assert module.training and module.norm.training and not module.conv.training


def test_fixed_axis_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot trace Fixed.*(inferred|conflict)"):
        export(Fixed(), (torch.randn(2, 3),), tmp_path / "m.onnx", dynamic={"x": {0: "rows"}})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"dynamic": {"imag": {0: "batch"}}}, "did you mean 'image'"),
        ({"dynamic": {"image": {4: "batch"}}}, "no axis 4"),
        ({"opset": 11}, "opset 11 is too old"),
        ({"input_names": ["a", "b"]}, "2 input names for 1 inputs"),
    ],
)
def test_wrong_arguments(tmp_path: Path, arguments: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        export(_small(), (torch.randn(1, 3, 8, 8),), tmp_path / "m.onnx", **arguments)


def test_wrong_input_shape_is_the_modules_own_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"Small does not run on inputs of shape \[1, 5, 8, 8\]"):
        export(_small(), (torch.randn(1, 5, 8, 8),), tmp_path / "m.onnx")


def test_disagreement_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optkit.torch.exporter.NORM_TOLERANCE", -1.0)
    with pytest.raises(VerificationError, match="differs from PyTorch"):
        export(_small(), (torch.randn(1, 3, 8, 8),), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
