"""Shows how a mixed precision was found: the sensitive layers, the front, and what was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optkit.cli.output import console, table
from optkit.cli.settings import SETTINGS, say

_ROWS = 8


def show_mixed(account: Mapping[str, Any]) -> None:
    """Two tables on standard output, all layers with -v, and a line on standard error."""
    metric, latency = account["metric"], account["cost"] == "latency"
    layers = account["sensitivity"]
    if SETTINGS.verbosity >= 0:
        out = console()
        shown = layers if SETTINGS.verbosity > 0 else layers[:_ROWS]
        title = f"sensitivity, one layer alone in int8 ({len(shown)} of {len(layers)} layers)"
        columns = ["layer", ">SQNR, dB", ">drop, points", ">int8, us", ">fp32, us", "chosen"]
        out.print(table(columns, [_layer(row) for row in shown], title=title))
        unit = ">ms" if latency else ">weighted GMACs"
        columns = ["layers", f">{metric['name']}", ">drop, points", unit, ">predicted", "front", ""]
        out.print(table(columns, [_point(p, latency) for p in account["points"]], title="assignments"))
    chosen = account["chosen"]
    cost = f"{chosen['seconds'] * 1e3:.3f} ms" if latency and chosen["seconds"] else _count(chosen, latency)
    say(
        f"mixed precision: {_kinds(chosen)}, {cost}; {metric['name']} {chosen['metric']:.3f} of {metric['float']:.3f}, "
        f"drop {chosen['drop']:.3f} of {account['max_drop']:g} points ({metric['samples']} samples: {metric['data']})"
    )
    if account["reason"]:
        say(f"mixed precision: latency was not measured, {account['reason']}; multiply-accumulates were the cost")


def _kinds(point: Mapping[str, Any]) -> str:
    counts = {"int8": point["int8"], "bf16": len(point["bf16"]), "fp32": len(point["fp32"])}
    return " + ".join(f"{count} {kind}" for kind, count in counts.items() if count) or "no layer is open"


def _count(point: Mapping[str, Any], latency: bool) -> str:
    return "not timed" if latency else f"{point['predicted']:.4f} weighted GMACs"


def _number(value: float | None, form: str, scale: float = 1.0) -> str:
    return "" if value is None else format(value * scale, form)


def _layer(row: Mapping[str, Any]) -> list[str]:
    return [
        row["layer"],
        _number(row["sqnr_db"], ".1f"),
        _number(row["drop"], ".3f"),
        _number(row["int8_seconds"], ".1f", 1e6),
        _number(row["fp32_seconds"], ".1f", 1e6),
        row["precision"],
    ]


def _point(point: Mapping[str, Any], latency: bool) -> list[str]:
    predicted = _number(point["predicted"], ".3f", 1e3) if latency else _number(point["predicted"], ".4f")
    return [
        _kinds(point),
        f"{point['metric']:.3f}",
        f"{point['drop']:.3f}",
        _number(point["seconds"], ".3f", 1e3) if latency else predicted,
        predicted,
        "*" if point["front"] else "",
        "chosen" if point["chosen"] else "" if point["within"] else "beyond --max-drop",
    ]
