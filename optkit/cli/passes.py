"""`optkit passes`: what can stand in a pipeline, read from the passes' own definitions."""

from __future__ import annotations

import inspect

import click

from optkit.cli.output import console, json_option, print_json, table


@click.command(short_help="List passes and pipelines with their options.")
@click.argument("name", required=False)
@json_option
def command(name: str | None, as_json: bool) -> None:
    """List passes with their options and the named pipelines; with NAME, that pass alone."""
    from optkit import registry
    from optkit.pipeline_text import describe_options

    classes = registry.passes() if name is None else {name: registry.get_pass(name)}
    pipelines = registry.pipelines() if name is None else {}
    described = {
        word: {
            "help": (inspect.getdoc(cls) or "").partition("\n")[0],
            "options": [
                {"name": o.name, "type": o.type, "default": o.default, "help": o.help} for o in describe_options(cls)
            ],
        }
        for word, cls in classes.items()
    }
    if as_json:
        print_json({"passes": described, "pipelines": {word: str(p) for word, p in pipelines.items()}})
        return
    out = console()
    for word, cls in classes.items():
        out.print(f"{word}: {(inspect.getdoc(cls) or '').partition(chr(10))[0]}", markup=False)
        rows = [(f"  {o.name}", o.type, o.default, o.help) for o in describe_options(cls)]
        out.print(table(["  option", "type", "default", "what it does"], rows) if rows else "  (no options)\n")
    if pipelines:
        out.print(table(["pipeline", "passes"], [(word, str(p)) for word, p in pipelines.items()]))
