"""Options that several verbs share, and their completion."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from optkit.errors import UsageError

if TYPE_CHECKING:
    from optkit.pipeline import Pipeline

F = TypeVar("F", bound=Callable[..., Any])


def complete_targets(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Target names that begin with what was typed; none where a family is broken, for nobody would see why."""
    from optkit import registry
    from optkit.errors import OptkitError

    try:
        names = [name for family in registry.target_families().values() for name in family.names()]
    except OptkitError:
        return []
    return [name for name in names if name.startswith(incomplete)]


def complete_passes(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """The text so far with its last pass completed."""
    from optkit import registry

    head, comma, word = incomplete.rpartition(",")
    names = (*registry.pass_names(), *registry.pipeline_names())
    return [f"{head}{comma}{name}" for name in dict.fromkeys(names) if name.startswith(word)]


def calibration_options(function: F) -> F:
    """--calib-data, --preprocess, --calib-method, --calib-samples, --exclude-nodes, --exclude-op-types."""
    for option in reversed(
        (
            click.option(
                "--calib-data",
                metavar="PATH",
                help="Calibration data: .npz, .npy, a folder of images, or module:callable.",
            ),
            click.option(
                "--preprocess",
                metavar="TEXT",
                help="For images: 'resize=256,crop=224,mean=[..],std=[..],color=rgb'.",
            ),
            click.option("--calib-method", metavar="NAME", help="How ranges are found; see 'optkit passes'."),
            click.option("--calib-samples", type=click.IntRange(1), help="Use at most so many samples."),
            click.option("--exclude-nodes", multiple=True, metavar="A,B", help="Nodes that stay in float; repeatable."),
            click.option("--exclude-op-types", multiple=True, metavar="A,B", help="Operators that stay in float."),
        )
    ):
        function = option(function)
    return function


def mixed_options(function: F) -> F:
    """--max-drop, --eval, --eval-data, --search-time."""
    for option in reversed(
        (
            click.option(
                "--max-drop",
                type=float,
                metavar="POINTS",
                help="Seek the fastest mix of precisions that loses at most so many points of a metric.",
            ),
            click.option(
                "--eval",
                "evaluate",
                metavar="MODULE:CALLABLE",
                help="That metric: a function of run(feed) -> outputs that returns points; more are better. "
                "Default: agreement with the float model.",
            ),
            click.option(
                "--eval-data", metavar="PATH", help="Data of the default metric; else every 4th calibration sample."
            ),
            click.option("--search-time", type=float, metavar="SECONDS", help="Start nothing new after so long."),
        )
    ):
        function = option(function)
    return function


PRECISIONS = ("int8", "fp16", "bf16", "tf32")


def pipeline_options(function: F) -> F:
    """--int8, --fp16, --bf16, --tf32, --passes; `given_pipeline` takes them out of a command's options."""
    for option in reversed(
        (
            click.option("--int8", is_flag=True, help="Quantize to 8 bits; with --calib-data for real ranges."),
            click.option(
                "--fp16", is_flag=True, help="Convert to float16 what its range allows; with --int8: what stays real."
            ),
            click.option("--bf16", is_flag=True, help="Compute products in bfloat16."),
            click.option(
                "--tf32", is_flag=True, help="Multiply float32 in TF32 where the target has it (NVIDIA GPUs)."
            ),
            click.option(
                "--passes",
                metavar="TEXT",
                shell_complete=complete_passes,
                help="Passes to run instead of the default, e.g. 'fold,fuse,quantize{method=entropy}'.",
            ),
        )
    ):
        function = option(function)
    return function


def given_pipeline(options: dict[str, Any]) -> Pipeline | None:
    """The pipeline that was asked for, or None; UsageError where options exclude each other."""
    from optkit.pipeline import Pipeline
    from optkit.registry import get_pipeline

    precisions, text = [name for name in PRECISIONS if options.pop(name)], options.pop("passes")
    given = [f"--{name}" for name in precisions] + (["--passes"] if text is not None else [])
    if text is not None and not precisions:
        return Pipeline.parse(text)
    if not precisions:
        return None
    pipeline = None
    if text is None and len(precisions) <= 2:
        first, *others = (get_pipeline(name) for name in precisions)
        pipeline = first.joined(*others) if others else first
    if pipeline is None:
        raise UsageError(f"{' and '.join(given)} exclude each other; give one of them, or --int8 with --fp16")
    return pipeline


cache_option = click.option(
    "--calib-cache",
    metavar="FILE",
    help="Keep what calibration measures here; used again where model, passes and data are the same.",
)


shape_option = click.option(
    "--input-shape",
    "input_shapes",
    multiple=True,
    metavar="NAME:1x3x224x224",
    help="Fix an input's open dimensions; repeatable.",
)


def range_options(function: F) -> F:
    """--min-shape, --opt-shape, --max-shape."""
    texts = {
        "min": "Smallest extents of an input's open dimensions; repeatable.",
        "opt": "Shapes to be fastest at: the artifact holds code of its own for them; repeatable.",
        "max": "Largest extents of an input's open dimensions; a run outside the range is an error; repeatable.",
    }
    for name, text in reversed(texts.items()):
        metavar = "NAME:1x3x224x224"
        function = click.option(f"--{name}-shape", f"{name}_shapes", multiple=True, metavar=metavar, help=text)(
            function
        )
    return function


target_option = click.option(
    "--target",
    default="cpu",
    show_default=True,
    shell_complete=complete_targets,
    help="What to compile for; see 'optkit targets'.",
)


def parse_shapes(texts: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Repeated --input-shape options as one mapping; UsageError for a text that is no shape."""
    from optkit.shapes import parse_shape

    return dict(parse_shape(text) for text in texts)


def parse_list(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Comma-separated and repeated words as one tuple.

    >>> parse_list(("a,b", "c"))
    ('a', 'b', 'c')
    """
    return tuple(word.strip() for text in texts for word in text.split(",") if word.strip())
