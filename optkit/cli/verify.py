"""`optkit verify`: compare an artifact with ONNX Runtime on the original model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from optkit.cli.options import parse_shapes, shape_option
from optkit.cli.output import console, json_option, print_json, table
from optkit.cli.settings import warn

if TYPE_CHECKING:
    from optkit.measure.verify import Verification


@click.command(short_help="Compare an artifact with ONNX Runtime on the original model.")
@click.argument("model", type=click.Path())
@click.argument("artifact", type=click.Path())
@click.option("--emitted", type=click.Path(), help="The Q/DQ model the artifact was made of (compile --emit onnx).")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "tf32", "fp16", "bf16", "int8"]),
    help="Whose limits apply; by default what the artifact was compiled with.",
)
@click.option(
    "--inputs", type=click.Path(), help="Samples: an .npz, one array per input, samples along the first axis."
)
@click.option("--samples", type=click.IntRange(1, 64), default=3, show_default=True, help="How many samples to run.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the random samples.")
@click.option("--atol", type=click.FloatRange(0), help="Also limit the largest absolute error.")
@click.option("--rtol", type=click.FloatRange(0), help="Limit the relative error of the norm to this.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads of both.")
@shape_option
@json_option
def command(
    model: str,
    artifact: str,
    emitted: str | None,
    precision: str | None,
    inputs: str | None,
    samples: int,
    seed: int,
    atol: float | None,
    rtol: float | None,
    threads: int,
    input_shapes: tuple[str, ...],
    as_json: bool,
) -> None:
    """Run MODEL in ONNX Runtime and ARTIFACT side by side, and compare every output.

    Exits with 1 if an output misses its limits.
    """
    from optkit.errors import VerificationError
    from optkit.measure.samples import choose_samples, guess_precision, quantized_model
    from optkit.measure.verify import verify
    from optkit.model import model_sha256
    from optkit.runtime import load

    with load(artifact, threads=threads) as runner:
        if model_sha256(model) not in ("", runner.manifest.source_sha256):
            warn(f"{artifact} was compiled from another model than {model} (its hash differs)")
        chosen = precision or guess_precision(runner.manifest)
        reference = quantized_model(emitted or model) if chosen == "int8" else None
        if chosen == "int8" and reference is None:
            warn("without --emitted, int8 is only held to a signal-to-noise ratio of 10 dB")
        feeds = choose_samples(runner.inputs, inputs, samples, seed, parse_shapes(input_shapes), model)
        outcome = verify(model, reference, runner, feeds, chosen, atol=atol, rtol=rtol, threads=threads)
    if as_json:
        print_json(outcome.as_dict())
    else:
        _print(outcome)
    if not outcome.passed:
        raise VerificationError(outcome.reason)


def _print(outcome: Verification) -> None:
    columns = ["output", ">max abs error", ">relative", ">cosine", ">SQNR dB", "limits", ""]
    console().print(table(columns, [_row(o) for o in outcome.outputs]))
    click.echo(f"{outcome.precision}, {outcome.samples} samples: {'passed' if outcome.passed else 'failed'}")


def _row(check: Any) -> list[str]:
    f = check.figures
    limits = ", ".join(f"{name} {value:.3g}" for name, value in check.limits.items())
    verdict = "failed" if check.reason else f"ok, {check.rows_alone} rows alone" if check.rows_alone else "ok"
    return [check.name, f"{f.max_abs:.3e}", f"{f.relative:.3e}", f"{f.cosine:.6f}", f"{f.sqnr_db:.1f}", limits, verdict]
