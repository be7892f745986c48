"""`prometheus`: Prometheus can parse the output, and finds the right values in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from harness import Driven, Echo, Recorder, close_frame
from http_peer import Answered, HttpPeer
from prometheus_client import Metric as Family
from prometheus_client.parser import text_string_to_metric_families

from simple_ws import BACKEND, HandshakeError, Server, WebSocket
from simple_ws.ops.metrics import TABLE
from simple_ws.ops.prometheus import CONTENT_TYPE, render

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def families_of(text: str) -> dict[str, Family]:
    """What the parser of Prometheus' own client finds; each metric once."""
    found = list(text_string_to_metric_families(text))
    families = {family.name: family for family in found}
    assert len(families) == len(found)
    return families


def series_of(text: str) -> Series:
    """All samples by name and labels; each once."""
    samples = [s for family in families_of(text).values() for s in family.samples]
    series = {(s.name, frozenset(s.labels.items())): s.value for s in samples}
    assert len(series) == len(samples), "a series is there twice"
    return series


def find(series: Series, name: str, **labels: str) -> float:
    return series[name, frozenset(labels.items())]


def text_of(server: Server) -> str:
    return render(server.stats()).decode()


def scrape(driven: Driven, path: str = "/metrics") -> Answered:
    peer = driven.join()
    answer = HttpPeer(peer).get(path)
    peer.close()
    return answer


@pytest.fixture
def driven() -> Iterator[Driven]:
    with Driven(Echo()) as started:
        started.server.metrics()
        yield started


# --- The format ----------------------------------------------------------------------


def test_every_metric_is_declared_with_help_and_type(driven: Driven) -> None:
    families = families_of(text_of(driven.server))
    for metric in TABLE:
        family = families[metric.name.removesuffix("_total")]
        assert family.documentation == metric.help
        assert family.type == metric.kind
    assert len(families) == len(TABLE)


def test_every_sample_stands_below_its_declaration(driven: Driven) -> None:
    with driven.open() as peer:
        peer.leave()
    declared = ""
    for line in text_of(driven.server).splitlines():
        if match := re.fullmatch(r"# TYPE (\w+) (counter|gauge|histogram)", line):
            assert declared == match[1], "HELP comes before TYPE"
        elif match := re.fullmatch(r"# HELP (\w+) (.+)", line):
            declared = match[1]
        else:
            assert re.fullmatch(
                rf"{declared}(_bucket|_sum|_count)?(\{{.*\}})? [-+.0-9e]+", line
            ), line


def test_text_ends_with_a_line_end_and_has_no_empty_line(driven: Driven) -> None:
    text = text_of(driven.server)
    assert text.endswith("\n")
    assert "" not in text.split("\n")[:-1]


# --- The figures ---------------------------------------------------------------------


def test_metrics_are_the_figures_after_known_traffic(driven: Driven) -> None:
    driven.server.mount("/silent", Recorder())
    with driven.open() as one, driven.open("/silent") as other:
        for text in ("a", "bc"):
            one.text(text)
            assert one.read_message() == text
        driven.handler.client().subscribe("topic")
        driven.handler.client().bind("user")
        other.text("hello")
        other.write(close_frame(1000))
        other.read_rest()
        stats = driven.server.stats()
        series = series_of(render(stats).decode())
        echo = {"handler": "Echo", "path": "*"}
        silent = {"handler": "Recorder", "path": "/silent"}
        sent = stats["handlers"][0]["bytes_sent"]
        assert find(series, "simple_ws_info", backend=BACKEND) == 1
        for labels, name, value in (
            (echo, "connections", 1),
            (silent, "connections", 0),
            (echo, "messages_received_total", 2),
            (echo, "messages_sent_total", 2),
            (echo, "messages_dropped_total", 0),
            (echo, "messages_conflated_total", 0),
            (silent, "messages_received_total", 1),
            (silent, "messages_sent_total", 0),
            (echo, "received_bytes_total", 3 + 2 * 6),
            (silent, "received_bytes_total", 5 + 6 + 2 + 6),
            (echo, "sent_bytes_total", sent),
            ({}, "connections_opened_total", 2),
            ({"cause": "peer"}, "connections_closed_total", 1),
            ({"cause": "ping_timeout"}, "connections_closed_total", 0),
            ({}, "topics", 1),
            ({}, "identities", 1),
            ({}, "buffered_bytes", 0),
            ({}, "slow_callbacks_total", 0),
            ({}, "dashboard_connections", 0),
            ({}, "start_time_seconds", stats["started"]),
        ):
            assert find(series, f"simple_ws_{name}", **labels) == value, name


