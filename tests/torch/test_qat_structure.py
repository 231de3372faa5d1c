"""What stays float and why, options that change what is quantized, and bad requests in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from optkit.errors import DataError, ModelError, UsageError  # noqa: E402
from optkit.torch import Recipe, convert, prepare  # noqa: E402
from optkit.torch.trace import layers_of  # noqa: E402
from tests.torch.qat_models import images, make  # noqa: E402

pytestmark = pytest.mark.needs_torch


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


class Attention(nn.Module):
    """Linear layers, and an attention that torch.fx sees as one operator."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.mix, self.b = nn.Linear(8, 8), nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        return self.b(x + self.mix(x, x, x, need_weights=False)[0])


def _bits(module: torch.nn.Module) -> dict[str, int]:
    return {name: layer.bits for name, layer in layers_of(module).items()}


def test_all_layers_have_the_recipes_bits_and_learned_scales() -> None:
    module = prepare(make("residual"), Recipe(weight_bits=3), (images(4),))
    assert _bits(module) == {"stem.0": 3, "conv": 3, "fc": 3}
    # the input, the stem's output, the sum's, the mean's; the branch that is added on its accumulator stays float
    assert len(module.activation_quantizers) == 4
    assert [p.shape for n, p in module.named_parameters() if n.endswith("conv.scale")] == [(8,)]


def test_concatenated_tensors_share_a_quantizer() -> None:
    module = prepare(make("concat"), Recipe(), (images(4),))
    calls = [n.target for n in module.graph.nodes if str(n.target).startswith("activation_quantizers")]
    assert len(module.activation_quantizers) == 2
    assert len(calls) > len(set(calls))


def test_excluded_layers_stay_float_in_the_file_too(tmp_path: Path) -> None:
    module = prepare(make("residual"), Recipe(exclude=("stem",)), (images(4),))
    assert _bits(module) == {"stem.0": 0, "conv": 8, "fc": 8}
    assert module.meta["optkit.left_float"] == {"stem.0": "excluded by name"}
    convert(module, (images(4),), tmp_path / "x.onnx")  # checks that the pass leaves it too


@pytest.mark.parametrize(("choice", "bits"), [("int8", (8, 4, 8)), ("float", (0, 4, 0))])
def test_first_and_last(choice: str, bits: tuple[int, ...]) -> None:
    module = prepare(make("residual"), Recipe(weight_bits=4, first_last=choice), (images(4),))
    assert tuple(_bits(module).values()) == bits


def test_what_torch_fx_sees_as_one_stays_float(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, 8)
    module = prepare(Attention(), Recipe(), (x,))
    assert _bits(module) == {"a": 8, "b": 8}
    assert module.meta["optkit.left_float"]
    convert(module, (x,), tmp_path / "x.onnx")


@pytest.mark.parametrize(
    ("call", "kind", "says"),
    [
        (lambda: prepare(make("residual"), Recipe(exclude=("stam",)), (images(4),)), UsageError, "mean 'stem'"),
        (lambda: prepare(Branching(), Recipe(), (images(4),)), ModelError, "torch.fx cannot trace Branching"),
        (lambda: prepare(nn.ReLU(), Recipe(), (images(4),)), ModelError, "nothing in ReLU can be quantized"),
        (lambda: prepare(make("residual"), Recipe(), (images(4)[:, :2],)), ModelError, "does not run on the example"),
        (
            lambda: prepare(make("perceptron"), Recipe(), (images(4),), calibration=[images(2)]),
            DataError,
            "holds 2 samples, the example input 4",
        ),
        (
            lambda: prepare(make("perceptron"), Recipe(), (images(4),), calibration=[], ranges="x.onnx"),
            UsageError,
            "exclude each other",
        ),
        (lambda: convert(make("residual"), (images(4),), "x.onnx"), UsageError, "what prepare returned"),
    ],
)
def test_errors(call: object, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind) as caught:
        call()  # type: ignore[operator]
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
