"""The group of all verbs, and the one place where errors become a line and an exit code."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import click

from optkit.cli.lazy import LazyGroup
from optkit.cli.settings import SETTINGS, Settings, complain, shared_options
from optkit.errors import OptkitError

VERBS = {
    "compile": ("optkit.cli.compile:command", "Compile an ONNX model into a verified artifact."),
    "tune": ("optkit.cli.tune:command", "Measure a model's kernels and keep the fastest."),
    "quantize": ("optkit.cli.quantize:command", "Quantize an ONNX model to int8; writes QDQ ONNX."),
    "run": ("optkit.cli.run:command", "Run an artifact on arrays or random data."),
    "verify": ("optkit.cli.verify:command", "Compare an artifact with ONNX Runtime on the original model."),
    "benchmark": ("optkit.cli.benchmark:command", "Time an artifact, against its rivals if asked."),
    "debug": ("optkit.cli.debug:command", "Find the layer, pass or kernel that made a model wrong."),
    "inspect": ("optkit.cli.inspect:command", "Show what a model or an artifact holds."),
    "export": ("optkit.cli.export:command", "Export a PyTorch model to ONNX."),
    "passes": ("optkit.cli.passes:command", "List passes and pipelines with their options."),
    "targets": ("optkit.cli.targets:command", "List the machines that can be compiled for."),
    "doctor": ("optkit.cli.doctor:command", "Say what this machine can build and run."),
    "completion": ("optkit.cli.completion:command", "Print the shell's completion script."),
}


def _print_version(ctx: click.Context, _parameter: click.Parameter, given: bool) -> None:
    if given and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"optkit {version('optkit')}")
        ctx.exit()


cli = LazyGroup(
    name="optkit",
    verbs=VERBS,
    help="Compile ONNX models into small, fast, verified artifacts for CPUs and GPUs.",
    params=[
        *shared_options(),
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_print_version,
            help="Print the version.",
        ),
    ],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong usage, 3 cannot tell, 130 interrupted."""
    SETTINGS.__dict__.update(Settings().__dict__)
    try:
        code = cli.main(args=list(args) if args is not None else None, prog_name="optkit", standalone_mode=False)
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else 0)
    except Exception as error:
        _fail(error)
    except KeyboardInterrupt as error:
        _fail(error)


def _fail(error: BaseException) -> NoReturn:
    if isinstance(error, BrokenPipeError):
        # The reader (head, less) went away; what is left must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    if SETTINGS.debug and not isinstance(error, click.exceptions.Exit):
        traceback.print_exception(error)
    text, code = describe(error)
    complain(text)
    sys.exit(code)


def describe(error: BaseException) -> tuple[str, int]:
    """The line and the exit code an error is reported with."""
    if isinstance(error, OptkitError):
        return str(error), error.exit_code
    if isinstance(error, (click.Abort, KeyboardInterrupt)):
        return "interrupted", 130
    if isinstance(error, click.UsageError):
        verb = error.ctx.command_path if error.ctx is not None else "optkit"
        return f"{error.format_message().rstrip('.')}; see '{verb} --help'", 2
    if isinstance(error, click.ClickException):
        return error.format_message(), error.exit_code
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"no space left on the disk{_place(error)}; free some and run again", 1
    if isinstance(error, OSError):
        return f"{error.strerror or error}{_place(error)}", 1
    if isinstance(error, MemoryError):
        return "out of memory; try fewer calibration samples or a smaller model", 1
    hint = "" if SETTINGS.debug else "; run again with --debug for the traceback, and please report it"
    return f"internal error: {type(error).__name__}: {error}{hint}", 1


def _place(error: OSError) -> str:
    return f": {error.filename}" if error.filename else ""
