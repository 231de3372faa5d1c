"""A picture of a report: SQNR along the depth of the model, a line a stage, the worst layers named."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optkit.debug.account import Layer, Report
from optkit.debug.ranking import EXACT_DB
from optkit.debug.stages import ARTIFACT
from optkit.errors import UsageError
from optkit.files import check_writable, write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMED = 5
_CAUSES = {
    "weights": "#b5651d",
    "clipping": "#c2185b",
    "rounding": "#1f6fb4",
    "bias": "#6a51a3",
    "kernel": "#d62728",
    "inherited": "#888888",
    "": "#444444",
}
_LINES = ("#2e7d32", "#8e6bbf", "#e08214", "#00838f", "#6d4c41")


def check_plotting() -> None:
    """UsageError, with what to install, where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UsageError("--plot needs matplotlib: pip install matplotlib") from error


def draw(report: Report, path: str | os.PathLike[str]) -> Path:
    """Write the picture; the suffix of `path` says in which format (.png, .svg, .pdf).

    Raises:
        UsageError: matplotlib is missing, knows no such format, or the path cannot be written.
    """
    check_plotting()
    target = check_writable(path)
    import io

    from matplotlib.figure import Figure

    layers = sorted(report.layers, key=lambda layer: layer.depth)
    figure = Figure(figsize=(max(9.0, min(18.0, 4 + 0.24 * len(layers))), 6.2), layout="constrained")
    axes: Any = figure.subplots()
    shown = _stages(axes, report, layers)
    _own(axes, layers)
    _finish(axes, report, layers, shown)
    picture = io.BytesIO()
    try:
        figure.savefig(picture, format=target.suffix.lstrip(".") or "png", dpi=130)
    except ValueError as error:
        raise UsageError(f"cannot draw {target}: {error}") from error
    write_whole(target, picture.getvalue())
    return target


def _stages(axes: Axes, report: Report, layers: list[Layer]) -> list[float]:
    """A line for every stage that differs from the original; those that do not share one note."""
    equal: list[str] = []
    values: list[float] = []
    drawn: list[tuple[Any, list[float]]] = []
    for stage in report.stages:
        points = [(layer.depth, layer.stages[stage.label]) for layer in layers if stage.label in layer.stages]
        if not points:
            continue
        if all(db >= EXACT_DB for _, db in points):
            equal.append(stage.label)
            continue
        heights = [min(db, EXACT_DB) for _, db in points]
        same = next((line for line, other in drawn if other == heights), None)
        if same is not None:
            same.set_label(f"{same.get_label()}, and the same after {stage.label}")
            continue
        artifact = stage.label == ARTIFACT
        (line,) = axes.plot(
            [depth for depth, _ in points],
            heights,
            color="#222222" if artifact else _LINES[len(drawn) % len(_LINES)],
            linestyle="--" if artifact else "-",
            linewidth=1.6,
            marker=".",
            label="the artifact" if artifact else f"after {stage.label}",
            zorder=2,
        )
        drawn.append((line, heights))
        values += heights
    if equal:
        axes.plot([], [], " ", label=f"equal to the original (≥ {EXACT_DB:g} dB): {', '.join(equal)}")
    return values


def _own(axes: Axes, layers: list[Layer]) -> None:
    """A point for every layer's own error, in its cause's color."""
    seen: set[str] = set()
    for layer in layers:
        if layer.parts is None:
            continue
        color = _CAUSES.get(layer.cause, "#444444")
        label = f"the layer's own error: {layer.cause}" if layer.cause and layer.cause not in seen else None
        seen.add(layer.cause)
        height = min(layer.parts.own, EXACT_DB)
        axes.scatter([layer.depth], [height], s=34, color=color, label=label, zorder=3)


def _finish(axes: Any, report: Report, layers: list[Layer], values: list[float]) -> None:
    own = [min(layer.parts.own, EXACT_DB) for layer in layers if layer.parts is not None]
    every = [*values, *own] or [0.0, EXACT_DB]
    low, high = min(every), max(every)
    room = max(high - low, 10.0)
    axes.set_ylim(low - 0.08 * room, high + 0.12 * room)
    axes.set_xlim(-0.8, max(len(layers) - 0.2, 1))
    step = max(1, len(layers) // 40)
    axes.set_xticks([layer.depth for layer in layers[::step]])
    axes.set_xticklabels([layer.name for layer in layers[::step]], rotation=90, fontsize=7)
    axes.set_ylabel("SQNR of the layer's output, dB")
    last = next((s for s in reversed(report.stages) if s.output_db is not None), None)
    outcome = "" if last is None or last.output_db is None else f"; outputs {_text(last.output_db)}"
    axes.set_title(f"{report.model}, {report.target}, {report.samples} samples{outcome}", fontsize=11, loc="left")
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    below = -0.02 - _depth([layer.name for layer in layers])
    axes.legend(fontsize=8.5, frameon=False, loc="upper center", bbox_to_anchor=(0.5, below), ncols=3)
    _name(axes, report, step)


def _name(axes: Any, report: Report, step: int) -> None:
    """Numbers at the worst layers' points, and what they stand for at the right."""
    worst = [layer for layer in report.layers if _height(layer) is not None and (layer.parts or layer.step)][:NAMED]
    lines = []
    for rank, layer in enumerate(worst, 1):
        color = _CAUSES.get(layer.cause, "#444444")
        place = (layer.depth, _height(layer))
        axes.annotate(
            str(rank),
            place,
            (0, 9),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            fontweight="bold",
            color=color,
            bbox={"boxstyle": "circle,pad=0.15", "facecolor": "white", "edgecolor": color, "linewidth": 0.8},
            zorder=5,
        )
        about = [layer.cause or f"in {layer.step}"]
        if layer.gain is not None:
            about.append(f"outputs {layer.gain:+.1f} dB without it")
        lines.append((f"{rank}  {layer.name}", ", ".join(about), color))
        if layer.depth % step == 0:
            tick = axes.get_xticklabels()[layer.depth // step]
            tick.set_color(color)
            tick.set_fontweight("bold")
    if lines:
        axes.text(1.01, 0.99, "Worst layers", transform=axes.transAxes, fontsize=9.5, fontweight="bold", va="top")
    for row, (name, told, color) in enumerate(lines):
        height = 0.93 - 0.1 * row
        axes.text(1.01, height, name, transform=axes.transAxes, fontsize=9, color=color, va="top")
        axes.text(1.025, height - 0.04, told, transform=axes.transAxes, fontsize=8, color="#555555", va="top")


def _text(db: float) -> str:
    return "exact" if db >= EXACT_DB else f"{db:.1f} dB"


def _depth(names: list[str]) -> float:
    """Room that the names of the layers take below the axis, in parts of its height."""
    return 0.014 * min(30, max(map(len, names), default=0)) + 0.02


def _height(layer: Layer) -> float | None:
    """Where a layer's label points: its own error, else its last stage."""
    if layer.parts is not None:
        return min(layer.parts.own, EXACT_DB)
    return min(min(layer.stages.values()), EXACT_DB) if layer.stages else None
