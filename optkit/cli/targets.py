"""`optkit targets`: what can be compiled for, as each family lists it."""

from __future__ import annotations

import click

from optkit.cli.output import console, json_option, print_json, table


@click.command(short_help="List the machines that can be compiled for.")
@click.argument("name", required=False)
@json_option
def command(name: str | None, as_json: bool) -> None:
    """List targets by family; with NAME, that target's numbers: vector width, registers, features."""
    from optkit import registry

    if name is not None:
        _show(name, as_json)
        return
    families = {word: dict(family.names()) for word, family in registry.target_families().items()}
    if as_json:
        print_json(families)
        return
    rows = [(family, target, text) for family, names in families.items() for target, text in names.items()]
    console().print(table(["family", "target", "what it is"], rows))


def _show(name: str, as_json: bool) -> None:
    from optkit.artifact import describe_target
    from optkit.registry import find_target

    target = find_target(name)
    found = {**describe_target(target), "cache": list(target.cache), "summary": target.summary}
    found["runs_here"] = target.runs_here() or "yes"
    if as_json:
        print_json(found)
        return
    rows = [(key, ", ".join(map(str, v)) if isinstance(v, list) else str(v)) for key, v in found.items()]
    console().print(table(["", name], rows))
