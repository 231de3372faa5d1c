"""`optkit compile`: a model in, a verified artifact out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from optkit.cli.options import (
    cache_option,
    calibration_options,
    given_pipeline,
    mixed_options,
    parse_list,
    parse_shapes,
    pipeline_options,
    range_options,
    shape_option,
    target_option,
)
from optkit.cli.output import json_option, print_json, size_text
from optkit.cli.settings import say, warn

if TYPE_CHECKING:
    from optkit.api import Artifact
    from optkit.pipeline import Pipeline

_NAMED = 5


@click.command(short_help="Compile an ONNX model into a verified artifact.")
@click.argument("model", type=click.Path())
@click.option("-o", "--output", type=click.Path(), help="Artifact to write; default: the model's name with .optk.")
@target_option
@pipeline_options
@calibration_options
@cache_option
@shape_option
@range_options
@click.option(
    "--fallback",
    type=click.Choice(["onnxruntime"]),
    help="Leave what cannot be compiled to it; the artifact then needs it where it runs.",
)
@click.option(
    "--emit", multiple=True, metavar="onnx|relax|tir|asm|all|cuda", help="Also write these beside the artifact."
)
@click.option("--verify/--no-verify", default=True, help="Compare with ONNX Runtime before writing.")
@click.option("--atol", type=click.FloatRange(0), help="Absolute tolerance instead of the precision's own.")
@click.option("--rtol", type=click.FloatRange(0), help="Relative tolerance instead of the precision's own.")
@click.option("--threads", type=click.IntRange(1), help="Threads to lay the code out for; default: the target's.")
@click.option(
    "--tuning-db",
    metavar="FILE",
    help="Records of 'optkit tune' to use before optkit's own: a database, or its JSON lines; 'none': no records.",
)
@click.option(
    "--precision-search",
    type=click.Choice(["latency"]),
    help="With --int8: quantize only what is measured to be faster for it here, conversions counted.",
)
@mixed_options
@click.option("--cc", metavar="PROGRAM", help="Linker: a C compiler, or 'zig'.")
@click.option("--seed", default=0, show_default=True, help="Seed of everything random.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and what stands in the way; write nothing.")
@json_option
def command(model: str, output: str | None, dry_run: bool, as_json: bool, **options: Any) -> None:
    """Compile MODEL, an ONNX file, into one artifact.

    \b
    optkit compile resnet50.onnx -o resnet50.optk --int8 --calib-data images/ \\
        --preprocess 'resize=256,crop=224,mean=[0.485,0.456,0.406],std=[0.229,0.224,0.225],color=rgb'
    """
    from optkit.files import check_writable
    from optkit.source import model_stem

    pipeline = given_pipeline(options)
    path = check_writable(output or f"{model_stem(model)}.optk")
    shapes = parse_shapes(options.pop("input_shapes"))
    ranges: dict[str, Any] = {key: parse_shapes(options.pop(key)) for key in ("min_shapes", "opt_shapes", "max_shapes")}
    excluded: dict[str, Any] = {key: parse_list(options.pop(key)) for key in ("exclude_nodes", "exclude_op_types")}
    if dry_run:
        _dry_run(model, path, pipeline, shapes, excluded, options, as_json)
        return

    from optkit import api
    from optkit.cli.progress import progress

    with progress() as report:
        artifact = api.compile(
            model, output=path, passes=pipeline, input_shapes=shapes, progress=report, **ranges, **excluded, **options
        )
    _show(artifact, as_json)


def _dry_run(
    model: str,
    path: Path,
    pipeline: Pipeline | None,
    shapes: dict[str, tuple[int, ...]],
    excluded: dict[str, Any],
    options: dict[str, Any],
    as_json: bool,
) -> None:
    from optkit.api import dry_run

    plan = dry_run(
        model,
        target=options["target"],
        passes=pipeline,
        calib_method=options["calib_method"],
        input_shapes=shapes,
        threads=options["threads"],
        fallback=options["fallback"],
        precision_search=options["precision_search"],
        **{name: options[name] for name in ("max_drop", "evaluate", "eval_data", "search_time")},
        cc=options["cc"],
        **excluded,
    )
    names = ("fallback", "precision_search", "max_drop")
    plan = {"output": str(path), **plan, **{name: options[name] for name in names}}
    if as_json:
        print_json(plan)
    else:
        for key in ("output", "target", "runs_here", "pipeline", "linker", *names):
            click.echo(f"{key + ':':12}{plan[key]}")
        counts = Counter(issue["status"] for issue in plan["preflight"])
        click.echo(f"{'nodes:':12}{', '.join(f'{n} {status}' for status, n in counts.items())}")
        for issue in plan["preflight"]:
            if issue["reason"]:
                click.echo(f"{issue['status'] + ':':12}{issue['op_type']} {issue['node']}: {issue['reason']}")
    if not plan["fallback"] and any(issue["status"] == "unsupported" for issue in plan["preflight"]):
        raise click.exceptions.Exit(1)


def _searched(search: Mapping[str, Any]) -> str:
    """What the search for precisions came to, on one line."""
    kept, layers = search["kept_back"], search["layers"]
    if not layers:
        return "precision search: there is no layer whose precision is open"
    seconds = {len(made["kept_back"]): made["seconds"] for made in reversed(search["assignments"])}
    whole, none = seconds[0], seconds[len(layers)]
    chosen = next(made["seconds"] for made in search["assignments"] if made["kept_back"] == kept)
    names = f": {', '.join(kept[:_NAMED])}{' ...' if kept[_NAMED:] else ''}" if kept else ""
    return (
        f"precision search: {chosen * 1e3:.3f} ms, all in int8 {whole * 1e3:.3f}, all in float {none * 1e3:.3f}; "
        f"{len(kept)} of {len(layers)} layers stay float{names}"
    )


def _show(artifact: Artifact, as_json: bool) -> None:
    from optkit.cli.findings import show_issues, show_passes
    from optkit.cli.mixed import show_mixed

    report = artifact.report
    show_issues(report["preflight"])
    show_passes(report["passes"])
    if left := report["left_to_onnxruntime"]:
        warn(f"{len(left)} nodes are left to ONNX Runtime: {', '.join(left[:_NAMED])}{' ...' if left[_NAMED:] else ''}")
    verification = artifact.manifest.verification
    if verification["status"] == "not_run":
        warn(f"not verified on the target itself: {verification['reason']}")
    if as_json:
        print_json({**report, "emitted": {form: str(path) for form, path in artifact.emitted.items()}})
        return
    if search := report.get("precision_search"):
        say(_searched(search))
    if mixed := report.get("mixed_precision"):
        show_mixed(mixed)
    for path in artifact.emitted.values():
        say(f"wrote {path}")
    seconds = sum(report["seconds"].values())
    size = size_text(artifact.path.stat().st_size)
    summary = report["verification"].get("summary", verification["status"])
    say(f"wrote {artifact.path} ({size}, {seconds:.1f} s; {summary})")
