"""What do weights of fewer than 8 bits save, and what do they cost?

    python -m benchmarks.weights sizes      # artifacts at 32, 8, 4, 3, 2 and 1 bits: bytes, load time, latency
    python -m benchmarks.weights products   # the kernel that reads integers against the float32 one
    python -m benchmarks.weights accuracy   # weight-only MiniLM and ViT, and their artifacts

Each writes its part of benchmarks/results/weights.json. Times are of one thread, least of several, in turns; take them
on a calm machine: the load average of the moment is written beside them.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx_ir as ir
import onnxruntime as ort

import optkit
from optkit.artifact import read_manifest
from optkit.files import write_whole
from optkit.model import load_model, to_proto
from optkit.pipeline import Pipeline
from optkit.registry import find_target
from optkit.transform import PassContext, Sample

RESULTS = Path(__file__).with_name("results") / "weights.json"
SHARED = Path(__file__).resolve().parents[2] / "shared"
PREPROCESS = "mean=[.4914,.4822,.4465],std=[.2470,.2435,.2616]"
VARIANTS = {
    "float32": "fold,fuse",
    **{f"W{bits}": f"fold,fuse,quantize{{weight_bits={bits}}}" for bits in (8, 4, 3, 2)},
    "binary": "fold,fuse,binarize,quantize",
}
WEIGHT_ONLY = {
    "8 bits, rtn": "bits=8,method=rtn",
    "4 bits, rtn": "bits=4,method=rtn",
    "4 bits, gptq": "bits=4",
    "4 bits, gptq, act_order": "bits=4,act_order=true",
    "3 bits, rtn": "bits=3,method=rtn",
    "3 bits, gptq": "bits=3",
    "3 bits, gptq, act_order": "bits=3,act_order=true",
}
SIZES = ((768, 768), (768, 3072), (4096, 4096))


def keep(part: str, found: Any) -> None:
    """Put a part into the results."""
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    results[part] = {"load_average": round(os.getloadavg()[0], 1), "cpu": _cpu(), "found": found}
    write_whole(RESULTS, (json.dumps(results, indent=1, sort_keys=True) + "\n").encode())


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def in_turns(contestants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Least seconds of each."""
    least = dict.fromkeys(contestants, float("inf"))
    for _ in range(rounds):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            least[name] = min(least[name], time.perf_counter() - start)
    return least


def storage(path: Path) -> dict[str, Any]:
    """Bytes of an artifact and of its weights, loaded and stored."""
    weights = read_manifest(path).weights
    stored, loaded = (sum(getattr(w, key) for w in weights) for key in ("stored", "nbytes"))
    return {"artifact_bytes": path.stat().st_size, "weights_loaded": loaded, "weights_stored": stored}


@click.group()
def main() -> None:
    """Figures of weights below 8 bits."""


def _resnet50(folder: Path) -> Path:
    from benchmarks.zoo import export_model

    return export_model("resnet50", folder / "resnet50.onnx")


@main.command()
@click.option("--large/--no-large", default=True, help="ResNet-50 with random weights too")
@click.option("--rounds", default=30, help="of loads and runs")
def sizes(large: bool, rounds: int) -> None:
    """Artifacts of CNNs at several widths of weights."""
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = {model: SHARED / "models" / f"{model}_cifar10.onnx" for model in ("resnet20", "mobilenetv2")}
        if large:
            models["resnet50"] = _resnet50(folder)
        for model, source in models.items():
            found[model], runners, loads = {}, {}, {}
            for variant, passes in VARIANTS.items():
                path = folder / f"{model}-{variant}.optk"
                shapes = {} if model == "resnet50" else {"input": (1, 3, 32, 32)}
                optkit.compile(source, passes=passes, output=path, verify=False, threads=1, input_shapes=shapes)
                runner = optkit.load(path, threads=1)
                spec = runner.inputs[0]
                x = {spec.name: np.random.default_rng(0).standard_normal(spec.shape).astype(np.float32)}
                runners[variant] = lambda runner=runner, x=x: runner.run(x)
                loads[variant] = lambda path=path: optkit.load(path, threads=1).close()
                found[model][variant] = storage(path)
                click.echo(f"{model} {variant}: {found[model][variant]}")
            for what, contestants in (("load_seconds", loads), ("run_seconds", runners)):
                for variant, seconds in in_turns(contestants, rounds).items():
                    found[model][variant][what] = seconds
            keep("sizes", found)


