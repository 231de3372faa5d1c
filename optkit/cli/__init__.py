"""The command line: one file per verb, each loaded when it is called."""

from __future__ import annotations

from optkit.cli.group import cli, main

__all__ = ["cli", "main"]
