"""The conformance runner fails when it should; the suite itself is not needed here."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.one_backend


def _load(name: str) -> ModuleType:
    # The scripts lie beside each other and are no package, so they are loaded by path.
    path = Path(__file__).parent / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"_conformance_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses looks its module up while the class is made.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


judging = _load("judging")


def report(**words: str) -> dict[str, dict[str, dict[str, str]]]:
    """A report of three cases; words replace those of case 2.1.10."""
    good = {"behavior": "OK", "behaviorClose": "OK", "reportfile": "a.json"}
    informs = {"behavior": "INFORMATIONAL", "behaviorClose": "INFORMATIONAL"}
    return {"agent": {"7.1.6": informs, "2.1.10": good | words, "2.1.9": good}}


def test_good_report_passes() -> None:
    verdict = judging.judge(report(), "agent", 3)
    assert verdict.passed
    assert verdict.cases == 3
    assert verdict.behavior == {"OK": 2, "INFORMATIONAL": 1}
    assert verdict.behavior_close == {"OK": 2, "INFORMATIONAL": 1}
    assert verdict.remarks == []


@pytest.mark.parametrize(
    "word", ["FAILED", "UNIMPLEMENTED", "NON-STRICT", "UNCLEAN", "WRONG CODE", "NEW"]
)
@pytest.mark.parametrize("key", ["behavior", "behaviorClose"])
def test_any_word_but_the_good_ones_fails(key: str, word: str) -> None:
    verdict = judging.judge(report(**{key: word}), "agent", 3)
    assert not verdict.passed
    assert verdict.failed == 1
    assert [remark.split(":")[0] for remark in verdict.remarks] == ["2.1.10"]
    assert word in verdict.remarks[0]


def test_result_without_a_word_fails() -> None:
    verdict = judging.judge({"agent": {"1.1.1": {"behavior": "OK"}}}, "agent", 1)
    assert verdict.failed == 1


def test_non_strict_with_a_reason_passes_and_is_listed() -> None:
    reasons = {"2.1.10": "the RFC leaves it open"}
    verdict = judging.judge(report(behavior="NON-STRICT"), "agent", 3, reasons)
    assert verdict.passed
    assert "the RFC leaves it open" in verdict.remarks[0]


@pytest.mark.parametrize(
    "words",
    [
        {"behavior": "FAILED"},
        {"behavior": "NON-STRICT", "behaviorClose": "FAILED"},
    ],
)
def test_reason_excuses_nothing_but_non_strict(words: dict[str, str]) -> None:
    verdict = judging.judge(report(**words), "agent", 3, {"2.1.10": "a reason"})
    assert verdict.failed == 1


@pytest.mark.parametrize("expected", [4, judging.ALL_CASES])
def test_missing_cases_fail(expected: int) -> None:
    verdict = judging.judge(report(), "agent", expected)
    assert not verdict.passed
    assert verdict.problems == [f"3 cases reported, {expected} expected"]


@pytest.mark.parametrize("index", [{}, {"other": {}}, {"agent": {}}])
def test_missing_agent_fails_even_where_nothing_was_expected(
    index: dict[str, dict[str, object]],
) -> None:
    assert not judging.judge(index, "agent", 0).passed


def test_remarks_are_in_order_of_number() -> None:
    bad = {"behavior": "FAILED", "behaviorClose": "OK"}
    index = {"agent": {"9.10.1": bad, "10.1.1": bad, "9.9.1": bad}}
    remarks = judging.judge(index, "agent", 3).remarks
    assert [remark.split(":")[0] for remark in remarks] == ["9.9.1", "9.10.1", "10.1.1"]
