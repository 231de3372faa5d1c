"""Printing results: tables for people on standard output, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from optkit.cli.settings import colored

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")


def print_json(document: object) -> None:
    """One JSON document on standard output, keys in the order they were put in."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False, default=_plain))


def _plain(value: Any) -> object:
    """numpy scalars, paths, sets and the like as JSON has them."""
    if hasattr(value, "item"):
        return value.item()
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return str(value)


def console(*, stderr: bool = False) -> Console:
    """A rich console that wraps nothing when it is not writing to a terminal."""
    from rich.console import Console

    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(
        stderr=stderr,
        no_color=not colored(terminal),
        highlight=False,
        soft_wrap=not terminal,
        width=None if terminal else 200,
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> Table:
    """A plain rich table; columns whose name begins with ">" are right-aligned."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    result = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for column in columns:
        right = column.startswith(">")
        result.add_column(column.lstrip(">"), justify="right" if right else "left", overflow="fold")
    for row in rows:
        # Text: names of nodes may hold square brackets, which are rich's markup
        result.add_row(*(Text(str(cell)) for cell in row))
    return result


def size_text(nbytes: float) -> str:
    """Bytes as people read them.

    >>> size_text(1536)
    '1.5 kB'
    """
    for unit in ("B", "kB", "MB"):
        if nbytes < 1024:
            return f"{nbytes:.0f} B" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1024
    return f"{nbytes:.2f} GB"


def count_text(count: float) -> str:
    """A count with its magnitude.

    >>> count_text(4_100_000_000)
    '4.10 G'
    """
    for scale, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= scale:
            return f"{count / scale:.2f} {unit}"
    return f"{count:.0f}"
