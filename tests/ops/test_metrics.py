"""`metrics`: names as the databases that store them expect them."""

from __future__ import annotations

import re

import pytest

from simple_ws.ops.metrics import TABLE, Metric

pytestmark = pytest.mark.one_backend


@pytest.mark.parametrize("metric", TABLE, ids=lambda metric: metric.name)
def test_names_follow_the_rules(metric: Metric) -> None:
    assert re.fullmatch(r"simple_ws_[a-z]+(_[a-z]+)*", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    # https://prometheus.io/docs/practices/naming: base units, and no type in a name.
    assert not re.search(r"milli|micro|kilo|_ms\b|counter|gauge|count_", metric.name)
    assert metric.help.endswith(".")
    assert "\n" not in metric.help
