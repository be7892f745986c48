"""Stats in the text format of Prometheus, version 0.0.4.

Which metrics there are is in `metrics`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..protocol.request import Request
from ..protocol.response import Response
from .metrics import TABLE, Metric, samples_of
from .stats import AccessRule

__all__ = ["CONTENT_TYPE", "Metrics", "render"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Answers the scrapes of Prometheus.

    Args:
        take: returns the stats, as `Server.stats` does.
        rule: decides who may read them; None allows all.
    """

    def __init__(
        self,
        take: Callable[[], Mapping[str, Any]],
        rule: AccessRule | None,
    ) -> None:
        self._take = take
        self._rule = rule

    def respond(self, request: Request) -> Response:
        """Answer with the stats; HandshakeError if that is not allowed."""
        if self._rule is not None:
            self._rule.check(request)
        return Response(200, render(self._take()), [("Content-Type", CONTENT_TYPE)])


def render(stats: Mapping[str, Any]) -> bytes:
    """Encode stats in the text format.

    Args:
        stats: as returned by `Server.stats`.
    """
    text = "".join(f"{line}\n" for metric in TABLE for line in _lines(metric, stats))
    # A user's name may contain a lone surrogate, which UTF-8 cannot represent.
    return text.encode("utf-8", "replace")


def _lines(metric: Metric, stats: Mapping[str, Any]) -> Iterator[str]:
    yield f"# HELP {metric.name} {_escaped(metric.help)}"
    yield f"# TYPE {metric.name} {metric.kind}"
    for name, labels, value in samples_of(metric, stats):
        yield f"{name}{_labels(labels)} {value!r}"


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    pairs = (f'{name}="{_quoted(value)}"' for name, value in labels.items())
    return f"{{{','.join(pairs)}}}"


def _quoted(value: str) -> str:
    return _escaped(value).replace('"', '\\"')


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")
