"""Does quantization-aware training win back what few bits lose? Top-1 on CIFAR-10 beside FP32 trained as long.

    python benchmarks/qat_accuracy.py --models ../shared/models --data ../shared/data resnet20 mobilenetv2

Every variant starts from the same checkpoint and is trained for the same steps with the same recipe: SGD with
Nesterov momentum, a cosine learning rate, crops and mirror images. All layers are quantized, the first and last too.
Measured is the ONNX file that `convert` wrote, through ONNX Runtime, on all validation images. Results are added to the
JSON file one variant at a time, and those that are there already with the same settings are not trained again.
"""

from __future__ import annotations

import importlib.util
import json
import math
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime as ort
import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional

from benchmarks.cifar import augmented, decode, normalize
from optkit.files import write_whole
from optkit.torch import Recipe, convert, export, prepare, scale_parameters

VARIANTS = ("fp32", "w8a8", "w4a8", "w3a8")
RESULTS = Path(__file__).parent / "results" / "qat.json"
BATCH = 128


@dataclass(frozen=True)
class Settings:
    """What is the same for every variant.

    Attributes:
        epochs: of training after the checkpoint, a fraction too.
        rate: the cosine's first learning rate.
        decay: weight decay; none on scales.
        distill: weight of the divergence from the checkpoint's outputs in the loss of quantized variants.
        frozen: batch statistics stay those of the checkpoint, in every variant.
        seed: of order, crops and mirrors.
    """

    epochs: float = 2.0
    rate: float = 0.01
    decay: float = 1e-4
    distill: float = 0.0
    frozen: bool = False
    seed: int = 0


Data = tuple[torch.Tensor, torch.Tensor]


