"""Does quantization keep the accuracy? optkit, ONNX Runtime's quantizer and NNCF on the same models and samples.

    python -m benchmarks.int8_accuracy --train train.zip --val val.zip \\
        --preprocess 'mean=[.4914,.4822,.4465],std=[.2470,.2435,.2616]' resnet20.onnx mobilenetv2.onnx vit.onnx

Both data sets are folders or zips of images in one folder a class, sorted like the model's outputs. Every model runs
through ONNX Runtime on the same images. A row has top-1 in percent, the share of images on which the model's answer is
FP32's, and the mean Kullback-Leibler divergence of its probabilities from FP32's. Rows are kept in OUTPUT as they come
and not computed again unless asked.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import onnx
import onnxruntime as ort
from rich.console import Console
from rich.table import Table

from benchmarks.quantizer import nncf_quantized, peer_quantized
from optkit.data import open_calibration
from optkit.files import write_whole
from optkit.images import image_names
from optkit.model import load_model, to_proto
from optkit.pipeline import Pipeline
from optkit.transform import PassContext

BATCH = 32
FLOAT = "fold,fuse,fold"
REPAIR = "adaround,bias_correct"
OURS = {
    "optkit --int8": f"{FLOAT},quantize",
    **{f"optkit --int8 {m}": f"{FLOAT},quantize{{method={m}}}" for m in ("percentile", "entropy", "mse", "auto")},
    "optkit int8, repaired": f"{FLOAT},smooth,quantize{{method=auto}},{REPAIR}",
    "optkit int8, finest scales, repaired": f"{FLOAT},smooth,quantize{{method=auto,exact=false}},{REPAIR}",
    "W4A8 to nearest": f"{FLOAT},quantize{{weight_bits=4}}",
    "W4A8 adaround": f"{FLOAT},quantize{{weight_bits=4,weight_range=mse}},{REPAIR}",
    "W3A8 to nearest": f"{FLOAT},quantize{{weight_bits=3}}",
    "W3A8 adaround": f"{FLOAT},quantize{{weight_bits=3,weight_range=mse}},{REPAIR}",
}
PEERS = ("onnxruntime minmax", "onnxruntime percentile", "onnxruntime entropy", "nncf", "nncf transformer")


@dataclass(frozen=True)
class Row:
    """What one variant of one model scores.

    Attributes:
        top1: percent.
        agreement: percent of images with the answer of FP32.
        divergence: mean KL divergence from FP32, nats.
    """

    model: str
    variant: str
    pipeline: str
    top1: float
    agreement: float
    divergence: float


@dataclass(frozen=True)
class Data:
    """The images, as the models read them."""

    calibration: np.ndarray
    images: np.ndarray
    labels: np.ndarray

    def batches(self, name: str) -> Iterator[dict[str, np.ndarray]]:
        """Calibration samples, BATCH a run; a fresh iterator."""
        return iter([{name: self.calibration[i : i + BATCH]} for i in range(0, len(self.calibration), BATCH)])


def read_data(model: Path, train: Path, val: Path, preprocess: str, samples: int) -> Data:
    """Decode all images once."""
    inputs = load_model(model).graph.inputs
    name = str(inputs[0].name)
    few = open_calibration(train, inputs, preprocess=preprocess, samples=samples)
    many = open_calibration(val, inputs, preprocess=preprocess)
    classes = [text.split("/")[0] for text in image_names(val)]
    arrays = [np.concatenate([np.asarray(s[name]) for s in source()]) for source in (few, many)]
    return Data(arrays[0], arrays[1], np.unique(classes, return_inverse=True)[1])


def scores(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    """(images, classes) in one float32 array."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options)
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: images[i : i + 250]})[0] for i in range(0, len(images), 250)])


def divergence(got: np.ndarray, want: np.ndarray) -> float:
    """Mean KL(softmax(want) || softmax(got)), float64."""
    p, q = (_log_softmax(x.astype(np.float64)) for x in (want, got))
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


def _log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(axis=1, keepdims=True)
    logs: np.ndarray = x - np.log(np.exp(x).sum(axis=1, keepdims=True))
    return logs


def ours(path: Path, data: Data, text: str) -> onnx.ModelProto:
    """The model after a pipeline."""
    model = load_model(path)
    name = str(model.graph.inputs[0].name)
    context = PassContext(calibration=lambda: data.batches(name), reference=model.clone())
    return to_proto(Pipeline.parse(text).run(model, context).model)


