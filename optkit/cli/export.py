"""`optkit export`: PyTorch to ONNX."""

from __future__ import annotations

import click

from optkit.cli.output import json_option, print_json, size_text
from optkit.cli.settings import say
from optkit.errors import UsageError


@click.command(short_help="Export a PyTorch model to ONNX.")
@click.argument("module")
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="ONNX file; default: the attribute's name.")
@click.option(
    "--input-shape",
    "shapes",
    multiple=True,
    required=True,
    metavar="NAME:1x3x224x224",
    help="Shape of an input, in the order of forward's parameters; repeatable.",
)
@click.option("--input-type", "types", multiple=True, metavar="NAME:int64", help="Element type; default float32.")
@click.option("--dynamic", multiple=True, metavar="NAME:0=batch,2=height", help="Axes that stay open, by name.")
@click.option("--output-name", "output_names", multiple=True, help="Name of an output, in order; repeatable.")
@click.option("--opset", default=18, show_default=True, help="ONNX operator set.")
@click.option("--verify/--no-verify", default=True, help="Compare the file with PyTorch's own answer.")
@click.option("--seed", default=0, show_default=True, help="Seed of the example inputs.")
@json_option
def command(
    module: str,
    output: str | None,
    shapes: tuple[str, ...],
    types: tuple[str, ...],
    dynamic: tuple[str, ...],
    output_names: tuple[str, ...],
    opset: int,
    verify: bool,
    seed: int,
    as_json: bool,
) -> None:
    """Export MODULE, a torch.nn.Module or a callable that makes one, written module:attribute.

    \b
    optkit export models:resnet -o resnet.onnx --input-shape x:1x3x224x224 --dynamic x:0=batch
    """
    from pathlib import Path

    from optkit.files import check_writable
    from optkit.model import model_sha256, parse_shape

    named_shapes = dict(parse_shape(text) for text in shapes)
    named_types = dict(_pair(text, "--input-type") for text in types)
    axes = {name: parse_axes(text) for name, text in (_pair(text, "--dynamic") for text in dynamic)}
    path = Path(output or f"{module.rpartition(':')[2].rpartition('.')[2] or 'model'}.onnx")
    check_writable(path)

    from optkit.torch.exporter import export
    from optkit.torch.load import example_inputs, load_module

    loaded = load_module(module)
    inputs = example_inputs(named_shapes, named_types, seed)
    export(
        loaded,
        tuple(inputs.values()),
        path,
        dynamic=axes,
        opset=opset,
        input_names=list(inputs),
        output_names=list(output_names) or None,
        verify=verify,
    )
    size = path.stat().st_size
    if as_json:
        print_json({"output": str(path), "bytes": size, "sha256": model_sha256(path), "verified": verify})
    else:
        say(f"wrote {path} ({size_text(size)}{', verified against PyTorch' if verify else ''})")


def parse_axes(text: str) -> dict[int, str]:
    """`0=batch,2=height` as {0: "batch", 2: "height"}.

    >>> parse_axes("0=batch,2=height")
    {0: 'batch', 2: 'height'}
    """
    axes = {}
    for part in text.split(","):
        axis, equals, name = part.partition("=")
        if not equals or not axis.strip().lstrip("-").isdigit() or not name.strip().isidentifier():
            raise UsageError(f"--dynamic: {part!r} names no axis; write NAME:0=batch,2=height")
        axes[int(axis)] = name.strip()
    return axes


def _pair(text: str, option: str) -> tuple[str, str]:
    name, colon, value = text.rpartition(":")
    if not colon or not name or not value:
        raise UsageError(f"{option}: {text!r} has no input name; write NAME:{text or '...'}")
    return name, value