def definitions(folder: Path) -> Any:
    """The module cifar_models.py of `folder`."""
    spec = importlib.util.spec_from_file_location("cifar_models", folder / "cifar_models.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def checkpoint(folder: Path, name: str) -> torch.nn.Module:
    """The trained float network, in channels-last memory, which convolutions on CPUs like."""
    module: torch.nn.Module = definitions(folder).MODELS[name]()
    module.load_state_dict(torch.load(folder / f"{name}.pt", weights_only=True))
    return module.to(memory_format=torch.channels_last)


def freeze_statistics(module: torch.nn.Module) -> None:
    """Batch normalizations in eval mode inside a module that trains."""
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.eval()


def train(module: torch.nn.Module, data: Data, settings: Settings, teacher: torch.nn.Module | None) -> None:
    """In place; prints the loss now and then."""
    images, labels = data
    total = max(int(settings.epochs * (len(labels) // BATCH)), 1)
    scales = scale_parameters(module)
    known = {id(p) for p in scales}
    others = [p for p in module.parameters() if id(p) not in known]
    groups = [{"params": others, "weight_decay": settings.decay}]
    if scales:
        groups.append({"params": scales, "weight_decay": 0.0})
    optimizer = torch.optim.SGD(groups, settings.rate, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: 0.5 * (1 + math.cos(math.pi * s / total)))
    generator = torch.Generator().manual_seed(settings.seed)
    module.train()
    if settings.frozen:
        freeze_statistics(module)
    step, started, smooth = 0, time.monotonic(), 0.0
    while step < total:
        for x, y in augmented(images, labels, BATCH, generator):
            logits = module(x)
            loss = functional.cross_entropy(logits, y)
            if teacher is not None and settings.distill:
                with torch.no_grad():
                    target = teacher(x).log_softmax(1)
                soft = functional.kl_div(logits.log_softmax(1), target, reduction="batchmean", log_target=True)
                loss = (1 - settings.distill) * loss + settings.distill * soft
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            smooth += (loss.item() - smooth) / min(step + 1, 50)
            step += 1
            if step % 25 == 0:
                click.echo(f"  step {step}/{total}: loss {smooth:.3f}, {time.monotonic() - started:.0f} s", err=True)
            if step == total:
                break


def top1(path: Path, data: Data) -> float:
    """Percent of images whose largest output is the label's, through ONNX Runtime."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = ort.InferenceSession(str(path), options)
    right = 0
    for images, labels in zip(data[0].split(100), data[1].split(100), strict=True):
        scores = session.run(None, {session.get_inputs()[0].name: normalize(images).contiguous().numpy()})[0]
        right += int((np.asarray(scores).argmax(1) == labels.numpy()).sum())
    return 100 * right / len(data[1])


def measure(variant: str, models: Path, name: str, trained: Data, held: Data, settings: Settings) -> dict[str, Any]:
    """Trains one variant and measures its ONNX file, before training too."""
    started = time.monotonic()
    module = checkpoint(models, name)
    example = (normalize(trained[0][:BATCH]).contiguous(),)
    dynamic = {"x": {0: "batch"}}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        if variant == "fp32":
            before = top1(export(module, example, path, dynamic=dynamic), held)
            train(module, trained, settings, None)
            after = top1(export(module, example, path, dynamic=dynamic), held)
        else:
            recipe = Recipe(weight_bits=int(variant[1]))
            order = torch.randperm(len(trained[1]), generator=torch.Generator().manual_seed(settings.seed))
            batches = [normalize(trained[0][order[i : i + BATCH]]).contiguous() for i in range(0, 4 * BATCH, BATCH)]
            module = prepare(module, recipe, example, calibration=batches)
            before = top1(convert(module, example, path, dynamic=dynamic), held)
            teacher = checkpoint(models, name).eval() if settings.distill else None
            train(module, trained, settings, teacher)
            after = top1(convert(module, example, path, dynamic=dynamic), held)
    return {
        "model": name,
        "variant": variant,
        **asdict(settings),
        "before": round(before, 2),
        "top1": round(after, 2),
        "images": len(held[1]),
        "seconds": round(time.monotonic() - started),
    }


def load_rows(path: Path) -> list[dict[str, Any]]:
    """Results so far."""
    return list(json.loads(path.read_text())["rows"]) if path.exists() else []


def same_run(row: dict[str, Any], name: str, variant: str, settings: Settings) -> bool:
    """Whether `row` holds this run's result; FP32 knows no distillation."""
    want = {"model": name, "variant": variant, **asdict(settings)}
    ignored = "distill" if variant == "fp32" else None
    return all(row.get(key) == value for key, value in want.items() if key != ignored)


@click.command()
@click.argument("names", nargs=-1, required=True)
@click.option("--models", required=True, type=click.Path(exists=True, path_type=Path), help="cifar_models.py, *.pt")
@click.option("--data", required=True, type=click.Path(exists=True, path_type=Path), help="cifar10-{train,val}.zip")
@click.option("--variant", "variants", multiple=True, default=VARIANTS, type=click.Choice(VARIANTS))
@click.option("--epochs", default=2.0, help="of training after the checkpoint, at most 2 for the table")
@click.option("--rate", default=0.01, help="first learning rate")
@click.option("--distill", default=0.0, help="share of the loss that is divergence from the float checkpoint")
@click.option("--frozen", is_flag=True, help="keep the checkpoint's batch statistics")
@click.option("--seed", default=0)
@click.option("--threads", default=0, help="0: as many as PyTorch takes")
@click.option("-o", "--output", default=RESULTS, type=click.Path(path_type=Path))
def main(
    names: tuple[str, ...],
    models: Path,
    data: Path,
    variants: tuple[str, ...],
    epochs: float,
    rate: float,
    distill: float,
    frozen: bool,
    seed: int,
    threads: int,
    output: Path,
) -> None:
    """Train and measure the VARIANTS of the networks NAMES."""
    if threads:
        torch.set_num_threads(threads)
    settings = Settings(epochs=epochs, rate=rate, distill=distill, frozen=frozen, seed=seed)
    trained, held = decode(data / "cifar10-train.zip"), decode(data / "cifar10-val.zip")
    for name in names:
        for variant in variants:
            if any(same_run(row, name, variant, settings) for row in load_rows(output)):
                continue
            click.echo(f"{name} {variant}", err=True)
            row = measure(variant, models, name, trained, held, settings)
            rows = load_rows(output)  # again: another process may have added some
            write_whole(output, (json.dumps({"rows": [*rows, row]}, indent=1) + "\n").encode())
            click.echo(json.dumps(row), err=True)
    table = Table("model", "variant", "epochs", "before", "top-1", "against FP32")
    rows = load_rows(output)
    for row in rows:
        if row["model"] in names:
            own = Settings(**{key: row[key] for key in asdict(settings)})
            float_rows = [r for r in rows if same_run(r, row["model"], "fp32", own)]
            against = f"{row['top1'] - float_rows[0]['top1']:+.2f}" if float_rows else "-"
            table.add_row(
                row["model"],
                row["variant"],
                f"{row['epochs']:g}",
                f"{row['before']:.2f}",
                f"{row['top1']:.2f}",
                against,
            )
    Console().print(table)


if __name__ == "__main__":
    main()
