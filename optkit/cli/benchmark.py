"""`optkit benchmark`: time an artifact, against its rivals if asked, and against an earlier report."""

from __future__ import annotations

from typing import Any

import click

from optkit.cli.options import parse_shapes, shape_option
from optkit.cli.output import console
from optkit.cli.progress import progress
from optkit.cli.settings import say, warn


@click.command(short_help="Time an artifact, against its rivals if asked.")
@click.argument("artifact", type=click.Path())
@click.option(
    "--against",
    multiple=True,
    metavar="RIVAL",
    help="onnxruntime, onnxruntime:MODEL.onnx, or another .optk; repeatable.",
)
@click.option("--model", type=click.Path(), help="The source model, for --against onnxruntime.")
@click.option("--iterations", type=click.IntRange(1), default=100, show_default=True, help="Runs of each, at least.")
@click.option("--duration", type=click.FloatRange(0), default=4.0, show_default=True, help="Seconds of each, at least.")
@click.option("--rounds", type=click.IntRange(2), default=20, show_default=True, help="Turns each of them gets.")
@click.option("--warmup", type=click.FloatRange(0), default=0.5, show_default=True, help="Seconds of each before.")
@click.option("--percentiles", default="50,90,95,99", show_default=True, help="Which to report.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads of each.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the random inputs.")
@click.option("--inputs", type=click.Path(), help="Inputs from this .npz instead.")
@shape_option
@click.option("--json", "json_path", type=click.Path(), help="Write the report as JSON ('-': print it).")
@click.option("--markdown", type=click.Path(), help="Write the report as Markdown.")
@click.option("--baseline", type=click.Path(), help="An earlier report (--json) to compare with.")
@click.option("--fail-if-slower", metavar="5%", help="Exit 1 if slower than the baseline by more, 3 if unclear.")
def command(
    artifact: str,
    against: tuple[str, ...],
    model: str | None,
    iterations: int,
    duration: float,
    rounds: int,
    warmup: float,
    percentiles: str,
    threads: int,
    seed: int,
    inputs: str | None,
    input_shapes: tuple[str, ...],
    json_path: str | None,
    markdown: str | None,
    baseline: str | None,
    fail_if_slower: str | None,
) -> None:
    """Time ARTIFACT, in turns with its rivals, each in a process of its own that is stopped between turns."""
    from pathlib import Path

    from optkit.arrays import read_feed
    from optkit.artifact import read_manifest
    from optkit.errors import UsageError
    from optkit.measure.contestant import Contestant
    from optkit.measure.gate import check_baseline, parse_percent
    from optkit.measure.report import make_report, parse_percentiles, read_report, to_markdown, write_text
    from optkit.measure.samples import choose_samples
    from optkit.measure.timing import race
    from optkit.model import model_sha256

    if fail_if_slower is not None and baseline is None:
        raise UsageError("--fail-if-slower needs --baseline")
    limit = parse_percent(fail_if_slower) if fail_if_slower is not None else None
    percents = parse_percentiles(percentiles)
    before = read_report(baseline) if baseline is not None else None
    manifest = read_manifest(artifact)
    if model is not None and model_sha256(model) != manifest.source_sha256:
        warn(f"{artifact} was compiled from another model than {model} (its hash differs)")
    lanes = [Contestant("optkit", "optk", Path(artifact), threads), *_rivals(against, model, threads)]
    if inputs is not None:
        feed = read_feed(manifest.inputs, inputs)
    else:
        feed = choose_samples(manifest.inputs, None, 1, seed, parse_shapes(input_shapes), ranges=manifest.ranges)[0]
    with progress() as report_progress:
        result = race(
            lanes,
            feed,
            rounds=rounds,
            min_seconds=duration / rounds,
            iterations=-(-iterations // rounds),
            warmup_seconds=warmup,
            progress=report_progress,
        )
    shapes = {name: list(array.shape) for name, array in feed.items()}
    report = make_report(
        result, percents, inputs=shapes, target=manifest.target.get("name"), pipeline=manifest.pipeline
    )
    text = to_markdown(report)
    if markdown is not None:
        write_text(markdown, text)
    _deliver(report, text, json_path)
    if before is not None:
        verdict = check_baseline(report, before, limit if limit is not None else float("inf"))
        say(f"against {baseline}: {verdict}")


def _rivals(against: tuple[str, ...], model: str | None, threads: int) -> list[Any]:
    from pathlib import Path

    from optkit.errors import UsageError, nearest
    from optkit.measure.contestant import Contestant

    rivals = []
    for text in against:
        kind, _, path = text.partition(":")
        if kind == "onnxruntime":
            source = path or model
            if source is None:
                raise UsageError("--against onnxruntime needs the model: --model MODEL.onnx")
            rivals.append(Contestant(text if path else kind, "onnx", Path(source), threads))
        elif text.endswith(".optk"):
            rivals.append(Contestant(text, "optk", Path(text), threads))
        else:
            raise UsageError(f"--against {text}: {nearest(kind, ['onnxruntime', 'FILE.optk'])}")
    return rivals


def _deliver(report: dict[str, Any], text: str, json_path: str | None) -> None:
    import json

    from optkit.measure.report import write_text

    document = json.dumps(report, indent=1, allow_nan=False) + "\n"
    if json_path == "-":
        click.echo(document, nl=False)
        return
    if json_path is not None:
        write_text(json_path, document)
    console().print(text, markup=False, end="")
