"""What holds for every command: how much to say, whether to show tracebacks, and where text goes."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

import click


@dataclass
class Settings:
    """How talkative the command line is.

    Attributes:
        verbosity: -1 errors only, 0 results and warnings, 1 findings of passes, 2 everything.
        debug: show tracebacks.
    """

    verbosity: int = 0
    debug: bool = False


SETTINGS = Settings()
"""Of this process; set by the options, read by everything that prints."""


def shared_options() -> list[click.Option]:
    """Fresh -v, -q and --debug options that write into SETTINGS."""

    def louder(_ctx: click.Context, _parameter: click.Parameter, count: int) -> None:
        SETTINGS.verbosity += count

    def silent(_ctx: click.Context, _parameter: click.Parameter, given: bool) -> None:
        if given:
            SETTINGS.verbosity = -1

    def debug(_ctx: click.Context, _parameter: click.Parameter, given: bool) -> None:
        SETTINGS.debug = SETTINGS.debug or given

    return [
        click.Option(["-v", "--verbose"], count=True, callback=louder, expose_value=False, help="Say more; -vv all."),
        click.Option(["-q", "--quiet"], is_flag=True, callback=silent, expose_value=False, help="Say errors only."),
        click.Option(["--debug"], is_flag=True, callback=debug, expose_value=False, help="Show tracebacks of errors."),
    ]


def colored(stream_is_terminal: bool) -> bool:
    """Whether to color: a terminal, and NO_COLOR (https://no-color.org) unset or empty."""
    return stream_is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def say(text: str, *, level: int = 0) -> None:
    """Write a line to standard error if the verbosity is at least `level`."""
    if SETTINGS.verbosity >= level:
        click.echo(text, err=True)


def warn(text: str) -> None:
    """Write a warning to standard error, unless --quiet."""
    label = "warning:"
    if colored(sys.stderr.isatty()):
        label = click.style(label, fg="yellow", bold=True)
    say(f"{label} {text}")


def complain(text: str) -> None:
    """Write an error to standard error, always, in one line."""
    label = "error:"
    if colored(sys.stderr.isatty()):
        label = click.style(label, fg="red", bold=True)
    click.echo(f"{label} {' '.join(text.split())}", err=True)
