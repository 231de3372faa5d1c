"""Does INT8 keep the accuracy? Top-1 of the quantize pass and of ONNX Runtime's quantizer, on the same data.

    python benchmarks/int8_accuracy.py --train train.zip --val val.zip \\
        --preprocess 'mean=[.4914,.4822,.4465],std=[.2470,.2435,.2616]' resnet20.onnx mobilenetv2.onnx

Both data sets are folders or zips of images in one folder a class, sorted like the model's outputs. Every
model runs through ONNX Runtime; the table shows top-1 in percent and the difference to FP32.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import onnx
import onnxruntime as ort
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
from optkit_passes.quantize import Quantize
from rich.console import Console
from rich.table import Table

from optkit.data import Samples, open_calibration
from optkit.images import image_names
from optkit.model import load_model, to_proto
from optkit.transform import PassContext

OURS = ("minmax", "percentile", "entropy", "mse")
PEER = {"minmax": CalibrationMethod.MinMax, "percentile": CalibrationMethod.Percentile}


class Reader:
    """Calibration samples as ONNX Runtime's quantizer reads them."""

    def __init__(self, samples: Samples) -> None:
        self.rows = samples()

    def get_next(self) -> object:
        return next(self.rows, None)


def top1(model: onnx.ModelProto, val: Samples, labels: np.ndarray) -> float:
    """Percent of samples whose largest output is the label's, batches of 100."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options)
    right, batch, at = 0, [], 0
    for sample in val():
        batch.append(sample)
        if len(batch) == 100 or at + len(batch) == len(labels):
            feed = {name: np.concatenate([s[name] for s in batch]) for name in batch[0]}
            scores = session.run(None, feed)[0]
            right += int((scores.argmax(-1) == labels[at : at + len(batch)]).sum())
            at, batch = at + len(batch), []
    return 100 * right / len(labels)


def peer(path: Path, calibration: Samples, method: CalibrationMethod) -> onnx.ModelProto:
    """ONNX Runtime's quantize_static: QDQ, uint8 activations, int8 weights per channel, its defaults else."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "quantized.onnx"
        quantize_static(
            str(path),
            str(out),
            Reader(calibration),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=method,
        )
        return onnx.load(out)


def rows(path: Path, train: Path, val: Path, preprocess: str, samples: int) -> Iterator[tuple[str, float]]:
    """(name, top-1) of FP32, then of every quantized variant."""
    model = load_model(path)
    calibration = open_calibration(train, model.graph.inputs, preprocess=preprocess, samples=samples)
    test = open_calibration(val, model.graph.inputs, preprocess=preprocess)
    classes = [name.split("/")[0] for name in image_names(val)]
    labels = np.unique(classes, return_inverse=True)[1]
    yield "FP32", top1(to_proto(model), test, labels)
    for method in OURS:
        result = Quantize(method=method).run(load_model(path), PassContext(calibration=calibration))
        yield f"optkit {method}", top1(to_proto(result.model), test, labels)
    result = Quantize().run(load_model(path), PassContext())
    yield "optkit without data", top1(to_proto(result.model), test, labels)
    for name, method in PEER.items():
        yield f"onnxruntime {name}", top1(peer(path, calibration, method), test, labels)


@click.command()
@click.argument("models", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--train", required=True, type=click.Path(exists=True, path_type=Path), help="images to calibrate with")
@click.option("--val", required=True, type=click.Path(exists=True, path_type=Path), help="images to measure on")
@click.option("--preprocess", default="", help="see optkit.preprocess")
@click.option("--samples", default=256, help="images for calibration")
def main(models: tuple[Path, ...], train: Path, val: Path, preprocess: str, samples: int) -> None:
    """Print top-1 accuracy of FP32 and INT8 variants of MODELS."""
    table = Table("top-1, %", *(path.stem for path in models))
    columns = [dict(rows(path, train, val, preprocess, samples)) for path in models]
    for name in columns[0]:
        cells = [f"{column[name]:.2f} ({column[name] - column['FP32']:+.2f})" for column in columns]
        table.add_row(name, *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
