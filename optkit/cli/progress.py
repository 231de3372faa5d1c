"""Progress on standard error: a rich bar on a terminal, nothing elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from optkit.cli.settings import SETTINGS

Report = Callable[[str, int, int | None], None]
"""report(description, done, total); total is None where it is unknown."""


@contextlib.contextmanager
def progress() -> Iterator[Report]:
    """A reporter that shows what is being done; silent off a terminal and with --quiet."""
    if not sys.stderr.isatty() or SETTINGS.verbosity < 0:
        yield lambda _description, _done, _total: None
        return

    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from optkit.cli.output import console

    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(),
        console=console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task("starting", total=None, count="")

        def report(description: str, done: int, total: int | None) -> None:
            count = f"{done}/{total}" if total else (str(done) if done else "")
            bar.update(task, description=description, completed=done, total=total, count=count)

        yield report
