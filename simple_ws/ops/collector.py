"""`Collector`: the metrics for a registry of `prometheus_client`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .metrics import TABLE, samples_of

__all__ = ["Collector"]


class Collector:
    """Gives a registry what `/metrics` would show; see `Server.collector`.

    Args:
        take: returns the stats; called from the thread of the registry.
    """

    def __init__(self, take: Callable[[], Mapping[str, Any]]) -> None:
        self._take = take

    def describe(self) -> list[Any]:
        """Nothing: so a registry takes it before the server runs."""
        return []

    def collect(self) -> Iterator[Any]:
        """The metrics, as families of `prometheus_client`."""
        from prometheus_client import Metric as Family

        stats = self._take()
        for metric in TABLE:
            # The registry appends to counters what their names end with.
            name = metric.name.removesuffix("_total")
            family = Family(name, metric.help, metric.kind)
            for sample, labels, value in samples_of(metric, stats):
                family.add_sample(sample, dict(labels), value)
            yield family
