"""How a mixed precision was found, as JSON values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optkit.mixed.candidates import Precisions
from optkit.mixed.front import Costs, not_beaten
from optkit.mixed.score import sqnr_db
from optkit.mixed.sensitivity import Sensitivity

if TYPE_CHECKING:
    from optkit.mixed.search import Search


def describe(search: Search, chosen: Precisions, rows: dict[str, Sensitivity], costs: Costs) -> dict[str, Any]:
    """The account.

    Keys: "max_drop", "metric" ("name", "data", "samples", "float" and more), "cost" ("latency" or "macs", the
    latter with a "reason"), "sensitivity" (a row a layer, most sensitive first), "points" (every assignment that was
    evaluated, the fastest first; "front": no other is faster and loses less), "chosen" (its point), "recipe" (the
    pipeline that makes it), "search_seconds".

    A point: "int8" (number of layers), "fp32", "bf16" (names of layers), "metric", "drop", "seconds" (measured, of a
    run; None where it was not built), "predicted" (by the models: seconds of the layers, or multiply-accumulates in
    billions weighted by operand width), "noise" (modelled, of the outputs over their signal), "float_mac_share",
    "within", "front", "chosen".
    """
    macs = search.candidates.macs(tuple(rows))
    points = [_point(search, p, chosen, rows, costs, macs) for p in search.scores.found]
    timed = search.bench is not None
    key = "seconds" if timed else "predicted"
    points.sort(key=lambda point: (point[key] is None, point[key] or point["predicted"], point["drop"]))
    _mark_front(points, key)
    return {
        "max_drop": search.request.max_drop,
        "metric": {**search.scores.account, "unit": "points", "float": search.scores.float_model},
        "cost": "latency" if timed else "macs",
        "reason": search.request.untimed,
        "sensitivity": sorted(
            (_row(search, row, chosen, costs, macs) for row in rows.values()), key=lambda row: row["sqnr_db"] or -1e9
        ),
        "points": points,
        "chosen": next(point for point in points if point["chosen"]),
        "recipe": str(search.candidates.recipe(chosen)),
        "search_seconds": search.spent(),
    }


def _row(search: Search, row: Sensitivity, chosen: Precisions, costs: Costs, macs: dict[str, int]) -> dict[str, Any]:
    layer = costs.layers[row.layer]
    timed = search.bench is not None
    measured = row.noise != float("inf")
    return {
        "layer": row.layer,
        "precision": precision(row.layer, chosen),
        "sqnr_db": sqnr_db(row.noise) if measured else None,
        "bf16_sqnr_db": None if row.bf16_noise is None else sqnr_db(row.bf16_noise),
        "metric": row.metric,
        "drop": None if row.metric is None else search.scores.float_model - row.metric,
        "macs": macs.get(row.layer, 0),
        "int8_seconds": layer.int8 if timed else None,
        "fp32_seconds": layer.fp32 if timed else None,
        "bf16_seconds": layer.bf16 if timed else None,
    }


def precision(layer: str, chosen: Precisions) -> str:
    """ "bf16", "fp32" or "int8"."""
    return "bf16" if layer in chosen.bf16 else "fp32" if layer in chosen.kept else "int8"


def _point(
    search: Search, p: Precisions, chosen: Precisions, rows: dict[str, Sensitivity], costs: Costs, macs: dict[str, int]
) -> dict[str, Any]:
    drop = search.scores.float_model - search.scores.found[p]
    total = sum(macs.values())
    noise = costs.noise(p)
    return {
        "int8": len(rows) - len(p.kept),
        "fp32": sorted(p.kept - p.bf16),
        "bf16": sorted(p.bf16),
        "metric": search.scores.found[p],
        "drop": drop,
        "artifact_metric": search.confirmed.get(p),
        "seconds": search.seconds(p),
        "predicted": costs.seconds(p),
        "noise": None if noise == float("inf") else noise,
        "float_mac_share": sum(macs[name] for name in p.kept) / total if total else 0.0,
        "within": search.within(p),
        "front": False,
        "chosen": p == chosen,
    }


def _mark_front(points: list[dict[str, Any]], key: str) -> None:
    known = {i: point for i, point in enumerate(points) if point[key] is not None}
    for place in not_beaten(known, lambda i: known[i][key], lambda i: known[i]["drop"]):
        known[place]["front"] = True
