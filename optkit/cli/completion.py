"""`optkit completion bash|zsh|fish`: the script that makes a shell complete optkit's words."""

from __future__ import annotations

import click
from click.shell_completion import ShellComplete, get_completion_class

from optkit.errors import UsageError

SHELLS = ("bash", "zsh", "fish")


@click.command(short_help="Print the shell's completion script.")
@click.argument("shell", type=click.Choice(SHELLS))
def command(shell: str) -> None:
    """Print the completion script for SHELL.

    Put `eval "$(optkit completion bash)"` into ~/.bashrc, likewise for zsh, or
    `optkit completion fish | source` into fish's configuration.
    """
    from optkit.cli.group import cli

    kind = get_completion_class(shell)
    if kind is None:
        raise UsageError(f"click knows no completion for {shell}")
    # ShellComplete.source: BashComplete's own starts a shell to look at its version first
    click.echo(ShellComplete.source(kind(cli, {}, "optkit", "_OPTKIT_COMPLETE")))
