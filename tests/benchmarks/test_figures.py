"""The table of figures and where it goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.figures import BEGIN, END, replace_figures, table
from optkit.errors import UsageError


def _report(model: str) -> dict[str, object]:
    lanes = [
        {"name": f"{who} {precision}", "rounds": [1e-3, 2e-3, 9e-3], "threads": 1}
        for precision in ("fp32", "int8")
        for who in ("optkit", "onnxruntime")
    ]
    ratio = {"value": 1.25, "low": 1.2, "high": 1.3}
    return {"model": model, "lanes": lanes, "ratios": {"fp32": ratio, "int8": ratio}}


def test_row_holds_medians_and_intervals() -> None:
    rows = table([_report("resnet18")]).splitlines()
    cells = " | ".join(["2.00 ms", "2.00 ms", "1.25 (1.20 to 1.30)"] * 2)
    assert rows[2] == f"| resnet18 | {cells} |"
    assert rows[0].count("|") == rows[1].count("|") == rows[2].count("|")


def test_figures_are_replaced_between_the_markers() -> None:
    text = f"before {BEGIN} old {END} after"
    once = replace_figures(text, "new")
    assert once == f"before {BEGIN}\nnew\n{END} after"
    assert replace_figures(once, "new") == once
    with pytest.raises(UsageError, match="no markers"):
        replace_figures("nothing here", "new")


def test_readme_has_the_markers() -> None:
    readme = Path(__file__).resolve().parents[2] / "README.md"
    assert "\n" in replace_figures(readme.read_text(), "x")
