"""`optkit debug bisect`: the first wrong pass, the first wrong kernel, and the smallest model that shows it."""

from __future__ import annotations

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
    from optkit.debug import Bisection


@click.command(short_help="Find the first wrong pass and kernel, and the smallest case.")
@click.argument("model", type=click.Path())
@pipeline_options
@calibration_options
@shape_option
@target_option
@click.option("--data", metavar="PATH", help="Samples to compare on; by default the calibration data, else random.")
@click.option("--samples", type=click.IntRange(1, 8), help="Compare on so many; default: 8, or 3 random ones.")
@click.option("--atol", type=click.FloatRange(0), help="Absolute tolerance instead of the precision's own.")
@click.option("--rtol", type=click.FloatRange(0), help="Relative tolerance instead of the precision's own.")
@click.option("-o", "--output", type=click.Path(), help="ONNX file for the smallest failing model; inputs beside it.")
@click.option("--seed", default=0, show_default=True, help="Seed of everything random.")
@json_option
def command(model: str, as_json: bool, **options: Any) -> None:
    """Find the first pass after which MODEL's outputs leave the tolerance, and the first kernel that computes wrongly.

    Exits with 0 where nothing leaves the tolerance, with 1 where something was found.

    \b
    optkit debug bisect model.onnx --int8 --calib-data images/ -o smallest.onnx
    """
    from optkit.cli.progress import progress
    from optkit.debug.search import bisect

    pipeline = given_pipeline(options)
    options["input_shapes"] = parse_shapes(options["input_shapes"])
    for name in ("exclude_nodes", "exclude_op_types"):
        options[name] = parse_list(options[name])
    with progress() as report:
        outcome = bisect(model, passes=pipeline, progress=report, **options)
    for note in outcome.notes:
        warn(note)
    if as_json:
        print_json(outcome.as_dict())
    else:
        _show(outcome)
    if outcome.found:
        raise click.exceptions.Exit(1)


def _show(outcome: Bisection) -> None:
    console().print(table(["stage", "outputs"], [[name, reason or "ok"] for name, reason in outcome.stages]))
    for each in outcome.found:
        click.echo(f"the first wrong {each.kind}: {each.where}")
        click.echo(f"  {each.reason}")
        if each.nodes:
            named = ", ".join(each.nodes[:8]) + (", ..." if len(each.nodes) > 8 else "")
            fails = "fails alone" if each.alone else "was not seen to fail alone"
            click.echo(f"  smallest case ({len(each.nodes)} nodes, {fails}): {named}")
        if each.path is not None:
            say(f"wrote {each.path} and {each.inputs}")
            click.echo(f"  {each.rerun}")
    if not outcome.found:
        click.echo("nothing leaves the tolerance")
