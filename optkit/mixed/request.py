"""What is asked of a search for mixed precision, checked before any work."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from optkit.errors import UsageError
from optkit.mixed.user_metric import Evaluate, find_evaluate
from optkit.pipeline import Pipeline
from optkit.target import Target

SEARCH_SECONDS = 900.0
"""The search starts nothing new after so many seconds, unless told otherwise."""


@dataclass(frozen=True)
class MixedRequest:
    """A search that was asked for and can be made.

    Attributes:
        max_drop: points of the metric, below the float model's, that the result may lose.
        evaluate: the user's metric, or None for the one without labels.
        name: of the metric, for the report.
        eval_data: samples of the metric without labels, or None.
        seconds: after which nothing new is started.
        untimed: why latency cannot be measured, None where it can; multiply-accumulates in float are the cost then.
    """

    max_drop: float
    evaluate: Evaluate | None = None
    name: str = "default"
    eval_data: object = None
    seconds: float = SEARCH_SECONDS
    untimed: str | None = None


def make_request(
    max_drop: float | None,
    evaluate: str | Evaluate | None,
    eval_data: object,
    search_time: float | None,
    pipeline: Pipeline,
    target: Target | None,
    others: Mapping[str, object],
) -> MixedRequest | None:
    """The request, None where no drop is given.

    Args:
        others: options that cannot be combined with it, by name on the command line; those of no value do not count.

    Raises:
        UsageError: in one line, what does not go together.
        DataError: `evaluate` names nothing that can be imported.
    """
    if max_drop is None:
        given = {"--eval": evaluate, "--eval-data": eval_data, "--search-time": search_time}
        for option, value in given.items():
            if value is not None:
                raise UsageError(f"{option} needs --max-drop, the points of the metric that may be lost")
        return None
    if not (math.isfinite(max_drop) and max_drop >= 0):
        raise UsageError(f"--max-drop {max_drop}: give points of the metric, 0 or more")
    if search_time is not None and not search_time > 0:
        raise UsageError(f"--search-time {search_time}: give seconds, more than 0")
    for option, value in others.items():
        if value:
            why = {
                "--fallback": "what is left to others is neither quantized nor timed",
                "--precision-search": "the search within --max-drop is by measured latency already",
            }.get(option, "the search measures one shape")
            raise UsageError(f"--max-drop and {option} exclude each other: {why}")
    if "quantize" not in pipeline.pass_names():
        raise UsageError("--max-drop decides which layers are quantized: add --int8, or a pipeline that quantizes")
    if {"fp16", "bf16", "tf32"} & set(pipeline.pass_names()):
        raise UsageError(
            "--max-drop chooses the other precisions itself: leave bf16, tf32 and fp16 out of the pipeline"
        )
    found, name = (None, "default") if evaluate is None else find_evaluate(evaluate)
    if found is not None and eval_data is not None:
        raise UsageError("--eval brings its own data: leave --eval-data out, it is for the metric without labels")
    untimed = None
    if target is None:
        untimed = "there is no target to measure on"
    elif (untimed := target.runs_here()) is None and target.device != "cpu":
        untimed = f"kernels of {target.device} cannot be timed yet"
    return MixedRequest(max_drop, found, name, eval_data, search_time or SEARCH_SECONDS, untimed)
