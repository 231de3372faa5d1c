"""`python -m benchmarks.mixed_precision`: one layer that INT8 ruins, found, kept in float, and what that costs.

A fragile layer is planted into each model: some output channels of a convolution are made 1000 times larger, and the
next convolution's weights for them as much smaller. A ReLU between them lets positive factors through, so the function
is the same in float32; but the tensor between both now spans so far that eight bits a tensor leave nothing of its
other channels. INT8 throughout loses many points. `optkit compile --max-drop` has to find the layer and keep it.

Every model is compiled in float32, in INT8 and mixed; the three artifacts race (one process each, in turn), and each
is evaluated by itself: top-1 on labelled images for the CIFAR-10 networks, agreement with float32 for those of the zoo.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx_ir as ir

import optkit
from benchmarks.zoo import ZOO, export_model
from optkit.api import transform
from optkit.data import open_calibration
from optkit.files import write_whole
from optkit.images import image_names
from optkit.measure.contestant import Contestant
from optkit.measure.environment import environment
from optkit.measure.timing import race
from optkit.mixed.execute import batched
from optkit.model import load_model, save_model
from optkit.pipeline import Pipeline
from optkit.shapes import bind_shapes

CIFAR = ("resnet20_cifar10", "mobilenetv2_cifar10")
PREPROCESS = "mean=[.4914,.4822,.4465],std=[.2470,.2435,.2616]"
RESULTS = Path(__file__).with_name("results") / "mixed_precision.json"
PASSES = "fold,fuse,fold,quantize"
"""No equalization, which would repair what is planted: that is another remedy."""
FACTOR, SHARE = 1000.0, 0.1


def plant(model: ir.Model, place: float, factor: float = FACTOR, share: float = SHARE) -> tuple[str, str]:
    """Make one layer fragile, in place; the convolutions before and behind the tensor that eight bits ruin.

    Of all pairs of convolutions with nothing or a ReLU between them, which nothing else reads, the one at `place` is
    taken, from 0, the first, to 1, the last.
    """
    pairs = [pair for node in model.graph if (pair := _pair(node)) is not None]
    first, second = pairs[round(place * (len(pairs) - 1))]
    weight, bias, reader = (_array(value) for value in (first.inputs[1], first.inputs[2], second.inputs[1]))
    channels = np.linspace(0, len(bias) - 1, max(1, round(share * len(bias)))).astype(int)
    weight[channels] *= factor
    bias[channels] *= factor
    reader[:, channels] /= factor
    for value, array in ((first.inputs[1], weight), (first.inputs[2], bias), (second.inputs[1], reader)):
        assert value is not None
        value.const_value = ir.tensor(array, name=value.name)
    return first.name or "", second.name or ""


def _array(value: ir.Value | None) -> np.ndarray:
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    assert tensor is not None
    return np.array(tensor.numpy())


def _pair(first: ir.Node) -> tuple[ir.Node, ir.Node] | None:
    if first.op_type != "Conv" or len(first.inputs) < 3:
        return None
    value = first.outputs[0]
    for _ in range(2):
        uses = list(value.uses())
        if len(uses) != 1:
            return None
        reader = uses[0][0]
        if reader.op_type == "Relu":
            value = reader.outputs[0]
        elif reader.op_type == "Conv" and reader.attributes.get_int("group", 1) == 1:
            return first, reader
        else:
            return None
    return None


def measure(
    model: Path, data: Any, preprocess: str | None, evaluate: Callable[[Any], float] | None, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Compile in three ways, race them, and evaluate every artifact."""
    folder: Path = options["output"]
    common: dict[str, Any] = {"calib_data": data, "preprocess": preprocess, "calib_samples": options["samples"]}
    settings = {
        "fp32": {},
        "int8": {"passes": PASSES, **common},
        "mixed": {"passes": PASSES, **common, "max_drop": options["max_drop"], "evaluate": evaluate},
    }
    made = {}
    for name, arguments in settings.items():
        path = folder / f"{model.stem}.{name}.optk"
        verify = name != "int8"  # it is broken, and meant to be
        made[name] = optkit.compile(
            model, output=path, threads=options["threads"], verify=verify, tuning_db=options["tuning_db"], **arguments
        )
    account = made["mixed"].report["mixed_precision"]
    feed = {spec.name: np.zeros(spec.shape, spec.numpy) for spec in made["fp32"].manifest.inputs}
    rng = np.random.default_rng(0)
    feed = {name: rng.standard_normal(array.shape).astype(array.dtype) for name, array in feed.items()}
    lanes = [Contestant(name, "optk", one.path, options["threads"]) for name, one in made.items()]
    result = race(lanes, feed, rounds=options["rounds"], min_seconds=0.1, warmup_seconds=0.3)
    seconds = {name: float(np.median(result[name].rounds)) for name in made}
    points: dict[str, float | None] = {}
    for name, one in made.items():
        if evaluate is None:
            continue
        with one.runner(options["threads"]) as runner:
            points[name] = evaluate(batched(runner.inputs, runner.run))
    if evaluate is None:
        whole = next(p for p in account["points"] if not p["fp32"] and not p["bf16"])
        points = {"fp32": account["metric"]["float"], "int8": whole["metric"], "mixed": account["artifact"]["metric"]}
    speedup = {name: seconds["fp32"] / seconds[name] for name in ("int8", "mixed")}
    return {
        "metric": account["metric"],
        "max_drop": options["max_drop"],
        "points": points,
        "seconds": seconds,
        "speedup": speedup,
        "speedup_share": speedup["mixed"] / speedup["int8"],
        "speedup_interval": vars(result.speedup("mixed", "int8")),
        "kept": account["chosen"]["fp32"] + account["chosen"]["bf16"],
        "layers": len(account["sensitivity"]),
        "most_sensitive": account["sensitivity"][:5],
        "front": [p for p in account["points"] if p["front"]],
        "recipe": account["recipe"],
        "search_seconds": account["search_seconds"],
    }


