"""The table of figures and where it goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.figures import BEGIN, END, replace_figures, table
from optkit.errors import UsageError


def _row(model: str, precision: str, missing: dict[str, str]) -> dict[str, object]:
    return {
        "model": model,
        "precision": precision,
        "batch": 1,
        "threads": 1,
        "seconds": {"optkit": 2e-3, "openvino, own file": 2.5e-3},
        "best_peer": "openvino, own file",
        "missing": missing,
        "ratio": {"value": 1.25, "low": 1.2, "high": 1.3},
    }


def test_row_holds_medians_and_intervals() -> None:
    rows = [_row("resnet18", "fp32", {}), _row("resnet18", "int8", {"torch": "no"}), _row("unet", "bf16", {})]
    mean = {"geometric_mean": 1.25, "models": 1}
    found = {
        "rows": [*rows, {**_row("resnet18", "fp32", {}), "threads": 2, "model": "another"}],
        "means": {
            "fp32 batch 1, 1 thread(s)": mean | {"untuned_of_tuned": 0.956},
            "fp32 batch 1, 2 thread(s)": mean | {"geometric_mean": 1.5},
        },
        "versions": {"onnxruntime": "1.32.0", "torch": "2.13.0+cpu"},
        "environment": {"cpu": "this one"},
    }
    lines = table(found).splitlines()
    cells = " | ".join(["2.00 ms", "2.50 ms, openvino", "1.25 (1.20 to 1.30)"])
    assert lines[2] == f"| resnet18 | {cells} | {cells} |  |  |  |"
    assert lines[3].startswith("| unet |  |  |  |  |  |  | 2.00 ms")
    assert lines[0].count("|") == lines[1].count("|") == lines[2].count("|")
    text = " ".join(lines[4:])
    assert "1.25 in FP32 (1 models)." in text and "torch.compile 2.13.0" in text
    assert "torch with resnet18 in INT8" in text and "another" not in text
    assert "On two threads: 1.50 in FP32" in text and "of its speed, 95.6% in FP32" in text


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
