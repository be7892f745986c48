"""The metrics: the name of each, what it says, where `Server.stats` has its samples.

Names end with the base unit, counters with `_total` after it. A label only has a few
different values: each combination of labels is a time series that a database stores.
How they are shown is left to `prometheus` and `collector`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

__all__ = ["TABLE", "Metric", "samples_of"]

#: Labels of a sample, and its value; of a histogram a mapping with `sum` and `le`.
Sample = tuple[Mapping[str, str], Any]
#: What a line shows: the name, labels, and the value.
Line = tuple[str, Mapping[str, str], float]


class Metric(NamedTuple):
    """One metric: its declaration, and how to find its samples in the stats."""

    name: str
    kind: str
    help: str
    samples: Callable[[Mapping[str, Any]], Iterable[Sample]]


def _one(*keys: str) -> Callable[[Mapping[str, Any]], Iterable[Sample]]:
    """The value under these keys, without labels."""

    def samples(stats: Mapping[str, Any]) -> Iterable[Sample]:
        value: Any = stats
        for key in keys:
            value = value[key]
        return [({}, value)]

    return samples


def _each(label: str, key: str) -> Callable[[Mapping[str, Any]], Iterable[Sample]]:
    """The values of a dict, each labelled with its key."""
    return lambda stats: [({label: name}, value) for name, value in stats[key].items()]


def _of_handlers(key: str) -> Callable[[Mapping[str, Any]], Iterable[Sample]]:
    """A value for each handler.

    Handlers of one class share their name; no two have the same first path.
    """
    return lambda stats: [
        ({"handler": handler["name"], "path": handler["paths"][0]}, handler[key])
        for handler in stats["handlers"]
    ]


def _of_engine(key: str) -> Callable[[Mapping[str, Any]], Iterable[Sample]]:
    """A value of the engine, where there is one and it is known."""

    def samples(stats: Mapping[str, Any]) -> Iterable[Sample]:
        engine = stats.get("engine")
        if engine is None or engine[key] is None:
            return []
        return [({}, engine[key])]

    return samples


def _engine_connects(stats: Mapping[str, Any]) -> Iterable[Sample]:
    engine = stats.get("engine")
    if engine is None:
        return []
    return [({"reason": name}, value) for name, value in engine["connects"].items()]


def _engine_lost(stats: Mapping[str, Any]) -> Iterable[Sample]:
    """Messages that other nodes did not get, or may not have got."""
    engine = stats.get("engine")
    if engine is None:
        return []
    reasons = {"unsure": "unsure", "down": "lost", "refused": "refused"}
    return [({"why": why}, engine[key]) for why, key in reasons.items()]


def _source(name: str, key: str) -> Callable[[Mapping[str, Any]], Iterable[Sample]]:
    """A count of something that not every server has."""

    def samples(stats: Mapping[str, Any]) -> Iterable[Sample]:
        return [({}, stats[name][key])] if name in stats else []

    return samples


def _each_of_source(
    label: str, name: str, key: str
) -> Callable[[Mapping[str, Any]], Iterable[Sample]]:
    """Likewise the values of a dict, each labelled with its key."""

    def samples(stats: Mapping[str, Any]) -> Iterable[Sample]:
        values = stats[name][key] if name in stats else {}
        return [({label: each}, value) for each, value in values.items()]

    return samples


def _histograms(
    key: str, *names: str
) -> Callable[[Mapping[str, Any]], Iterable[Sample]]:
    """Those of the middleware `Histograms`, if it is used."""

    def samples(stats: Mapping[str, Any]) -> Iterable[Sample]:
        for name, histogram in stats.get("histograms", {}).get(key, {}).items():
            callback, _, handler = name.partition(" ")
            labels = {"handler": handler, "callback": callback}
            yield {label: labels[label] for label in names}, histogram

    return samples


def _start_time(stats: Mapping[str, Any]) -> Iterable[Sample]:
    """The start time: the reader computes the time since then."""
    started = stats["started"]
    return [] if started is None else [({}, started)]


TABLE = (
    Metric(
        "simple_ws_info",
        "gauge",
        "Version and backend of the server; the value is always 1.",
        lambda stats: [({"backend": stats["backend"]}, 1)],
    ),
    Metric(
        "simple_ws_start_time_seconds",
        "gauge",
        "When the server began to listen, in seconds since the epoch.",
        _start_time,
    ),
    Metric(
        "simple_ws_connections",
        "gauge",
        "Open WebSocket connections.",
        _of_handlers("clients"),
    ),
    Metric(
        "simple_ws_connections_opened_total",
        "counter",
        "WebSocket connections that were opened.",
        _one("connections", "opened"),
    ),
    Metric(
        "simple_ws_connections_closed_total",
        "counter",
        "WebSocket connections that ended, by cause.",
        _each("cause", "closed"),
    ),
    Metric(
        "simple_ws_handshakes_refused_total",
        "counter",
        "Requests for a connection that were refused, by HTTP status.",
        _each("status", "refused"),
    ),
    Metric(
        "simple_ws_dashboard_connections",
        "gauge",
        "Open connections of dashboards, which no other metric counts.",
        _one("connections", "dashboards"),
    ),
    Metric(
        "simple_ws_messages_received_total",
        "counter",
        "Data messages received.",
        _of_handlers("messages_received"),
    ),
    Metric(
        "simple_ws_messages_sent_total",
        "counter",
        "Data messages that were accepted for sending.",
        _of_handlers("messages_sent"),
    ),
    Metric(
        "simple_ws_messages_dropped_total",
        "counter",
        "Data messages not sent to slow consumers.",
        _of_handlers("dropped"),
    ),
    Metric(
        "simple_ws_messages_conflated_total",
        "counter",
        "Data messages that newer ones replaced before slow consumers took them.",
        _of_handlers("conflated"),
    ),
    Metric(
        "simple_ws_received_bytes_total",
        "counter",
        "Bytes received after the request, including frame headers, without TLS.",
        _of_handlers("bytes_received"),
    ),
    Metric(
        "simple_ws_sent_bytes_total",
        "counter",
        "Bytes sent, including frame headers and handshake responses, without TLS.",
        _of_handlers("bytes_sent"),
    ),
    Metric(
        "simple_ws_deflate_input_bytes_total",
        "counter",
        "Bytes of compressed messages sent, before compression.",
        _of_handlers("plain_sent"),
    ),
    Metric(
        "simple_ws_deflate_output_bytes_total",
        "counter",
        "Bytes of compressed messages sent, after compression.",
        _of_handlers("packed_sent"),
    ),
    Metric(
        "simple_ws_inflate_input_bytes_total",
        "counter",
        "Bytes of compressed messages received, before inflation.",
        _of_handlers("packed_received"),
    ),
    Metric(
        "simple_ws_inflate_output_bytes_total",
        "counter",
        "Bytes of compressed messages received, after inflation.",
        _of_handlers("plain_received"),
    ),
    Metric(
        "simple_ws_busy_seconds_total",
        "counter",
        "Time spent reading connections, callbacks included.",
        _of_handlers("busy"),
    ),
    Metric(
        "simple_ws_slow_callbacks_total",
        "counter",
        "Callbacks that took longer than the option slow_callback.",
        _one("slow_callbacks"),
    ),
    Metric(
        "simple_ws_callback_seconds",
        "histogram",
        "How long callbacks took, until the end of those that wait.",
        _histograms("callback_seconds", "handler", "callback"),
    ),
    Metric(
        "simple_ws_message_bytes",
        "histogram",
        "Size of the payload of the messages received.",
        _histograms("message_bytes", "handler"),
    ),
    Metric(
        "simple_ws_longest_turn_seconds",
        "gauge",
        "Longest turn of the loop in the last 10 to 20 seconds.",
        _one("longest_turn"),
    ),
    Metric(
        "simple_ws_buffered_bytes",
        "gauge",
        "Bytes of output that the system has not accepted yet.",
        _one("buffered"),
    ),
    Metric(
        "simple_ws_worker_endings_total",
        "counter",
        "Processes of a worker that ended by themselves, by exit code or signal.",
        lambda stats: [
            ({"reason": reason}, number)
            for reason, number in stats.get("endings", {}).items()
        ],
    ),
    Metric("simple_ws_topics", "gauge", "Topics with subscribers.", _one("topics")),
    Metric(
        "simple_ws_identities",
        "gauge",
        "Identities with an open connection.",
        _one("identities"),
    ),
    Metric(
        "simple_ws_presence_members",
        "gauge",
        "Members of topics with presence that are here.",
        _one("members"),
    ),
    Metric(
        "simple_ws_live_commands_total",
        "counter",
        "Commands of clients of live that were carried out.",
        _each_of_source("command", "live", "commands"),
    ),
    Metric(
        "simple_ws_live_errors_total",
        "counter",
        "Commands of clients of live that were answered with an error, by its code.",
        _each_of_source("code", "live", "errors"),
    ),
    Metric(
        "simple_ws_live_malformed_total",
        "counter",
        "Malformed commands of clients of live.",
        _source("live", "malformed"),
    ),
    Metric(
        "simple_ws_api_calls_total",
        "counter",
        "Calls of the server API, in batches too.",
        _each_of_source("method", "api", "commands"),
    ),
    Metric(
        "simple_ws_api_errors_total",
        "counter",
        "Answers of the server API that are an error, by its code.",
        _each_of_source("code", "api", "errors"),
    ),
    Metric(
        "simple_ws_api_malformed_total",
        "counter",
        "Malformed bodies of requests to the server API.",
        _source("api", "malformed"),
    ),
    Metric(
        "simple_ws_engine_up",
        "gauge",
        "Whether the engine takes messages: 1 or 0; 2 while a worker is replaced.",
        _of_engine("up"),
    ),
    Metric(
        "simple_ws_engine_connects_total",
        "counter",
        "Attempts to connect to the engine, by what made them necessary.",
        _engine_connects,
    ),
    Metric(
        "simple_ws_engine_rtt_seconds",
        "gauge",
        "Time that a message took to the engine and back, at the last probe.",
        _of_engine("rtt"),
    ),
    Metric(
        "simple_ws_engine_published_total",
        "counter",
        "Messages that were given to the engine.",
        _of_engine("published"),
    ),
    Metric(
        "simple_ws_engine_received_total",
        "counter",
        "Messages from the engine that were sent to clients here.",
        _of_engine("received"),
    ),
    Metric(
        "simple_ws_engine_lost_total",
        "counter",
        "Messages published here that others did not get, or may not have got.",
        _engine_lost,
    ),
    Metric(
        "simple_ws_engine_gaps_total",
        "counter",
        "Times that handlers were told that messages are missing.",
        _of_engine("gaps"),
    ),
    Metric(
        "simple_ws_engine_missing_total",
        "counter",
        "Messages of others that never came, as far as they are known.",
        _of_engine("missing"),
    ),
    Metric(
        "simple_ws_engine_repeats_total",
        "counter",
        "Messages that came again or late, and were dropped.",
        _of_engine("repeats"),
    ),
    Metric(
        "simple_ws_engine_resent_total",
        "counter",
        "Messages for topics with history that were sent again.",
        _of_engine("resent"),
    ),
    Metric(
        "simple_ws_engine_again_total",
        "counter",
        "Messages that the engine had in the history of their topic already.",
        _of_engine("again"),
    ),
    Metric(
        "simple_ws_engine_invalid_total",
        "counter",
        "What came from the engine malformed, or not signed, and was dropped.",
        _of_engine("invalid"),
    ),
    Metric(
        "simple_ws_engine_received_bytes_total",
        "counter",
        "Bytes received from the engine, without TLS.",
        _of_engine("bytes_received"),
    ),
    Metric(
        "simple_ws_engine_sent_bytes_total",
        "counter",
        "Bytes sent to the engine, without TLS.",
        _of_engine("bytes_sent"),
    ),
    Metric(
        "simple_ws_engine_output_bytes",
        "gauge",
        "Bytes of output that the engine has not accepted yet.",
        _of_engine("buffered"),
    ),
    Metric(
        "simple_ws_engine_channels",
        "gauge",
        "Channels of the engine that this process listens to.",
        _of_engine("channels"),
    ),
    Metric(
        "simple_ws_engine_nodes",
        "gauge",
        "Nodes of the cluster that this process knows, itself included.",
        _of_engine("nodes"),
    ),
    Metric(
        "simple_ws_engine_unknown_total",
        "counter",
        "Messages between nodes that this version does not know.",
        _of_engine("unknown"),
    ),
)


def samples_of(metric: Metric, stats: Mapping[str, Any]) -> Iterator[Line]:
    """The samples of the server, or of each of its workers.

    Not the sums besides: who adds up a metric would count everything twice.
    """
    for labels, value in _of_processes(metric, stats):
        if metric.kind != "histogram":
            yield metric.name, labels, value
            continue
        for limit, number in value["le"].items():
            yield f"{metric.name}_bucket", {**labels, "le": limit}, number
        yield f"{metric.name}_sum", labels, value["sum"]
        yield f"{metric.name}_count", labels, value["le"]["+Inf"]


def _of_processes(metric: Metric, stats: Mapping[str, Any]) -> Iterator[Sample]:
    if "workers" not in stats:
        yield from metric.samples(stats)
        return
    for worker in stats["workers"]:
        label = {"worker": str(worker["worker"])}
        for labels, value in metric.samples(worker):
            yield {**label, **labels}, value
