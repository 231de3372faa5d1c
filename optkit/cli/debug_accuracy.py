"""`optkit debug accuracy`: what every layer lost, worst first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from optkit.cli.options import (
    calibration_options,
    given_pipeline,
    parse_list,
    parse_shapes,
    pipeline_options,
    shape_option,
    target_option,
)
from optkit.cli.output import console, json_option, print_json, table
from optkit.cli.settings import say, warn

if TYPE_CHECKING:
    from optkit.debug import Layer, Report


@click.command(short_help="Say which layers lose accuracy, where, and what repairs them.")
@click.argument("model", type=click.Path())
@pipeline_options
@calibration_options
@shape_option
@target_option
@click.option("--data", metavar="PATH", help="Samples to compare on; by default the calibration data, else random.")
@click.option("--samples", type=click.IntRange(1), help="Compare on so many; default: 16, or 3 random ones.")
@click.option("--atol", type=click.FloatRange(0), help="Absolute tolerance of the outputs.")
@click.option("--rtol", type=click.FloatRange(0), help="Relative tolerance of the outputs.")
@click.option("--top", type=click.IntRange(1), default=10, show_default=True, help="Layers in the table.")
@click.option("--try", "trials", type=click.IntRange(0), default=0, help="Of so many worst layers, try the advice.")
@click.option("--artifact/--no-artifact", default=True, help="Also compile the model and compare its tensors.")
@click.option("-o", "--output", type=click.Path(), help="Also write everything as JSON.")
@click.option("--plot", type=click.Path(), help="Also draw SQNR along the depth: .png, .svg or .pdf.")
@click.option("--seed", default=0, show_default=True, help="Seed of everything random.")
@json_option
def command(
    model: str, top: int, output: str | None, plot: str | None, as_json: bool, trials: int, **options: Any
) -> None:
    """Compare MODEL with what each pass and the compiler make of it, layer by layer.

    SQNR is signal over quantization noise in dB: 6 dB are one bit. A layer's own error is measured on the float
    model's inputs, split into weights and activations, and these into clipping and rounding.

    \b
    optkit debug accuracy model.onnx --int8 --calib-data images/ --try 3 --plot layers.png
    """
    from optkit.cli.progress import progress
    from optkit.debug.layerwise import accuracy
    from optkit.debug.picture import check_plotting, draw
    from optkit.files import check_writable, write_whole

    pipeline = given_pipeline(options)
    if plot is not None:
        check_plotting()
    for path in (output, plot):
        if path is not None:
            check_writable(path)
    options["input_shapes"] = parse_shapes(options["input_shapes"])
    for name in ("exclude_nodes", "exclude_op_types"):
        options[name] = parse_list(options[name])
    with progress() as report:
        found = accuracy(model, passes=pipeline, trials=trials, progress=report, **options)
    if output is not None:
        write_whole(Path(output), (json.dumps(found.as_dict(), indent=2) + "\n").encode())
    if plot is not None:
        draw(found, plot)
    if as_json:
        print_json(found.as_dict())
    else:
        _show(found, top)
    for path in (output, plot):
        if path is not None:
            say(f"wrote {path}")


def _show(report: Report, top: int) -> None:
    out = console()
    columns = ["stage", "", ">outputs dB", ">tensors", ">changed", "worst tensor", ""]
    out.print(table(columns, [_stage_row(s) for s in report.stages]))
    columns = ["layer", "operator", "cause", "step", ">outputs without", ">alone", ">own", ">weights", ">activations"]
    columns += [">clipping", ">bias", ">accumulated", ">kernel"]
    shown = report.layers[:top]
    title = f"{len(shown)} of {len(report.layers)} layers, worst first (SQNR in dB)"
    out.print(table(columns, [_layer_row(layer) for layer in shown], title=title))
    advised = [layer for layer in shown if layer.advice]
    if advised:
        tried = any(a.output_db is not None for layer in advised for a in layer.advice)
        columns = ["layer", "try", *([">outputs dB", ">own"] if tried else []), "because"]
        out.print(table(columns, [row for layer in advised for row in _advice_rows(layer, tried)]))
    for note in report.notes:
        warn(note)
    first = report.first_outside
    if first is not None:
        click.echo(f"the outputs leave the tolerance after {first.label}: {first.reason}")
    click.echo(f"{report.samples} samples ({report.source}); layers are measured against {report.reference}")


def _stage_row(stage: Any) -> list[str]:
    worst = "" if stage.worst is None else f"{stage.worst[0]} {stage.worst[1]:.1f}"
    note = "out of tolerance" if not stage.within else ("" if stage.modified else "nothing to do")
    counts = [str(stage.compared), str(stage.changed)]
    return [stage.label, stage.precision, _db(stage.output_db), *counts, worst, note]


def _layer_row(layer: Layer) -> list[str]:
    parts = layer.parts
    figures = [None] * 4 if parts is None else [parts.own, parts.weights, parts.activations, parts.bias]
    own, weights, activations, bias = map(_db, figures)
    clipping = "" if parts is None or parts.clipping is None else f"{100 * parts.clipping:.0f} %"
    ends = [_db(layer.accumulated), _db(layer.kernel)]
    gain = "" if layer.gain is None else f"{layer.gain:+.1f}"
    names = [layer.name, layer.op_type, layer.cause, layer.step, gain, _db(layer.effect)]
    return [*names, own, weights, activations, clipping, bias, *ends]


def _advice_rows(layer: Layer, tried: bool) -> list[list[str]]:
    """A row an advice that was tried; one for all of a layer where none was."""
    if not any(advice.output_db is not None for advice in layer.advice):
        options = " or ".join(advice.option for advice in layer.advice)
        return [[layer.name, options, *(["", ""] if tried else []), layer.advice[0].reason]]
    return [
        [layer.name if i == 0 else "", a.option, _db(a.output_db), _db(a.own_db), a.reason]
        for i, a in enumerate(layer.advice)
    ]


def _db(value: float | None) -> str:
    from optkit.measure.compare import MAX_SQNR

    if value is None:
        return ""
    return "exact" if value >= MAX_SQNR else f"{value:.1f}"