@main.command()
@click.option("--rounds", default=20)
def products(rounds: int) -> None:
    """One product of float32 activations with weights of 32, 8 and 4 bits, (M, K) x (K, N), groups of 32."""
    import tvm
    from tvm import relax

    from optkit.compiler.build import build

    target, found = replace(find_target("cpu"), cores=1), []
    os.environ["TVM_NUM_THREADS"] = "1"
    generator = np.random.default_rng(0)
    for depth, columns in SIZES:
        for rows in (1, 16, 128):
            contestants = {}
            for name, options in (("float32", None), ("int8", "bits=8"), ("uint4", "bits=4")):
                model = _product(rows, depth, columns, generator)
                if options:
                    model = Pipeline.parse(f"weight_only{{method=rtn,{options}}}").run(model, PassContext()).model
                built = build(model, target)
                machine = relax.VirtualMachine(built.executable, tvm.cpu())
                x = generator.standard_normal((rows, depth), dtype=np.float32)
                arguments = [tvm.runtime.tensor(a) for a in (x, *(a for _, a in built.weights))]
                contestants[name] = lambda main=machine["main"], arguments=arguments: main(*arguments)
            seconds = in_turns(contestants, rounds)
            found.append({"m": rows, "k": depth, "n": columns, **{f"{k}_us": 1e6 * s for k, s in seconds.items()}})
            click.echo(found[-1])
            keep("products", found)


def _product(rows: int, depth: int, columns: int, generator: np.random.Generator) -> ir.Model:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = generator.standard_normal((depth, columns), dtype=np.float32)
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
        for n, s in (("x", [rows, depth]), ("y", [rows, columns]))
    ]
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    graph = helper.make_graph([node], "product", ends[:1], ends[1:], [numpy_helper.from_array(weight, "w")])
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return ir.from_proto(model)


@main.command()
@click.option("--images", default=2000, help="of the CIFAR-10 validation set for the ViT")
@click.option("--texts", default=200, help="sentences for MiniLM")
@click.option("--only", type=click.Choice(["minilm", "vit"]), help="one of the models")
def accuracy(images: int, texts: int, only: str | None) -> None:
    """Cosine of MiniLM's sentence vectors with float32's; top-1 of a ViT, and the cosine of its scores."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if only != "vit":
            from benchmarks.minilm import export_minilm, sentences, tokens

            source = export_minilm(folder / "minilm.onnx")
            calibration, test = tokens(sentences(64)), tokens(sentences(texts, skip=64))
            keep("accuracy minilm", _variants(source, calibration, test, None, folder))
        if only != "minilm":
            from optkit.data import open_calibration
            from optkit.images import image_names

            source = SHARED / "models" / "vit_cifar10.onnx"
            inputs = load_model(source).graph.inputs
            data = SHARED / "data"
            train = open_calibration(data / "cifar10-train.zip", inputs, preprocess=PREPROCESS, samples=64)
            val = open_calibration(data / "cifar10-val.zip", inputs, preprocess=PREPROCESS)
            classes = [n.split("/")[0] for n in image_names(data / "cifar10-val.zip")]
            labels = np.unique(classes, return_inverse=True)[1]
            every = max(1, len(labels) // images)
            test = list(islice(val(), 0, None, every))
            keep("accuracy vit", _variants(source, list(train()), test, labels[::every], folder))


def _variants(
    source: Path, calibration: list[Sample], test: list[Sample], labels: np.ndarray | None, folder: Path
) -> dict[str, Any]:
    base = Pipeline.parse("fold,fuse").run(load_model(source), PassContext()).model
    reference = _answers(base, test)
    found: dict[str, Any] = {"float32": {} if labels is None else {"top1": _top1(reference, labels)}}
    for name, options in WEIGHT_ONLY.items():
        start = time.perf_counter()
        context = PassContext(calibration=lambda: iter(calibration))
        model = Pipeline.parse(f"fold,fuse,weight_only{{{options}}}").run(load_model(source), context).model
        seconds = time.perf_counter() - start
        answers = _answers(model, test)
        norms = np.linalg.norm(answers, axis=1) * np.linalg.norm(reference, axis=1)
        cosine = (answers * reference).sum(1) / norms
        found[name] = {"cosine_mean": float(cosine.mean()), "cosine_least": float(cosine.min()), "seconds": seconds}
        if labels is not None:
            found[name]["top1"] = _top1(answers, labels)
        click.echo(f"{source.stem} {name}: {found[name]}")
    for name in ("float32", "8 bits, rtn", "4 bits, rtn"):
        text = "fold,fuse" if name == "float32" else f"fold,fuse,weight_only{{{WEIGHT_ONLY[name]}}}"
        path = folder / f"{source.stem}-{name[0]}.optk"
        shapes = {spec.name: tuple(test[0][spec.name].shape) for spec in load_model(source).graph.inputs if spec.name}
        made = optkit.compile(source, passes=text, output=path, threads=1, input_shapes=shapes)
        found[name] |= storage(path) | {"verification": made.report["verification"]["summary"]}
        runner = optkit.load(path, threads=1)
        found[name]["run_seconds"] = in_turns({name: lambda runner=runner: runner.run(test[0])}, 20)[name]
        click.echo(f"{source.stem} {name}: {found[name]}")
    return found


def _answers(model: ir.Model, samples: list[Sample]) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, dict(sample))[0] for sample in samples]).astype(np.float64)


def _top1(scores: np.ndarray, labels: np.ndarray) -> float:
    return float(100 * (scores.argmax(1) == labels[: len(scores)]).mean())


if __name__ == "__main__":
    main()