def test_every_figure_is_in_the_metrics() -> None:
    stats = Server().stats()
    number = 1000.5
    expected = set()

    def fresh() -> float:
        nonlocal number
        number += 1
        expected.add(number)
        return number

    counts = {name: fresh() for name in stats["total"]}
    stats["handlers"] = [{"name": "x", "paths": ["/"], "clients": fresh(), **counts}]
    stats["connections"] = {"opened": fresh(), "dashboards": fresh(), "open": 0}
    stats["closed"] = {"peer": fresh(), "eof": fresh()}
    stats["refused"] = {"404": fresh(), "503": fresh()}
    for name in (
        "started",
        "buffered",
        "topics",
        "identities",
        "members",
        "longest_turn",
    ):
        stats[name] = fresh()
    stats["slow_callbacks"] = fresh()
    names = "up rtt published received unsure lost refused gaps missing repeats"
    more = "invalid resent again bytes_received bytes_sent buffered channels nodes"
    sizes = f"{more} unknown"
    stats["engine"] = {name: fresh() for name in f"{names} {sizes}".split()}
    stats["engine"]["connects"] = {"start": fresh(), "error": fresh()}
    series = series_of(render(stats).decode())
    assert set(series.values()) == expected | {1}
    assert len(series) == len(expected) + 1


def test_engine_is_in_the_metrics_only_if_there_is_one() -> None:
    stats = Server().stats()
    names = {name for name, _ in series_of(render(stats).decode())}
    assert not any("engine" in name for name in names)


def test_losses_of_an_engine_are_told_apart_and_an_unknown_time_is_left_out() -> None:
    stats = Server().stats()
    counts = [
        "received",
        "repeats",
        "resent",
        "again",
        "missing",
        "gaps",
        "invalid",
        "published",
    ]
    sizes = ["bytes_received", "bytes_sent", "buffered", "channels", "nodes", "unknown"]
    stats["engine"] = dict.fromkeys((*counts, *sizes), 0) | {
        "up": 0,
        "rtt": None,
        "connects": {"start": 1, "error": 2},
        "unsure": 3,
        "lost": 4,
        "refused": 5,
    }
    workers = {"workers": [{**stats, "worker": 1}, {**stats, "worker": 2}]}
    for labels, shown in (({}, stats), ({"worker": "2"}, {**stats, **workers})):
        series = series_of(render(shown).decode())
        assert not any("rtt" in name for name, _ in series)
        assert find(series, "simple_ws_engine_up", **labels) == 0
        for why, value in (("unsure", 3), ("down", 4), ("refused", 5)):
            name = "simple_ws_engine_lost_total"
            assert find(series, name, why=why, **labels) == value
        name = "simple_ws_engine_connects_total"
        assert find(series, name, reason="error", **labels) == 2


def test_counters_never_go_back_from_scrape_to_scrape() -> None:
    server = Server("127.0.0.1", 0)
    server.mount("*", Echo())
    before: Series = {}
    for _ in range(3):
        server._begin_in_memory(None)
        server._tear_down()
        series = series_of(text_of(server))
        for (name, labels), value in before.items():
            if name.endswith("_total"):
                assert series[name, labels] >= value
        before = series


def test_server_that_is_stopped_has_no_start_time() -> None:
    server = Server()
    assert families_of(text_of(server))["simple_ws_start_time_seconds"].samples == []


def test_series_of_a_handler_stays_the_same_when_it_gets_another_path() -> None:
    server = Server()
    handler = server.mount("/first", WebSocket())
    before = series_of(text_of(server))
    server.mount("/second", handler)
    assert series_of(text_of(server)).keys() == before.keys()


def test_handlers_of_the_same_name_are_told_apart_by_their_paths() -> None:
    server = Server()
    for path in ("/a", "/b", "*"):
        server.mount(path, WebSocket())
    series = series_of(text_of(server))
    for path in ("/a", "/b", "*"):
        labels = {"handler": "WebSocket", "path": path}
        assert find(series, "simple_ws_connections", **labels) == 0


@pytest.mark.parametrize(
    "name",
    [
        'say "hi"',
        "back\\slash",
        "two\nlines",
        "\\n is no line end",
        'all \\"\n\\\\" of it\\',
        "<lambda>",
        "{curly}",
        "#hash, comma=equals",
        " spaces  around ",
        "größe 日本 🎉",
        "carriage\rreturn",
        "tab\tand\x00nul",
        "",
    ],
)
def test_odd_names_of_handlers_come_back_as_they_were(name: str) -> None:
    server = Server()
    handler = server.mount('/p"a\\t{h}', WebSocket())
    handler._set(_log_name=name)
    labels = {"handler": name, "path": '/p"a\\t{h}'}
    series = series_of(text_of(server))
    assert find(series, "simple_ws_connections", **labels) == 0


def test_name_that_utf8_cannot_say_does_no_harm() -> None:
    server = Server()
    handler = server.mount("/", WebSocket())
    handler._set(_log_name="lone \ud800")
    series = series_of(text_of(server))
    labels = {"handler": "lone ?", "path": "/"}
    assert find(series, "simple_ws_connections", **labels) == 0


