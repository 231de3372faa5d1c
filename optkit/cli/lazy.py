"""A click group that knows its commands' names and help without importing them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click

from optkit.cli.settings import shared_options
from optkit.errors import UsageError, nearest


class LazyGroup(click.Group):
    """A group whose commands are `module:attribute` with a line of help, imported when they run.

    The shared options (-v, -q, --debug) are added to every command, so that they may stand on either side
    of the verb.
    """

    def __init__(self, *, verbs: Mapping[str, tuple[str, str]], **settings: Any) -> None:
        super().__init__(**settings)
        self.verbs = dict(verbs)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs, in the order of the table: the order of a user's work, not the alphabet."""
        return list(self.verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported; None for an unknown verb."""
        if cmd_name in self.commands:
            return self.commands[cmd_name]
        if cmd_name not in self.verbs:
            return None
        module, attribute = self.verbs[cmd_name][0].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        command.name = cmd_name
        taken = {word for parameter in command.params for word in parameter.opts}
        command.params += [option for option in shared_options() if not taken & set(option.opts)]
        self.commands[cmd_name] = command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, with the nearest verb in the error."""
        if args and args[0] not in self.verbs and not args[0].startswith("-"):
            raise UsageError(f"unknown command {args[0]!r}; {nearest(args[0], self.verbs)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table of verbs, from the one-line help; imports no command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.verbs.items()])
