"""Many races as one summary: ratios to the best peer, geometric means, shares of the machine's limit, a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

UNTUNED = "optkit, untuned"
"""The contestant that is optkit too, without tuning records; no rival."""
LIMITS = {"fp32": "float32", "bf16": "bfloat16", "int8": "int8"}


def summarize(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rows and geometric means of reports by `benchmarks.cpu`; those without a rival are left out.

    A row's ratio is the best peer's time over ours: the least of the ratios to all of its peers, with that one's
    95 % interval; `missing` are the peers that could not load the model, with what they said. Its share is the
    operations of a run (two a multiply-accumulate) per second over the machine's measured limit in that arithmetic;
    above 1 is possible only where an algorithm saves multiplications. Where optkit ran without tuning records too,
    `untuned` is that one's time over ours, with its interval.
    """
    rows = []
    for report in reports:
        rivals = {name: ratio for name, ratio in report["speedup"].items() if name != UNTUNED}
        if not rivals:
            continue
        case, lanes = report["case"], report["lanes"]
        best = min(rivals, key=lambda name: rivals[name]["value"])
        seconds = {lane["name"]: float(np.median(lane["rounds"])) for lane in lanes}
        limit = report["limits"][LIMITS[case["precision"]]]
        rows.append(
            {
                **case,
                "seconds": seconds,
                "best_peer": best,
                "missing": report.get("missing", {}),
                "ratio": rivals[best],
                "untuned": report["speedup"].get(UNTUNED),
                "share_of_limit": 2 * report["macs"] / seconds[lanes[0]["name"]] / limit if limit else None,
            }
        )
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(f"{row['precision']} batch {row['batch']}, {row['threads']} thread(s)", []).append(row)
    means = {key: _means(members) for key, members in groups.items()}
    versions = {k: v for report in reports for lane in report["lanes"] for k, v in lane["versions"].items()}
    return {
        "rows": rows,
        "means": means,
        "versions": versions,
        "limits": {str(r["case"]["threads"]): r["limits"] for r in reports},
        "environment": reports[-1]["environment"],
    }


def _means(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Geometric mean and least of the ratios; and how optkit does without tuning records, where that was timed."""

    def mean(values: Sequence[float]) -> float:
        return float(np.exp(np.mean(np.log(values))))

    ratios = [row["ratio"]["value"] for row in rows]
    found = {"geometric_mean": mean(ratios), "least": min(ratios), "models": len(ratios)}
    both = [row for row in rows if row["untuned"]]
    if both:
        found["untuned_geometric_mean"] = mean([row["ratio"]["value"] / row["untuned"]["value"] for row in both])
        found["untuned_of_tuned"] = mean([1 / row["untuned"]["value"] for row in both])
    return found


def to_text(found: dict[str, Any]) -> str:
    """The rows and means as Markdown."""
    lines = [
        "| model | | batch | threads | optkit | best peer | | ratio | of limit |",
        "|---|---|--:|--:|--:|--:|---|--:|--:|",
    ]
    for row in sorted(found["rows"], key=lambda r: (r["threads"], r["batch"], r["precision"], r["model"])):
        subject, peer = next(iter(row["seconds"].values())), row["seconds"][row["best_peer"]]
        ratio, share = row["ratio"], row["share_of_limit"]
        lines.append(
            f"| {row['model']} | {row['precision']} | {row['batch']} | {row['threads']} | {subject * 1e3:.2f} ms "
            f"| {peer * 1e3:.2f} ms | {row['best_peer']} | {ratio['value']:.2f} ({ratio['low']:.2f} to "
            f"{ratio['high']:.2f}) | {'' if share is None else f'{share:.0%}'} |"
        )
    lines += [
        "",
        *(
            f"{k}: {m['geometric_mean']:.3f}, least {m['least']:.2f}, {m['models']} models"
            + (
                f"; untuned {m['untuned_geometric_mean']:.3f}, {m['untuned_of_tuned']:.1%} of the tuned speed"
                if "untuned_of_tuned" in m
                else ""
            )
            for k, m in found["means"].items()
        ),
    ]
    return "\n".join(lines)


def write_picture(found: dict[str, Any], path: Path) -> None:
    """Bars of the ratio to the best peer, one panel a precision, batch and number of threads."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    groups: dict[tuple[int, int, str], list[dict[str, Any]]] = {}
    for row in found["rows"]:
        groups.setdefault((row["threads"], row["batch"], row["precision"]), []).append(row)
    figure, axes = pyplot.subplots(len(groups), 1, figsize=(9, 3.2 * len(groups)), squeeze=False, layout="constrained")
    for axis, (key, rows) in zip(axes[:, 0], sorted(groups.items()), strict=True):
        threads, batch, precision = key
        values = [row["ratio"]["value"] for row in rows]
        errors = [
            [row["ratio"]["value"] - row["ratio"]["low"] for row in rows],
            [row["ratio"]["high"] - row["ratio"]["value"] for row in rows],
        ]
        colors = ["tab:green" if value >= 1 else "tab:orange" if value >= 0.85 else "tab:red" for value in values]
        bars = axis.bar([row["model"] for row in rows], values, yerr=errors, color=colors, capsize=3)
        axis.bar_label(bars, [f"{value:.2f}" for value in values], padding=3, fontsize=8)
        axis.axhline(1, color="black", linewidth=0.8)
        mean = found["means"][f"{precision} batch {batch}, {threads} thread(s)"]["geometric_mean"]
        axis.set_title(f"{precision}, batch {batch}, {threads} thread(s): geometric mean {mean:.2f}", fontsize=10)
        axis.set_ylabel("best peer's time / optkit's")
        axis.set_ylim(0, max(values) * 1.2)
        axis.tick_params(axis="x", rotation=30, labelsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
