"""`optkit quantize`: int8 as standard ONNX."""

from __future__ import annotations

from typing import Any

import click

from optkit.cli.options import (
    cache_option,
    calibration_options,
    complete_passes,
    mixed_options,
    parse_list,
    parse_shapes,
    shape_option,
)
from optkit.cli.output import json_option, print_json, size_text
from optkit.cli.settings import say


@click.command(short_help="Quantize an ONNX model to int8; writes QDQ ONNX.")
@click.argument("model", type=click.Path())
@click.option("-o", "--output", type=click.Path(), help="ONNX file; default: the model's name with .int8.onnx.")
@calibration_options
@cache_option
@shape_option
@click.option("--passes", metavar="TEXT", shell_complete=complete_passes, help="Passes to run instead of int8's.")
@click.option("--target", metavar="NAME", help="Quantize for this target only; by default for all.")
@mixed_options
@click.option("--seed", default=0, show_default=True, help="Seed of everything random.")
@json_option
def command(model: str, output: str | None, passes: str | None, as_json: bool, **options: Any) -> None:
    """Quantize MODEL to int8 and write ONNX with QuantizeLinear and DequantizeLinear nodes.

    ONNX Runtime, TensorRT and OpenVINO run the result too. Without --calib-data, activation ranges are
    found without data, which costs accuracy. With --max-drop the layers that cost most stay in float.
    """
    from optkit.api import mixed_recipe, transform
    from optkit.cli.findings import show_passes
    from optkit.cli.mixed import show_mixed
    from optkit.cli.progress import progress
    from optkit.files import check_writable
    from optkit.model import model_sha256, save_model
    from optkit.pipeline import Pipeline
    from optkit.plan import choose_pipeline
    from optkit.report import describe_pass
    from optkit.source import model_stem
    from optkit.steps import pass_options

    path = check_writable(output or f"{model_stem(model)}.int8.onnx")
    changes = pass_options(
        options["calib_method"], parse_list(options["exclude_nodes"]), parse_list(options["exclude_op_types"])
    )
    pipeline = choose_pipeline("int8" if passes is None else Pipeline.parse(passes), changes)
    mixed = {name: options[name] for name in ("max_drop", "evaluate", "eval_data", "search_time")}
    account = None
    with progress() as report:
        if any(value is not None for value in mixed.values()):
            given = {name: options[name] for name in ("calib_data", "preprocess", "calib_samples", "seed")}
            shapes = parse_shapes(options["input_shapes"])
            pipeline, account = mixed_recipe(model, pipeline, **mixed, **given, input_shapes=shapes, progress=report)
        result = transform(
            model,
            pipeline,
            target=options["target"],
            calib_data=options["calib_data"],
            preprocess=options["preprocess"],
            calib_samples=options["calib_samples"],
            calib_cache=options["calib_cache"],
            input_shapes=parse_shapes(options["input_shapes"]),
            seed=options["seed"],
            progress=report,
        )
    save_model(result.model, path)
    show_passes(result.reports)
    if as_json:
        print_json(
            {
                "output": str(path),
                "bytes": path.stat().st_size,
                "sha256": model_sha256(path),
                "pipeline": str(pipeline),
                "passes": [describe_pass(r) for r in result.reports],
                **({} if account is None else {"mixed_precision": account}),
            }
        )
    else:
        if account is not None:
            show_mixed(account)
        say(f"wrote {path} ({size_text(path.stat().st_size)})")
