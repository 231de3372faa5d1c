"""Statistics of a model's tensors: from the calibration cache where it fits, else measured and kept there."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import onnx_ir as ir

from optkit.calibration_cache import CalibrationCache, graph_sha256
from optkit.errors import DataError
from optkit.transform import Finding
from optkit_passes.quantize.calibrators import Distribution, Extremes, Method, MovingExtremes, Statistic

Statistics = dict[ir.Value, Statistic]
Measure = Callable[[], tuple[Statistics, int]]
"""Runs the model; returns the statistics and the number of samples they are of."""


def measured_or_cached(
    cache: CalibrationCache,
    model: ir.Model,
    passes: str,
    method: Method,
    samples: int | None,
    values: Sequence[ir.Value],
    measure: Measure,
) -> tuple[Statistics, int, list[Finding]]:
    """The statistics of `values` and the number of samples they are of.

    A file that was made for something else is made again, with a warning that says what differs. The file is written
    when all samples have been run, so that stopping before leaves the old one.

    Args:
        passes: text of the pipeline so far.
        samples: the pass's own limit on their number.

    Raises:
        DataError: the file is damaged; or there is no data, and no file that fits.
        OptkitError: the file cannot be written.
    """
    binding = cache.binding(passes, graph_sha256(model))
    if binding["data"] is not None and samples is not None:
        binding["data"]["samples"] = min(samples, binding["data"]["samples"] or samples)
    document = cache.read()
    reason = None if document is None else cache.difference(document, binding) or _lacking(document, method, values)
    if document is not None and reason is None:
        try:
            found: Statistics = {v: _decoded(document["tensors"][v.name], method) for v in values}
            count = int(document["count"])
        except (KeyError, TypeError, ValueError, AttributeError, binascii.Error, zlib.error) as error:
            raise DataError(cache.damaged(f"{type(error).__name__}: {error}")) from error
        return found, count, [Finding("note", "", f"statistics from the calibration cache {cache.path}")]
    if cache.data is None:
        why = "does not exist" if document is None else f"is of {reason}"
        raise DataError(f"no calibration data, and the calibration cache {cache.path} {why}; give the data")
    statistics, count = measure()
    tensors = {v.name: _encoded(s) for v, s in statistics.items()}
    cache.write({**binding, "method": asdict(method), "count": count, "tensors": tensors})
    if document is None:
        return statistics, count, [Finding("note", "", f"statistics written to the calibration cache {cache.path}")]
    text = f"the calibration cache {cache.path} was of {reason}: measured again, and the file replaced"
    return statistics, count, [Finding("warning", "", text)]


def _lacking(document: Mapping[str, Any], method: Method, values: Sequence[ir.Value]) -> str | None:
    tensors = document.get("tensors", {})
    for value in values:
        entry = tensors.get(value.name)
        if entry is None:
            return f"other tensors ({value.name!r} is not among them)"
        if not method.accepts(entry.get("kind", "")):
            return f"another method ({document.get('method', {}).get('name')!r}, now {method.name!r})"
        if entry["kind"] == MovingExtremes.kind and entry.get("momentum") != method.momentum:
            return f"another momentum ({entry.get('momentum')}, now {method.momentum})"
    return None


def _encoded(statistic: Statistic) -> dict[str, Any]:
    # float.hex would be exact too; so is repr, which json uses, and people can read it
    entry: dict[str, Any] = {"kind": statistic.kind}
    if statistic.low <= statistic.high:  # infinities, where nothing was seen, are no JSON
        entry |= {"low": statistic.low, "high": statistic.high}
    if isinstance(statistic, MovingExtremes):
        entry["momentum"] = statistic.momentum
    if isinstance(statistic, Distribution):
        packed = zlib.compress(statistic.counts.astype("<i8").tobytes(), 6)
        entry |= {
            "width": statistic.width,
            "first": statistic.first,
            "total": int(statistic.counts.sum()),
            "counts": base64.b64encode(packed).decode(),
        }
    return entry


def _decoded(entry: Mapping[str, Any], method: Method) -> Statistic:
    statistic: Statistic
    match entry["kind"]:
        case Distribution.kind:
            statistic = Distribution()
            data = zlib.decompress(base64.b64decode(entry["counts"], validate=True))
            statistic.counts = np.frombuffer(data, "<i8").astype(np.int64)
            statistic.first, statistic.width = int(entry["first"]), float(entry["width"])
            if int(statistic.counts.sum()) != entry["total"]:
                raise ValueError("counts do not add up")
        case Extremes.kind:
            statistic = Extremes()
        case MovingExtremes.kind:
            statistic = MovingExtremes(method.momentum)
        case kind:
            raise ValueError(f"unknown kind {kind!r}")
    if "low" in entry:
        statistic.low, statistic.high = float(entry["low"]), float(entry["high"])
    return statistic