def labelled(val: Path, model: Path, preprocess: str) -> Callable[[Any], float]:
    """Top-1 in points on a zip or folder of images, a folder a class in the order of the outputs."""
    graph = load_model(model).graph
    name = graph.inputs[0].name or ""
    rows = [sample[name] for sample in open_calibration(val, graph.inputs, preprocess=preprocess)()]
    images = np.concatenate(rows)
    labels = np.unique([word.split("/")[0] for word in image_names(val)], return_inverse=True)[1]

    def top1(run: Any) -> float:
        scores = next(iter(run({name: images}).values()))
        return 100 * float((scores.argmax(-1) == labels).mean())

    return top1


def fragile(source: Path, target: Path, place: float) -> tuple[str, str]:
    """Fold and fuse a model, fix its batch at one, plant the layer and save it."""
    model = transform(source, Pipeline.parse("fold,fuse,fold")).model
    shapes = {v.name or "": [1, *list(v.shape or ())[1:]] for v in model.graph.inputs}
    model = bind_shapes(model, shapes)
    planted = plant(model, place)
    save_model(model, target)
    return planted


@click.command()
@click.argument("models", nargs=-1)
@click.option("--models-folder", type=click.Path(exists=True, path_type=Path), default=Path("../shared/models"))
@click.option("--train", type=click.Path(exists=True, path_type=Path), default=Path("../shared/data/cifar10-train.zip"))
@click.option("--val", type=click.Path(exists=True, path_type=Path), default=Path("../shared/data/cifar10-val.zip"))
@click.option("--samples", default=128, help="images to calibrate with")
@click.option("--max-drop", default=0.5, help="points that may be lost")
@click.option("--threads", default=1)
@click.option("--rounds", default=15)
@click.option("--place", default=0.75, help="where the fragile layer is, from 0, the first, to 1, the last")
@click.option("--tuning-db", default=None, help="see 'optkit compile'")
@click.option("--output", type=click.Path(path_type=Path), default=Path("build/benchmarks/mixed"))
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS)
def main(models: tuple[str, ...], models_folder: Path, train: Path, val: Path, results: Path, **options: Any) -> None:
    """Measure MODELS: files of the models folder without .onnx, or names of the zoo; by default CIFAR-10's."""
    folder, place = options["output"], options.pop("place")
    folder.mkdir(parents=True, exist_ok=True)
    found = json.loads(results.read_text()) if results.is_file() else {"models": {}}
    for name in models or CIFAR:
        path = folder / f"{name}.fragile.onnx"
        if name in ZOO:
            source = folder / f"{name}.onnx"
            if not source.is_file():
                export_model(name, source)
            planted = fragile(source, path, place)
            outcome = measure(path, ZOO[name].samples(options["samples"]), None, None, options)
        else:
            planted = fragile(models_folder / f"{name}.onnx", path, place)
            metric = labelled(val, path, PREPROCESS)
            outcome = measure(path, train, PREPROCESS, metric, options)
        outcome["planted"] = {
            "writes": planted[0],
            "reads": planted[1],
            "place": place,
            "factor": FACTOR,
            "channels": SHARE,
        }
        found["models"][name] = outcome
        found["environment"] = environment()
        write_whole(results, json.dumps(found, indent=1).encode() + b"\n")
        ms = {key: f"{value * 1e3:.3f} ms" for key, value in outcome["seconds"].items()}
        click.echo(
            f"{name}: {ms}, points {outcome['points']}, kept {outcome['kept']} (planted {planted}), "
            f"{outcome['speedup_share']:.1%} of INT8's speed-up"
        )


if __name__ == "__main__":
    main()
