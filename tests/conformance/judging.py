"""Decide what a fuzzing report says about the server.

It understands the terms of Autobahn's ``index.json``; files and processes are left to
``run.py``. Every result not known to be good counts as failed, so that a new term of a
later suite cannot pass unnoticed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# What autobahntestsuite 25.10.1 runs when no case is left out.
ALL_CASES = 517

# Three cases (7.1.6, 7.13.1, 7.13.2) only inform: RFC 6455 leaves the answer open.
_GOOD = frozenset({"OK", "INFORMATIONAL"})
_NON_STRICT = "NON-STRICT"

# Cases where another answer than the suite's is right: case -> why. Empty is the aim.
NON_STRICT_REASONS: dict[str, str] = {}

# For the clients, which read ahead of their user, so that a ping behind a message is
# answered though the user is busy with it: they fail the connection for a frame behind
# a good message before that message is echoed. Where they are sent byte by byte (3.4,
# 4.1.5, 4.2.5) it depends on how much comes at once.
_READS_AHEAD = "the fault is found before the user has the message ahead of it"
CLIENT_NON_STRICT_REASONS = dict.fromkeys(
    (
        *("3.2", "3.3", "3.4"),
        *("4.1.3", "4.1.4", "4.1.5"),
        *("4.2.3", "4.2.4", "4.2.5"),
        "5.15",
    ),
    _READS_AHEAD,
)


@dataclass
class Verdict:
    """What one backend's report amounts to.

    Attributes:
        behavior: how often each word stands for the case itself.
        behavior_close: how often each word stands for the closing handshake.
        remarks: a line for each case that is not simply good, in order of number.
        failed: number of cases that failed.
        problems: what else makes the run worthless, e.g. cases that are missing.
        details: lines that help to find the cause of the problems.
    """

    behavior: Counter[str] = field(default_factory=Counter)
    behavior_close: Counter[str] = field(default_factory=Counter)
    remarks: list[str] = field(default_factory=list)
    failed: int = 0
    problems: list[str] = field(default_factory=list)
    details: list[str] = field(default_factory=list)

    @property
    def cases(self) -> int:
        """Number of cases that were reported."""
        return self.behavior.total()

    @property
    def passed(self) -> bool:
        """Whether every case was run and none failed."""
        return not self.failed and not self.problems


def judge(
    index: Mapping[str, Any],
    agent: str,
    expected: int,
    reasons: Mapping[str, str] = NON_STRICT_REASONS,
) -> Verdict:
    """Judge one agent's part of a report.

    Args:
        index: the parsed ``index.json``: agent -> case -> result.
        agent: the name the server was tested under.
        expected: how many cases must be there; at least one always must.
        reasons: cases allowed to be NON-STRICT, each with its reason.
    """
    verdict = Verdict()
    expected = max(expected, 1)
    cases = index.get(agent, {})
    for case in sorted(cases, key=_case_order):
        _judge_case(verdict, case, cases[case], reasons)
    # A server that dies leaves a tidy report that simply ends early.
    if len(cases) < expected:
        verdict.problems.append(f"{len(cases)} cases reported, {expected} expected")
    return verdict


def _judge_case(
    verdict: Verdict, case: str, result: Mapping[str, Any], reasons: Mapping[str, str]
) -> None:
    words = [str(result.get(key)) for key in ("behavior", "behaviorClose")]
    verdict.behavior[words[0]] += 1
    verdict.behavior_close[words[1]] += 1
    bad = set(words) - _GOOD
    if not bad:
        return
    remark = f"{case}: {words[0]}, close {words[1]}"
    if bad == {_NON_STRICT} and case in reasons:
        verdict.remarks.append(f"{remark} (allowed: {reasons[case]})")
        return
    verdict.failed += 1
    verdict.remarks.append(f"{remark} -> {result.get('reportfile', 'no report file')}")


def _case_order(case: str) -> list[int]:
    """Sort 9.10.1 behind 9.9.1."""
    return [int(part) for part in case.split(".")]
