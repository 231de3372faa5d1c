"""Every fortieth case of ONNX's backend suite; `make onnx-suite` runs all of them."""

from __future__ import annotations

import pytest

from tests.onnx_suite.cases import all_cases
from tests.onnx_suite.run import judge, read_expected
from tests.onnx_suite.worker import run_case

CASES = all_cases()
EXPECTED = read_expected()
SAMPLE = [name for i, name in enumerate(CASES) if i % 40 == 7]


@pytest.mark.parametrize("name", SAMPLE)
def test_case(name: str) -> None:
    status, detail = run_case(CASES[name])
    assert judge({name: {"status": status, "detail": detail}}, EXPECTED) == []


def test_the_list_names_cases_and_reasons() -> None:
    assert set(EXPECTED) <= set(CASES)
    assert all(status in ("refused", "failed", "wrong") and reason.strip() for status, reason in EXPECTED.values())
    assert len(CASES) - len(EXPECTED) >= 1849


@pytest.mark.parametrize(
    ("status", "listed", "fine"),
    [
        ("passed", False, True),
        ("passed", True, False),
        ("refused", True, True),
        ("refused", False, False),
        ("wrong", True, False),
        ("crashed", True, False),
    ],
)
def test_only_listed_refusals_are_fine(status: str, listed: bool, fine: bool) -> None:
    expected = {"case": ("refused", "why")} if listed else {}
    assert (judge({"case": {"status": status, "detail": ""}}, expected) == []) is fine
