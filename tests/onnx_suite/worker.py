"""Runs cases whose names come in on standard input; answers each with one line of JSON.

A process of its own, so that a crash or a hang costs one case.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from typing import Any

import numpy as np

from optkit.backend import prepare
from optkit.errors import OptkitError, UnsupportedError
from tests.onnx_suite.cases import Case, all_cases

RTOL, ATOL = 1e-3, 1e-5


def run_case(case: Case) -> tuple[str, str]:
    """Status and detail: "passed", "refused" by prepare with a reason, "failed" in prepare, or "wrong"."""
    try:
        prepared = prepare(case.model())
    except UnsupportedError as error:
        return "refused", str(error)
    except OptkitError as error:
        return "failed", f"{type(error).__name__}: {error}"
    except Exception as error:  # a bug: everything prepare raises should be an OptkitError
        return "failed", f"{type(error).__name__}: {error}"
    count = 0
    for inputs, expected in case.data():
        count += 1
        try:
            found = prepared.run(inputs)
        except Exception as error:
            return "wrong", f"run raised {type(error).__name__}: {error}"
        for i, (a, b) in enumerate(zip(expected, found, strict=True)):
            problem = difference(a, b)
            if problem:
                return "wrong", f"output {i}: {problem}"
    return ("passed", "") if count else ("wrong", "the case has no data")


def difference(expected: Any, found: Any) -> str:
    """Why the arrays are not the same; empty where they are."""
    if expected is None or isinstance(expected, list):
        return "" if expected is None and found is None else "a sequence or an optional was expected"
    expected = np.asarray(expected)
    if expected.dtype != found.dtype:
        return f"type {found.dtype} for {expected.dtype}"
    if expected.shape != found.shape:
        return f"shape {found.shape} for {expected.shape}"
    if expected.dtype.kind in "OUS":
        return "" if np.array_equal(expected, found) else "strings differ"
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    a, b = expected.astype(wide), found.astype(wide)
    if np.allclose(b, a, rtol=RTOL, atol=ATOL, equal_nan=True):
        return ""
    wrong = ~np.isclose(b, a, rtol=RTOL, atol=ATOL, equal_nan=True)
    return f"{int(wrong.sum())} of {wrong.size} elements differ, first {b[wrong][:1]} for {a[wrong][:1]}"


def main() -> None:
    """Answer until standard input ends."""
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    cases = all_cases()
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        status, detail = run_case(cases[line.strip()])
        print(json.dumps({"status": status, "detail": detail[:500]}), file=answers, flush=True)


if __name__ == "__main__":
    main()
