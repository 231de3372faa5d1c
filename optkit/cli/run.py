"""`optkit run`: run an artifact once on arrays from files, or on seeded random data."""

from __future__ import annotations

from typing import Any

import click

from optkit.cli.output import console, json_option, print_json, table


@click.command(short_help="Run an artifact on arrays or random data.")
@click.argument("artifact", type=click.Path())
@click.argument("arrays", type=click.Path(), required=False)
@click.option(
    "-i",
    "--input",
    "single",
    multiple=True,
    metavar="NAME=@FILE",
    help="An input from a .npy, or from its entry in a .npz; repeatable.",
)
@click.option("--inputs", "file", type=click.Path(), help="All inputs from one .npz (or as second argument).")
@click.option("--seed", type=int, help="Random inputs from this seed (0 without any inputs).")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Free extents of random inputs.")
@click.option("-o", "--output", type=click.Path(), help="Write the outputs to this .npz.")
@click.option("--threads", type=click.IntRange(1), help="Threads; all usable processors by default.")
@json_option
def command(
    artifact: str,
    arrays: str | None,
    single: tuple[str, ...],
    file: str | None,
    seed: int | None,
    batch: int,
    output: str | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Run ARTIFACT once, on ARRAYS (an .npz with one array per input) or what the options name.

    Prints shape, type, range and mean of every output; -o keeps the outputs.
    """
    import time

    from optkit.arrays import read_feed, save_npz
    from optkit.errors import UsageError
    from optkit.measure.inputs import random_sample
    from optkit.runtime import load

    sources = [s for s in (arrays, file) if s is not None]
    if len(sources) > 1 or (sources and single):
        raise UsageError("give the inputs once: as an .npz, or one by one with --input")
    if seed is not None and (sources or single):
        raise UsageError("--seed makes random inputs; it goes with no others")
    with load(artifact, threads=threads) as runner:
        if sources or single:
            feed = read_feed(runner.inputs, sources[0] if sources else None, single)
        else:
            free = {d: batch for s in runner.inputs for d in s.shape if isinstance(d, str)}
            feed = random_sample(runner.inputs, seed or 0, free)
        begin = time.perf_counter()
        outputs = runner.run(feed)
        seconds = time.perf_counter() - begin
    if output is not None:
        save_npz(output, outputs)
    rows = [{"name": name, **_describe(array)} for name, array in outputs.items()]
    if as_json:
        print_json({"seconds": seconds, "outputs": rows, "written": output})
        return
    columns = ["output", "type", "shape", ">minimum", ">mean", ">maximum"]
    console().print(table(columns, [[_cell(v) for v in row.values()] for row in rows]))
    if output is not None:
        click.echo(f"wrote {output}")


def _describe(array: Any) -> dict[str, Any]:
    import numpy as np

    values = array.astype(np.float64)
    empty = values.size == 0
    return {
        "dtype": array.dtype.name,
        "shape": list(array.shape),
        "minimum": None if empty else float(values.min()),
        "mean": None if empty else float(values.mean()),
        "maximum": None if empty else float(values.max()),
    }


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "-" if value is None else "x".join(map(str, value)) if isinstance(value, list) else str(value)
