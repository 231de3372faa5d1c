"""`optkit doctor`: what this machine can build and run."""

from __future__ import annotations

import click

from optkit.cli.output import console, json_option, print_json, size_text, table


@click.command(short_help="Say what this machine can build and run.")
@json_option
def command(as_json: bool) -> int:
    """Examine processor, memory, compilers, GPU and packages; exit 1 if something needed is missing."""
    from optkit.doctor import examine

    found = examine()
    if as_json:
        print_json(found)
        return 1 if found["problems"] else 0
    out = console()
    target = found["target"]
    machine = [
        ("CPU", f"{found['cpu']} ({found['architecture']})"),
        ("cores, memory", f"{found['cores']}, {size_text(found['memory'])}"),
        ("target cpu", target if isinstance(target, str) else _target_text(target)),
        ("system", f"{found['system']}, Python {found['python']}"),
        ("GPU", f"compute capability {', '.join(found['gpus'])}" if found["gpus"] else "none"),
    ]
    tools = [(name, version or "not found") for name, version in found["compilers"].items()]
    packages = [(name, version or "not installed") for name, version in found["packages"].items()]
    for title, rows in (
        ("machine", machine),
        ("compiler", tools),
        ("package", packages),
        ("can it", list(found["can"].items())),
    ):
        out.print(table([title, ""], rows))
    for problem in found["problems"]:
        out.print(f"problem: {problem}", markup=False)
    if not found["problems"]:
        out.print("no problems found")
    return 1 if found["problems"] else 0


def _target_text(target: dict[str, object]) -> str:
    features = target["features"]
    words = ", ".join(map(str, features)) if isinstance(features, list) else ""
    return f"{target['lanes']} lanes, {target['registers']} registers, {target['cores']} cores; {words}"
