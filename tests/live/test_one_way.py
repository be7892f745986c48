"""One-way Server-Sent Events of `live`, read as browsers do."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from live_peer import StreamPeer, allow

from simple_ws import CloseCause, Server
from simple_ws.live import Connected, LiveError
from simple_ws.live.positions import Claim
from simple_ws.live.streams.places import LOST, encode_places, parse_places
from simple_ws.testing import TestServer

HISTORY = {"room:*": {"history": 5}}


class Source:
    """An `EventSource`: what it reads, and what it comes back with."""

    def __init__(self, kit: TestServer, target: str, *lines: str) -> None:
        self.peer = StreamPeer(kit, "sse", lines=lines)
        self.peer.ask_for("GET", target)
        self.last_id: str | None = None
        self._id = ""
        self._rest = ""

    def read(self) -> list[Any]:
        """The data of the events that have come."""
        blocks = (self._rest + self.peer.read().decode()).split("\n\n")
        self._rest = blocks.pop()
        events = []
        for block in blocks:
            data = None
            for line in block.split("\n"):
                field, _, value = line.partition(": ")
                if field == "data":
                    data = value if data is None else f"{data}\n{value}"
                elif field == "id":
                    self._id = value
                else:
                    assert field in ("retry", ":"), line
            self.last_id = self._id or self.last_id
            if data is not None:
                events.append(json.loads(data))
        return events

    @property
    def status(self) -> int:
        self.peer.read()
        return self.peer.status

    def publications(self) -> list[Any]:
        """Topic, data and offset of each; nothing else has come."""
        return [
            (each["channel"], each["pub"]["data"], each["pub"].get("offset", 0))
            for each in self.read()
        ]


class Site:
    """A server with `live`, and its visitors."""

    def __init__(self) -> None:
        self.sources: list[Source] = []
        self.kit: TestServer | None = None

    def __call__(
        self,
        rules: dict[str, dict[str, Any]] = {},  # noqa: B006
        server: dict[str, Any] = {},  # noqa: B006
        **options: Any,
    ) -> Site:
        self.server = Server("127.0.0.1", 0, ping=False, presence_grace=0, **server)
        for pattern, rule in rules.items():
            self.server.topic(pattern, **rule)
        options.setdefault("authorize", allow)
        self.live = self.server.live("/live", **options)
        self.kit = TestServer(self.server, raise_server_exceptions=False)
        return self

    def ask(self, target: str, *lines: str) -> Source:
        assert self.kit is not None
        self.sources.append(Source(self.kit, target, *lines))
        return self.sources[-1]

    def open(self, *topics: str, last_id: str | None = None) -> tuple[Source, Any]:
        """A source, and what it was told first."""
        query = "&".join(f"topic={quote(topic)}" for topic in topics)
        lines = () if last_id is None else (f"Last-Event-ID: {last_id}",)
        source = self.ask(f"/live/events?{query}", *lines)
        first, *self.rest = source.read()
        return source, first["connect"]


@pytest.fixture
def site() -> Iterator[Any]:
    made = Site()
    yield made
    for source in made.sources:
        source.peer.sock.close()
    if made.kit is not None:
        made.kit.close()


class TestEvents:
    def test_messages_of_several_topics(self, site: Any) -> None:
        source, told = site().open("a", "é x")
        assert told["pong"] is False
        assert told["subs"] == {"a": {}, "é x": {}}
        assert "session" not in told
        assert source.status == 200
        assert source.last_id is None
        assert site.server.publish("a", {"x": 1}) == 1
        assert site.server.publish("é x", "two\r\nlines") == 1
        assert site.server.publish("b", "not asked for") == 0
        assert source.publications() == [
            ("a", {"x": 1}, 0),
            ("é x", "two\r\nlines", 0),
        ]

    def test_response_is_one_that_browsers_and_proxies_understand(
        self, site: Any
    ) -> None:
        source, _ = site().open("a")
        head = source.peer.head.lower()
        assert "content-type: text/event-stream\r\n" in head
        assert "cache-control: no-cache" in head
        assert "x-accel-buffering: no" in head
        assert "connection: close" in head
        raw = site.ask("/live/events?topic=a").peer.read()
        assert re.match(rb"retry: [2-5][0-9]{3}\n\ndata: ", raw)

    def test_topics_may_be_those_of_on_connect(self, site: Any) -> None:
        site(on_connect=lambda client, request: Connected(data=1, topics=["news", "a"]))
        source, told = site.open("a")
        assert told["data"] == 1
        assert told["subs"] == {"news": {}, "a": {}}
        site.server.publish("news", "x")
        site.server.publish("a", "y")
        assert source.publications() == [("news", "x", 0), ("a", "y", 0)]

    def test_token_and_query_reach_on_connect(self, site: Any) -> None:
        seen: list[Any] = []

        def on_connect(client: Any, request: Any) -> Connected:
            seen.append((request.token, client.query["x"]))
            return Connected(user="ann")

        site(on_connect=on_connect).ask("/live/events?topic=a&token=t&x=1").read()
        assert seen == [("t", "1")]
        assert site.server.send_to("ann", "hello") == 1
        assert site.sources[0].read() == [{"message": {"data": "hello"}}]

    def test_it_is_a_member_of_its_topics(self, site: Any) -> None:
        site(
            rules={"room:*": {"presence": True}},
            on_connect=lambda client, request: Connected(user=request.token),
        )
        source = site.ask("/live/events?topic=room:1&token=ann")
        source.read()
        assert set(site.server.present("room:1")) == {"ann"}
        source.peer.leave()
        assert not site.server.present("room:1")

    def test_beats_are_comments_and_need_no_answer(self, site: Any) -> None:
        source, _ = site().open("a")
        for _ in range(3):
            site.kit.advance(25)
            assert source.peer.read() == b":\n\n"
        assert len(site.live.clients) == 1

    def test_client_that_takes_nothing_is_cut(self, site: Any) -> None:
        site().open("a")
        (client,) = site.live.clients
        while not client.buffered_amount:
            site.server.publish("a", "x" * 1000)
            site.kit.settle()
        site.kit.advance(25)
        assert site.live.clients
        site.kit.advance(25)
        assert not site.live.clients
        assert client.close_cause is CloseCause.PING_TIMEOUT

    def test_leaving_is_noticed_at_once(self, site: Any) -> None:
        gone: list[Any] = []
        source, _ = site(on_disconnect=gone.append).open("a")
        source.peer.leave()
        assert len(gone) == 1
        assert site.server.publish("a", "x") == 0

    def test_end_is_told(self, site: Any) -> None:
        source, _ = site().open("a")
        site.server.stop()
        assert source.read() == [{"disconnect": {"code": 3001, "reason": "shutdown"}}]
        assert source.peer.ended


class TestRecovery:
    def test_what_was_missed_comes_once_and_in_order(self, site: Any) -> None:
        source, told = site(HISTORY).open("room:1", "plain", "room:2")
        assert set(told["subs"]["room:1"]) == {
            *("positioned", "recoverable", "epoch", "offset")
        }
        assert source.last_id is not None
        site.server.publish("room:1", "one")
        assert source.publications() == [("room:1", "one", 1)]
        source.peer.leave()
        site.server.publish("room:1", "two")
        site.server.publish("room:2", "three")
        site.server.publish("room:1", "four")
        again, told = site.open("room:1", "plain", "room:2", last_id=source.last_id)
        assert told["subs"]["room:1"]["recovered"] is True
        assert told["subs"]["room:2"]["recovered"] is True
        assert [each["pub"]["data"] for each in site.rest] == ["two", "four", "three"]
        site.server.publish("room:2", "five")
        assert again.publications() == [("room:2", "five", 2)]
        again.peer.leave()
        _, told = site.open("room:1", "plain", "room:2", last_id=again.last_id)
        assert site.rest == []
        assert told["subs"]["room:2"]["recovered"] is True

    def test_each_event_says_where_it_is(self, site: Any) -> None:
        source, _ = site(HISTORY).open("room:1", "room:2")
        begun = source.last_id
        for number, topic in enumerate(["room:1", "room:2", "room:1"]):
            site.server.publish(topic, str(number))
            source.read()
            site.open("room:1", "room:2", last_id=source.last_id)
            assert site.rest == []
        site.open("room:1", "room:2", last_id=begun)
        assert [each["pub"]["data"] for each in site.rest] == ["0", "2", "1"]

    def test_cut_in_the_middle_of_what_was_missed(self, site: Any) -> None:
        source, _ = site(HISTORY).open("room:1")
        for number in range(4):
            site.server.publish("room:1", str(number))
        begun = source.last_id
        raw = site.ask("/live/events?topic=room:1", f"Last-Event-ID: {begun}")
        text = raw.peer.read().decode()
        ids = [line[4:] for line in text.split("\n") if line.startswith("id: ")]
        assert len(ids) == 5
        for got, last_id in enumerate(ids[:4], 1):
            site.open("room:1", last_id=last_id)
            told = [each["pub"]["data"] for each in site.rest]
            assert told == [str(number) for number in range(got, 4)]

    def test_it_is_told_what_is_gone(self, site: Any) -> None:
        source, _ = site(HISTORY).open("room:1")
        for number in range(7):
            site.server.publish("room:1", str(number))
        again, told = site.open("room:1", last_id=source.last_id)
        assert told["subs"]["room:1"]["recovered"] is False
        assert site.rest == []
        site.server.publish("room:1", "next")
        assert again.publications() == [("room:1", "next", 8)]

    @pytest.mark.parametrize(
        "last_id",
        ["x", ",,,", "~", "a~b", "1:1:~1", "1:1:abcd~" + "9" * 17, "x" * 7000, "\xff"],
    )
    def test_id_of_a_stranger_is_a_gap(self, site: Any, last_id: str) -> None:
        source, told = site(HISTORY).open("room:1", last_id=last_id)
        assert told["subs"]["room:1"]["recovered"] is False
        site.server.publish("room:1", "x")
        assert source.publications() == [("room:1", "x", 1)]

    def test_topics_that_changed_are_a_gap(self, site: Any) -> None:
        source, _ = site(HISTORY).open("room:1")
        _, told = site.open("room:1", "room:2", last_id=source.last_id)
        assert [each["recovered"] for each in told["subs"].values()] == [False, False]
        _, told = site.open("room:1", last_id=source.last_id)
        assert told["subs"]["room:1"]["recovered"] is True

    def test_gap_ends_the_stream_and_is_told_when_it_comes_back(
        self, site: Any
    ) -> None:
        source, _ = site(HISTORY).open("room:1")
        site.live.on_gap("room:1", 3)
        site.kit.settle()
        assert source.read() == [
            {"disconnect": {"code": 3010, "reason": "insufficient state"}}
        ]
        assert source.peer.ended


class TestRefused:
    @pytest.mark.parametrize(
        ("what", "status"), [("connect", 401), ("error", 403), ("topic", 403)]
    )
    def test_who_may_not_gets_a_status_and_does_not_come_back(
        self, site: Any, what: str, status: int
    ) -> None:
        def on_connect(client: Any, request: Any) -> Any:
            if what == "error":
                raise LiveError(500, "go away")
            return what != "connect"

        def authorize(client: Any, action: str, topic: str) -> bool:
            assert action == "subscribe"
            return topic != "b"

        site(authorize=authorize, on_connect=on_connect)
        source = site.ask("/live/events?topic=a&topic=b")
        assert source.status == status
        assert source.peer.ended
        site.kit.settle()
        assert not site.live.clients
        assert site.server.publish("a", "x") == 0

    def test_hooks_may_be_async_and_nothing_comes_before_all_have_agreed(
        self, site: Any
    ) -> None:
        async def authorize(client: Any, action: str, topic: str) -> bool:
            await asyncio.sleep(1)
            return topic != "no"

        site(rules=HISTORY, authorize=authorize)
        good = site.ask("/live/events?topic=room:1&topic=b")
        bad = site.ask("/live/events?topic=room:1&topic=no")
        site.kit.advance(1.5)
        assert site.server.publish("room:1", "early") == 2
        site.kit.advance(1)
        assert bad.status == 403
        told, early = good.read()
        assert set(told["connect"]["subs"]) == {"room:1", "b"}
        assert early["pub"] == {"data": "early", "offset": 1}
        assert good.last_id is not None
        site.server.publish("b", "x")
        assert good.publications() == [("b", "x", 0)]

    def test_hook_that_fails_lets_it_come_back(self, site: Any, caplog: Any) -> None:
        def authorize(client: Any, action: str, topic: str) -> bool:
            raise KeyError(topic)

        source = site(authorize=authorize).ask("/live/events?topic=a")
        assert source.read() == [
            {"disconnect": {"code": 3004, "reason": "internal server error"}}
        ]
        assert source.status == 200
        assert source.peer.ended

    def test_early_output_is_bounded(self, site: Any) -> None:
        async def authorize(client: Any, action: str, topic: str) -> bool:
            await asyncio.sleep(1 if topic == "b" else 0)
            return True

        source = site(authorize=authorize, write_limit=20_000).ask(
            "/live/events?topic=a&topic=b"
        )
        site.kit.advance(0.1)
        (client,) = site.live.clients
        for _ in range(100):
            site.server.publish("a", "x" * 500)
        site.kit.advance(2)
        assert client.close_cause is CloseCause.SLOW_CONSUMER
        assert source.read() == [{"disconnect": {"code": 3008, "reason": "slow"}}]

    def test_leaving_before_it_has_begun(self, site: Any) -> None:
        async def authorize(client: Any, action: str, topic: str) -> bool:
            await asyncio.sleep(1)
            return True

        source = site(authorize=authorize).ask("/live/events?topic=a")
        source.peer.leave()
        assert not site.live.clients
        site.kit.advance(2)
        assert site.server.publish("a", "x") == 0

    @pytest.mark.parametrize(
        "query",
        [
            "topic=",
            "&".join(f"topic={number}" for number in range(33)),
            "topic=" + "x" * 256,
        ],
    )
    def test_wrong_topics(self, site: Any, query: str) -> None:
        assert site().ask(f"/live/events?{query}").status == 400
        assert not site.live.clients

    def test_other_methods(self, site: Any) -> None:
        kit = site().kit
        assert kit.request("POST", "/live/events").status == 405
        assert kit.request("OPTIONS", "/live/events").status == 204
        head = kit.request("HEAD", "/live/events?topic=a")
        assert (head.status, head.body) == (200, b"")
        assert not site.live.clients

    def test_pages_that_cors_allows_may_read_refusals(self, site: Any) -> None:
        site(on_connect=lambda client, request: False, cors="https://a.example")
        source = site.ask("/live/events?topic=a", "Origin: https://a.example")
        assert source.status == 401
        assert "Access-Control-Allow-Origin: https://a.example" in source.peer.head

    def test_nobody_speaks_for_it(self, site: Any) -> None:
        site().open("a")
        assert site.server._inputs == {}


class TestCentrifugo:
    def test_connect_stands_in_the_query(self, site: Any) -> None:
        seen: list[Any] = []

        def on_connect(client: Any, request: Any) -> Connected:
            seen.append((request.token, request.data))
            return Connected(topics=["news"])

        site(on_connect=on_connect)
        asked = quote(json.dumps({"token": "t", "data": {"x": 1}}))
        source = site.ask(f"/live/uni_sse?cf_connect={asked}")
        assert source.read()[0]["connect"]["subs"] == {"news": {}}
        assert seen == [("t", {"x": 1})]
        site.server.publish("news", [1])
        assert source.read() == [{"channel": "news", "pub": {"data": [1]}}]

    @pytest.mark.parametrize("text", ["x", "[]", '{"token":1}', "[" * 3000, "NaN"])
    def test_wrong_ones(self, site: Any, text: str) -> None:
        assert site().ask(f"/live/uni_sse?cf_connect={quote(text)}").status == 400

    def test_without_one(self, site: Any) -> None:
        assert "connect" in site().ask("/live/uni_sse").read()[0]


CLAIMS = st.lists(
    st.none() | st.builds(Claim, st.just("ab:1:00ff"), st.integers(0, 2**53)),
    min_size=1,
)


@given(places=CLAIMS)
def test_places_are_read_as_they_were_written(places: list[Any]) -> None:
    text = encode_places(places)
    if text:
        assert parse_places(text, len(places)) == places
    assert parse_places(f"{text},", len(places)) == [LOST] * len(places)


@given(text=st.text(), count=st.integers(0, 40))
def test_no_id_of_a_stranger_raises(text: str, count: int) -> None:
    assert len(parse_places(text, count)) == count
