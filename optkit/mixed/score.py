"""The metric of candidates, each evaluated once; and samples of what it is evaluated on."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from optkit.data import Samples, held_out, open_calibration
from optkit.errors import DataError, UsageError
from optkit.measure.compare import Comparison
from optkit.measure.reference import Reference
from optkit.mixed.agreement import Agreement
from optkit.mixed.candidates import Candidates, Precisions
from optkit.mixed.execute import batched, onnx_runner
from optkit.mixed.request import MixedRequest
from optkit.mixed.user_metric import Evaluate, Run
from optkit.transform import Sample

PROBES = 16
"""Calls of the model at most that layers are compared on."""
HOLD_OUT = 4
"""Every so many calibration samples one is left to the metric."""
_FEW = 8
"""With fewer calibration samples none is held out."""
_ROWS = 512
_BYTES = 256 << 20


def cpu_threads() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class Scores:
    """Points of assignments by one metric.

    Attributes:
        evaluate: the metric.
        float_model: the metric's value for the source model.
        probes: spread over what the metric was evaluated on.
        found: by assignment, what was evaluated.
        account: of the metric, for the report.
    """

    evaluate: Evaluate
    float_model: float
    probes: Sequence[Sample]
    account: dict[str, object]
    found: dict[Precisions, float] = field(default_factory=dict)

    def of(self, precisions: Precisions, candidates: Candidates, whole: bool = True) -> float:
        """Points of an assignment, by ONNX Runtime; `whole` as for `Candidates.make`."""
        if not whole:
            return self.evaluate(onnx_runner(candidates.make(precisions, whole=False), cpu_threads()))
        if precisions not in self.found:
            self.found[precisions] = self.evaluate(onnx_runner(candidates.make(precisions), cpu_threads()))
        return self.found[precisions]

    def drop(self, precisions: Precisions, candidates: Candidates) -> float:
        """Points below the float model; negative where it is better."""
        return self.float_model - self.of(precisions, candidates)


def open_scores(request: MixedRequest, source: ir.Model, data: Samples | None, preprocess: str | None) -> Scores:
    """Evaluate the float model, and keep the metric.

    Args:
        data: calibration samples, all of them.

    Raises:
        UsageError: there is nothing to evaluate on.
        DataError: the metric or its data fails.
    """
    session = Reference(source, optimized=True, threads=cpu_threads(), exact=True)
    recorder = _Recorder(session)
    run = batched(session.inputs, recorder.run)
    if request.evaluate is not None:
        score = request.evaluate(run)
        if not recorder.kept:
            raise DataError(f"{request.name}: did not run the model; call the function it is given")
        account = {"name": request.name, "data": request.name, "samples": recorder.calls}
        return Scores(request.evaluate, score, recorder.kept, account)
    samples, where = _evaluation(request, source, data, preprocess)
    feeds = _some(samples)
    metric = Agreement(source.graph.outputs, feeds, run)
    account = {
        "name": "default",
        "description": metric.describe(),
        "data": where,
        "samples": len(feeds),
        "resolution": 100.0 / max(metric.rows, 1) if "top1" in metric.kinds.values() else None,
    }
    return Scores(metric, 100.0, recorder.kept, account)


def holds_out(request: MixedRequest, data: Samples | None) -> bool:
    """Whether the metric's data has to come out of the calibration samples, and they are enough for both."""
    if request.evaluate is not None or request.eval_data is not None or data is None:
        return False
    return sum(1 for _ in zip(range(_FEW), data(), strict=False)) == _FEW


def _evaluation(
    request: MixedRequest, source: ir.Model, data: Samples | None, preprocess: str | None
) -> tuple[Samples, str]:
    if request.eval_data is not None:
        text = os.fspath(request.eval_data) if isinstance(request.eval_data, (str, os.PathLike)) else None
        images = text is not None and (os.path.isdir(text) or text.lower().endswith(".zip"))  # noqa: PTH112
        opened = open_calibration(request.eval_data, source.graph.inputs, preprocess=preprocess if images else None)
        return opened, text or "given"
    if data is None:
        raise UsageError("--max-drop measures accuracy on data: give --calib-data, --eval-data or --eval")
    if holds_out(request, data):
        return held_out(data, HOLD_OUT), f"every {HOLD_OUT}th calibration sample, held out of calibration"
    return data, f"the calibration samples, fewer than {_FEW}: none is held out"


def _some(samples: Samples) -> list[Sample]:
    """The first, as many as fit the limits."""
    found: list[Sample] = []
    size = 0
    for sample in samples():
        size += sum(np.asarray(array).nbytes for array in sample.values())
        if len(found) == _ROWS or (found and size > _BYTES):
            break
        found.append(sample)
    if not found:
        raise DataError("there is no sample to evaluate on")
    return found


class _Recorder:
    """Runs a model and keeps some of what it is fed, spread over all calls."""

    def __init__(self, session: Reference) -> None:
        self._session, self._stride = session, 1
        self.calls, self.kept = 0, list[Sample]()

    def run(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = self._session.run(feed)
        if self.calls % self._stride == 0:
            self.kept.append(
                {spec.name: _few(np.asarray(feed[spec.name]), spec.shape) for spec in self._session.inputs}
            )
            if len(self.kept) > PROBES:
                self.kept, self._stride = self.kept[::2], 2 * self._stride
        self.calls += 1
        return found


def _few(array: np.ndarray, shape: Sequence[object]) -> np.ndarray:
    """A copy, of one row where any number of them will do: the caller may use the array again."""
    return np.array(array[:1] if shape and not isinstance(shape[0], int) else array)


def probe_noise(run: Run, probes: Sequence[Sample], wanted: Sequence[Mapping[str, np.ndarray]]) -> float:
    """Noise over signal of a model's outputs, of several the largest; infinite where they are not finite."""
    compared: dict[str, Comparison] = {}
    for probe, reference in zip(probes, wanted, strict=True):
        for name, array in run(probe).items():
            if reference[name].dtype.kind != "f" or reference[name].shape != array.shape:
                continue
            compared.setdefault(name, Comparison()).add(reference[name], array)
    figures = [comparison.figures() for comparison in compared.values()]
    if any(found.nonfinite for found in figures):
        return float("inf")
    return max((min(found.relative, 1e6) ** 2 for found in figures), default=0.0)


def sqnr_db(noise: float) -> float:
    """Signal to noise in dB, between -200 and 200."""
    return float(np.clip(-10 * np.log10(max(noise, 1e-30)), -200, 200))
