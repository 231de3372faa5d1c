"""The front as a picture: drop of the metric over measured time."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optkit.files import write_whole


def write_picture(account: Mapping[str, Any], path: Path) -> Path | None:
    """Draw what was measured; returns `path`, None where matplotlib is not installed or nothing was measured."""
    latency = account["cost"] == "latency"
    key, scale = ("seconds", 1e3) if latency else ("predicted", 1.0)
    points = [point for point in account["points"] if point[key] is not None]
    if not points or importlib.util.find_spec("matplotlib") is None:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    front = sorted((p[key] * scale, p["drop"]) for p in points if p["front"])
    axis.plot(*zip(*front, strict=True), color="tab:blue", linewidth=1, zorder=1)
    lengths = len(account["sensitivity"])
    lowest, highest = min(p["drop"] for p in points), max(p["drop"] for p in points)
    for place, point in enumerate(points):
        x, y = point[key] * scale, point["drop"]
        color = "tab:blue" if point["front"] else "tab:gray"
        axis.scatter([x], [y], color=color, marker="o" if point["within"] else "x", zorder=2)
        if point["chosen"]:
            axis.scatter([x], [y], s=180, facecolors="none", edgecolors="tab:green", linewidths=2, zorder=3)
        axis.annotate(
            _words(point, lengths), (x, y), xytext=(7, 6 if place % 2 else -11), textcoords="offset points", fontsize=7
        )
    axis.axhline(account["max_drop"], color="tab:red", linewidth=0.8, linestyle="--")
    if highest - lowest > 20 * max(account["max_drop"], 0.05):
        axis.set_yscale("symlog", linthresh=max(account["max_drop"], 0.05))
    axis.set_xlabel("milliseconds of a run, measured" if latency else "10^9 multiply-accumulates, by operand width")
    axis.set_ylabel(f"drop of {account['metric']['name']}, points")
    axis.set_title(f"circle: chosen; dashed: --max-drop {account['max_drop']:g}; cross: beyond it", fontsize=9)
    axis.margins(0.12)
    held = io.BytesIO()
    figure.savefig(held, dpi=110, format="png")
    write_whole(path, held.getvalue())
    return path


def _words(point: Mapping[str, Any], layers: int) -> str:
    if point["int8"] == layers:
        return "all int8"
    if not point["int8"] and not point["bf16"]:
        return "all fp32"
    short = f" + {len(point['bf16'])} bf16" if point["bf16"] else ""
    return f"{point['int8']} int8{short} + {len(point['fp32'])} fp32"
