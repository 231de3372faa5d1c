"""The user's metric: a function of a function that runs the model."""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Callable, Mapping

import numpy as np

from optkit.data import resolve_callable
from optkit.errors import DataError, OptkitError, UsageError

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]
"""run(feed): input name to array, the model's outputs by name."""

Evaluate = Callable[[Run], float]
"""evaluate(run): points, of which more are better."""


def find_evaluate(spec: str | Evaluate) -> tuple[Evaluate, str]:
    """The metric and its name, of "module:callable" or of a function.

    Raises:
        DataError: it cannot be imported.
        UsageError: it is no metric: not of that form, or not callable with one argument.
    """
    if isinstance(spec, str):
        module, colon, attribute = spec.rpartition(":")
        if not (colon and module and attribute):
            raise UsageError(f"--eval {spec!r}: give module:callable, a function of run(feed) that returns points")
        found: Callable[..., object] = resolve_callable(module, attribute)
        name = spec
    else:
        found, name = spec, getattr(spec, "__name__", type(spec).__name__)
        if not callable(found):
            raise UsageError(f"evaluate: a {type(spec).__name__} cannot be called; give a function of run(feed)")
    try:
        inspect.signature(found).bind(lambda feed: {})
    except TypeError as error:
        raise UsageError(
            f"{name}: cannot be called with one argument, the function run(feed) -> outputs: {error}"
        ) from error
    except ValueError:
        pass  # a builtin without a signature; calling it tells

    def evaluate(run: Run) -> float:
        try:
            score = found(run)
        except OptkitError:
            raise
        except Exception as error:
            raise DataError(f"{name}: raised {type(error).__name__}: {error}") from error
        if isinstance(score, np.ndarray) and score.size == 1:
            score = score.item()
        if not isinstance(score, numbers.Real):
            raise DataError(f"{name}: returned a {type(score).__name__}; return one number, points of the metric")
        if not math.isfinite(score):
            raise DataError(f"{name}: returned {float(score)}; return a finite number, points of the metric")
        return float(score)

    return evaluate, name
