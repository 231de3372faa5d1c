"""`optkit tune`: measure the plans of a model's products, and keep the records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from optkit.cli.options import (
    cache_option,
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
    from optkit.tune.session import Tuned


@click.command(short_help="Measure a model's kernels and keep the fastest.")
@click.argument("model", type=click.Path())
@target_option
@pipeline_options
@calibration_options
@cache_option
@shape_option
@click.option("--tuning-db", metavar="FILE", default="tuning.db", show_default=True, help="Database of the records.")
@click.option("--trials", type=click.IntRange(1), default=24, show_default=True, help="Candidates an operator.")
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=20.0,
    show_default=True,
    help="Seconds that building or timing a candidate may take.",
)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads the kernels run on.")
@click.option("--resume/--no-resume", default=True, help="Do not measure again what the database knows.")
@click.option("--export", "lines", metavar="FILE", help="Also write the best records as JSON lines.")
@click.option("--seed", default=0, show_default=True, help="Seed of everything random.")
@json_option
def command(model: str, lines: str | None, as_json: bool, **options: Any) -> None:
    """Measure the kernels of MODEL, an ONNX file, on this machine.

    Every convolution and matrix product is computed by several templates and parameters, first those that the
    analytical model likes, then the neighbours of the fastest. What was measured is kept at once: stopped at any
    moment, the next call goes on. 'optkit compile --tuning-db' uses the records.

    \b
    optkit tune resnet50.onnx --int8 --tuning-db tuning.db
    optkit compile resnet50.onnx --int8 --tuning-db tuning.db
    """
    from optkit.cli.progress import progress
    from optkit.files import check_writable
    from optkit.tune.records import RecordStore, write_lines
    from optkit.tune.session import tune

    database = check_writable(options["tuning_db"])
    path = None if lines is None else check_writable(lines)
    pipeline = given_pipeline(options)
    shapes = parse_shapes(options.pop("input_shapes"))
    excluded: dict[str, Any] = {key: parse_list(options.pop(key)) for key in ("exclude_nodes", "exclude_op_types")}
    with progress() as report:
        tuned = tune(model, passes=pipeline, input_shapes=shapes, progress=report, **excluded, **options)
    if path is not None:
        store = RecordStore(database)
        count = write_lines(path, store.winners())
        store.close()
        say(f"wrote {path} ({count} records)")
    _show(tuned, as_json)


def _show(tuned: Tuned, as_json: bool) -> None:
    for problem in tuned.problems:
        warn(problem)
    if as_json:
        print_json(_described(tuned))
        return
    rows = [
        (
            str(o.job.operator),
            o.job.count,
            str(o.plan),
            "failed" if o.default is None else f"{o.default * 1e6:.1f}",
            f"{o.best * 1e6:.1f}",
            f"{2e-9 * o.job.operator.macs() / o.best:.0f}",
        )
        for o in tuned.outcomes
    ]
    console().print(table(["operator", ">calls", "best plan", ">default us", ">best us", ">Gop/s"], rows))
    measured, known = (sum(getattr(o, name) for o in tuned.outcomes) for name in ("measured", "known"))
    say(
        f"{len(rows)} operators: {measured} candidates measured, {known} known before; "
        f"products {tuned.speedup():.2f} times as fast as by default; records in {tuned.path}"
    )


def _described(tuned: Tuned) -> dict[str, Any]:
    return {
        "database": str(Path(tuned.path)),
        "target": tuned.target.name,
        "threads": tuned.threads,
        "speedup": tuned.speedup(),
        "problems": list(tuned.problems),
        "operators": [
            {
                "operator": str(o.job.operator),
                "calls": o.job.count,
                "template": o.plan.template,
                "params": dict(o.plan.params),
                "default_seconds": o.default,
                "best_seconds": o.best,
                "measured": o.measured,
                "known": o.known,
                "failed": o.failed,
            }
            for o in tuned.outcomes
        ],
    }