@pytest.mark.parametrize("value", [0, 10**18, 0.1, 1e-9, 1e300, 1795238246.925])
def test_numbers_come_back_as_they_were(value: float) -> None:
    stats: Mapping[str, Any] = Server().stats() | {"buffered": value}
    series = series_of(render(stats).decode())
    assert find(series, "simple_ws_buffered_bytes") == value


# --- Over HTTP -----------------------------------------------------------------------


def test_prometheus_is_answered_in_its_format(driven: Driven) -> None:
    with driven.open() as peer:
        peer.text("hi")
        peer.read_message()
        answer = scrape(driven)
        assert answer.status == 200
        assert answer.headers["content-type"] == CONTENT_TYPE
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        series = series_of(answer.text)
        labels = {"handler": "Echo", "path": "*"}
        assert find(series, "simple_ws_messages_received_total", **labels) == 1


def test_scrapes_are_no_connections(driven: Driven) -> None:
    for _ in range(3):
        scrape(driven)
    stats = driven.server.stats()
    assert stats["connections"] == {"open": 0, "opened": 0, "dashboards": 0}
    assert stats["refused"] == {}
    assert not any(stats["total"].values())


def test_metrics_stand_at_another_path_when_told_to() -> None:
    with Driven() as driven:
        driven.server.metrics("/internal/metrics")
        assert scrape(driven, "/internal/metrics").status == 200
        assert scrape(driven, "/metrics").status == 426


def test_metrics_are_off_unless_asked_for() -> None:
    with Driven() as driven:
        assert scrape(driven).status == 426


def test_metrics_are_read_by_those_who_are_allowed_to() -> None:
    seen = []

    def allow(request: Any) -> bool:
        seen.append(request.address)
        return request.query.get("key") == "s3cret"

    with Driven() as driven:
        driven.server.metrics(allow=allow)
        refused = scrape(driven)
        assert refused.status == 403
        assert "simple_ws_" not in refused.text
        assert scrape(driven, "/metrics?key=s3cret").status == 200
        assert seen == [("192.0.2.1", 12345)] * 2


def test_allow_may_refuse_in_its_own_way() -> None:
    def allow(request: Any) -> bool:
        challenge = [("WWW-Authenticate", 'Basic realm="metrics"')]
        raise HandshakeError(401, "Say who you are.", challenge)

    with Driven() as driven:
        driven.server.metrics(allow=allow)
        answer = scrape(driven)
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == 'Basic realm="metrics"'


def test_allow_that_raises_lets_nobody_read(caplog: pytest.LogCaptureFixture) -> None:
    def allow(request: Any) -> bool:
        raise KeyError("oops")

    with Driven() as driven:
        driven.server.metrics(allow=allow)
        answer = scrape(driven)
        assert answer.status == 500
        assert "simple_ws_" not in answer.text
        assert "oops" in caplog.text


def test_allow_must_say_yes_or_no(caplog: pytest.LogCaptureFixture) -> None:
    with Driven() as driven:
        driven.server.metrics(allow=lambda request: request)  # type: ignore[arg-type,return-value]
        assert scrape(driven).status == 500
        assert "allow returned" in caplog.text
        assert "return True or False" in caplog.text


def test_allow_must_not_be_async() -> None:
    async def allow(request: Any) -> bool:
        return False

    with pytest.raises(TypeError, match="allow must not be async"):
        Server().metrics(allow=allow)  # type: ignore[arg-type]


@pytest.mark.parametrize("allow", [True, False, "me", lambda: True, lambda a, b: True])
def test_allow_must_be_a_function_of_a_request(allow: Any) -> None:
    with pytest.raises(TypeError, match=r"allow must be a function of \(request\)"):
        Server().metrics(allow=allow)


def test_metrics_stand_at_one_path_once() -> None:
    server = Server()
    server.metrics()
    with pytest.raises(ValueError, match="/metrics"):
        server.metrics()
    with pytest.raises(ValueError, match="path must begin with '/'"):
        server.metrics("metrics")


def test_two_servers_show_figures_of_their_own(driven: Driven) -> None:
    with Driven(Echo()) as other, driven.open():
        other.server.metrics()
        labels = {"handler": "Echo", "path": "*"}
        ours, theirs = (series_of(scrape(each).text) for each in (driven, other))
        assert find(ours, "simple_ws_connections", **labels) == 1
        assert find(theirs, "simple_ws_connections", **labels) == 0


def test_registry_shows_the_same_samples(driven: Driven) -> None:
    pytest.importorskip("prometheus_client")
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry()
    registry.register(driven.server.collector())

    def samples(text: str) -> dict[str, float]:
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in (x.rsplit(" ", 1) for x in lines)}

    stats = driven.server.stats()
    ours, theirs = render(stats).decode(), generate_latest(registry).decode()
    # What goes on meanwhile: the time that this test takes.
    moving = {name for name in samples(ours) if "seconds" in name or "turn" in name}
    assert samples(theirs).keys() == samples(ours).keys()
    for name, value in samples(ours).items():
        assert name in moving or samples(theirs)[name] == value