def theirs(path: Path, data: Data, variant: str, folder: Path) -> onnx.ModelProto:
    """The model as a peer quantizes it, from the same samples."""
    name = str(load_model(path).graph.inputs[0].name)
    out = folder / "peer.onnx"
    if variant.startswith("nncf"):
        nncf_quantized(path, {name: data.calibration}, out, transformer=variant.endswith("transformer"))
    else:
        peer_quantized(path, {name: data.calibration}, out, batch=1, method=variant.split()[1])
    return onnx.load(out)


def variants(path: Path, data: Data, folder: Path) -> dict[str, tuple[str, Callable[[], onnx.ModelProto]]]:
    """By name: the pipeline's text where it is ours, and what makes the model."""
    found: dict[str, tuple[str, Callable[[], onnx.ModelProto]]] = {"FP32": ("", lambda: onnx.load(path))}
    for name, text in OURS.items():
        found[name] = (text, lambda text=text: ours(path, data, text))
    for name in PEERS:
        found[name] = ("", lambda name=name: theirs(path, data, name, folder))
    return found


def show(rows: list[Row]) -> None:
    """The table: a line a variant, a column a model."""
    models = list(dict.fromkeys(row.model for row in rows))
    table = Table("top-1 % (points below FP32) / agreement % / KL x 1000", *models)
    base = {row.model: row.top1 for row in rows if row.variant == "FP32"}
    for name in dict.fromkeys(row.variant for row in rows):
        cells = []
        for model in models:
            row = next((r for r in rows if (r.variant, r.model) == (name, model)), None)
            cells.append("" if row is None else _cell(row, base.get(model)))
        table.add_row(name, *cells)
    Console(width=150).print(table)


def _cell(row: Row, base: float | None) -> str:
    drop = "" if base is None else f" ({base - row.top1:+.2f})"
    return f"{row.top1:.2f}{drop} / {row.agreement:.2f} / {1000 * row.divergence:.3f}"


@click.command()
@click.argument("models", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--train", required=True, type=click.Path(exists=True, path_type=Path), help="Images to calibrate with.")
@click.option("--val", required=True, type=click.Path(exists=True, path_type=Path), help="Images to measure on.")
@click.option("--preprocess", default="", help="See optkit.preprocess.")
@click.option("--samples", default=512, show_default=True, help="Images for calibration.")
@click.option("--only", multiple=True, help="Variants to run; repeatable.")
@click.option("--again", is_flag=True, help="Compute rows anew that OUTPUT has.")
@click.option("--output", type=click.Path(path_type=Path), default=Path("benchmarks/results/int8_accuracy.json"))
def main(
    models: tuple[Path, ...],
    train: Path,
    val: Path,
    preprocess: str,
    samples: int,
    only: tuple[str, ...],
    again: bool,
    output: Path,
) -> None:
    """Score FP32 and quantized variants of MODELS."""
    import tempfile

    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    rows = [Row(**row) for row in json.loads(output.read_text())["rows"]] if output.exists() else []
    with tempfile.TemporaryDirectory() as folder:
        for path in models:
            data = read_data(path, train, val, preprocess, samples)
            reference = scores(onnx.load(path), data.images)
            for name, (text, make) in variants(path, data, Path(folder)).items():
                known = next((r for r in rows if (r.model, r.variant) == (path.stem, name)), None)
                if (only and name not in only) or (known is not None and known.pipeline == text and not again):
                    continue
                got = scores(make(), data.images)
                top1 = 100 * float((got.argmax(axis=1) == data.labels).mean())
                same = 100 * float((got.argmax(axis=1) == reference.argmax(axis=1)).mean())
                row = Row(path.stem, name, text, top1, same, divergence(got, reference))
                rows = [r for r in rows if (r.model, r.variant) != (path.stem, name)] + [row]
                account = {"samples": samples, "images": len(data.images), "rows": [asdict(r) for r in rows]}
                write_whole(output, json.dumps(account, indent=1).encode() + b"\n")
                click.echo(f"{path.stem}, {name}: {_cell(row, None)}", err=True)
    order = ["FP32", *OURS, *PEERS]
    show(sorted(rows, key=lambda row: order.index(row.variant) if row.variant in order else len(order)))


if __name__ == "__main__":
    main()
