"""The server API: keys, bodies, answers, and what each method does in one process."""

from __future__ import annotations

import base64
import json
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from harness import Recorder
from live_peer import LivePeer, StreamPeer, allow

from simple_ws import Server
from simple_ws.cluster.answers import Answers
from simple_ws.live import Connected
from simple_ws.live.api import nodes as api_nodes
from simple_ws.testing import HTTPAnswer, TestServer

KEY = "a key"
NODE_ID = "00000000-0000-0000-0000-000000000001"


def on_connect(client: Any, request: Any) -> Connected:
    return Connected(user=request.data)


@pytest.fixture
def kit() -> Iterator[TestServer]:
    server = Server("127.0.0.1", 0, ping=False)
    server.topic("room:*", history=5, presence=True)
    server.live("/live", authorize=allow, on_connect=on_connect, api_key=KEY)
    server.mount("/raw", Recorder())
    with TestServer(server) as kit:
        yield kit


def post(
    kit: TestServer, path: str, body: bytes, headers: dict[str, str] | None = None
) -> HTTPAnswer:
    headers = {"X-API-Key": KEY} if headers is None else headers
    return kit.request("POST", f"/live/api{path}", headers=headers, body=body)


def call(kit: TestServer, method: str, /, **params: Any) -> dict[str, Any]:
    """The result of a method."""
    answered = post(kit, f"/{method}", json.dumps(params).encode())
    assert answered.status == 200, answered.body
    result = answered.json()["result"]
    assert isinstance(result, dict)
    return result


def fail(kit: TestServer, method: str, /, **params: Any) -> tuple[int, str]:
    """The error of a method, which is answered with status 200."""
    answered = post(kit, f"/{method}", json.dumps(params).encode())
    assert answered.status == 200
    error = answered.json()["error"]
    return error["code"], error["message"]


def joined(kit: TestServer, user: Any = None, *topics: str) -> LivePeer:
    peer = LivePeer(kit)
    peer.connect(data=user)
    for topic in topics:
        peer.ask("subscribe", channel=topic)
    return peer


# Keys


@pytest.mark.parametrize(
    ("headers", "query", "status"),
    [
        ({"X-API-Key": KEY}, "", 200),
        ({"Authorization": f"apikey {KEY}"}, "", 200),
        ({"Authorization": f"ApiKey  {KEY} "}, "", 200),
        ({}, "?api_key=a%20key", 200),
        ({"X-API-Key": "another"}, "", 401),
        ({"X-API-Key": KEY[:-1]}, "", 401),
        ({"X-API-Key": f"{KEY}x"}, "", 401),
        ({"X-API-Key": ""}, "", 401),
        ({"Authorization": KEY}, "", 401),
        ({"Authorization": f"Bearer {KEY}"}, "", 401),
        ({}, "?api_key=%ff%00", 401),
        ({}, "?api_key=", 401),
        ({}, "", 401),
    ],
)
def test_key_is_needed(
    kit: TestServer, headers: dict[str, str], query: str, status: int
) -> None:
    for path in "/info", "/batch", "":
        body = b'{"method": "info", "commands": []}'
        answered = post(kit, f"{path}{query}", body, headers)
        assert answered.status == status, path
        if status == 401:
            assert answered.json() == {
                "error": {"code": 101, "message": "unauthorized"}
            }
    refused = kit.server.stats()["api"]["errors"]
    assert refused == ({} if status == 200 else {"101": 3})


def test_stranger_learns_nothing_of_its_body_and_is_in_the_log(
    kit: TestServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "simple_ws")
    assert post(kit, "/publish", b"{", {"X-API-Key": "my guess"}).status == 401
    assert "a wrong key of the server API" in caplog.text
    assert "my guess" not in caplog.text


def test_several_keys_are_valid() -> None:
    server = Server("127.0.0.1", 0)
    server.live("/live", api_key=["new", "old"])
    with TestServer(server) as kit:
        for key, status in [("new", 200), ("old", 200), ("older", 401)]:
            assert post(kit, "/info", b"{}", {"X-API-Key": key}).status == status


def test_there_is_no_api_without_a_key() -> None:
    server = Server("127.0.0.1", 0)
    server.live("/live")
    with TestServer(server) as kit:
        assert post(kit, "/publish", b"{}").status == 404
        assert post(kit, "", b"{}").status == 404
        assert kit.request("GET", "/live/api/openapi.json").status == 404
        assert "api" not in server.stats()


@pytest.mark.parametrize("key", ["", [""], [b"x"], 5, "\n", "é", [" a"]])
def test_wrong_key_raises_at_once_and_is_not_shown(key: Any) -> None:
    server = Server("127.0.0.1", 0)
    with pytest.raises((TypeError, ValueError), match="api_key") as raised:
        server.live("/live", api_key=key)
    assert repr(key) == "5" or repr(key) not in str(raised.value)
    server.live("/live")  # nothing is mounted


# Bodies


DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"5",
        b"null",
        b'{"channel": "a", "data": NaN}',
        b'{"channel": "a", "data": ' + b"9" * 5000 + b"}",
        b'{"channel": "a", "data": ' + DEEP + b"}",
        b'{"channel": 5, "data": 1}',
        b'{"channel": null, "data": 1}',
        b'{"data": 1}',
        b'{"channel": "a", "data": 1, "tags": {"a": 1}}',
        b'{"channel": "a", "data": 1, "tags": []}',
        b'{"channel": "a", "data": 1, "skip_history": 1}',
        b'{"channel": "a", "b64data": 1}',
        b'\xff{"channel": "a", "data": 1}',
    ],
    ids=lambda body: repr(body[:50]),
)
def test_malformed_body_is_status_400_and_counted(kit: TestServer, body: bytes) -> None:
    answered = post(kit, "/publish", body)
    assert answered.status == 400
    error = answered.json()["error"]
    assert (error["code"], error["message"][:11]) == (107, "bad request")
    api = kit.server.stats()["api"]
    assert (api["malformed"], api["errors"]) == (1, {"107": 1})
    assert api["commands"]["publish"] == 0


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("history", {"channel": "room:1", "limit": 2**31}),
        ("history", {"channel": "room:1", "limit": True}),
        ("history", {"channel": "room:1", "since": {"offset": -1}}),
        ("history", {"channel": "room:1", "since": {"offset": 2**64}}),
        ("history", {"channel": "room:1", "since": {"epoch": 5}}),
        ("history", {"channel": "room:1", "since": []}),
        ("broadcast", {"channels": "room:1", "data": 1}),
        ("broadcast", {"channels": ["room:1", 5], "data": 1}),
        ("subscribe", {"user": 5, "channel": "a"}),
        ("subscribe", {"channel": "a"}),
        ("disconnect", {"user": "ann", "disconnect": {"code": -1}}),
        ("disconnect", {"user": "ann", "whitelist": "x"}),
        ("batch", {}),
        ("batch", {"commands": {}}),
        ("batch", {"commands": [5]}),
        ("batch", {"commands": [{"publish": 5}]}),
    ],
)
def test_wrong_types_are_status_400(
    kit: TestServer, method: str, params: dict[str, Any]
) -> None:
    assert post(kit, f"/{method}", json.dumps(params).encode()).status == 400


def test_fields_that_are_null_or_unknown_are_passed_over(kit: TestServer) -> None:
    reader = joined(kit, "ann", "a")
    call(kit, "publish", channel="a", data=None, tags=None, newer={"a": 1})
    assert reader.publications() == [(None, 0)]


@pytest.mark.parametrize(
    ("params", "why"),
    [
        ({"channel": "", "data": 1}, "channel must not be empty"),
        ({"channel": "a" * 256, "data": 1}, "channel must have at most 255 characters"),
        ({"channel": "\ud800", "data": 1}, "channel is not valid Unicode"),
        ({"channel": "a"}, "data is missing"),
        ({"channel": "a", "b64data": ""}, "data is missing"),
        ({"channel": "a", "b64data": "%"}, "b64data is not base64"),
        (
            {"channel": "room:1", "data": 1, "idempotency_key": "k" * 257},
            "key must have 1 to 256 characters, not 257",
        ),
    ],
)
def test_what_cannot_be_published_is_error_107(
    kit: TestServer, params: dict[str, Any], why: str
) -> None:
    assert fail(kit, "publish", **params) == (107, f"bad request: {why}")


def test_only_post(kit: TestServer) -> None:
    answered = kit.request("GET", "/live/api/publish", headers={"X-API-Key": KEY})
    assert (answered.status, answered.headers["Allow"]) == (405, "POST, OPTIONS")
    assert post(kit, "/nothing", b"{}").status == 404


@pytest.mark.parametrize(
    ("method", "params", "status", "code"),
    [
        ("publish", {"channel": "", "data": 1}, 400, 107),
        ("presence", {"channel": "a"}, 400, 108),
        (
            "history",
            {"channel": "room:1", "since": {"offset": 9, "epoch": "abcd:9:0000"}},
            416,
            112,
        ),
    ],
)
def test_errors_are_http_statuses_if_that_is_asked_for(
    kit: TestServer, method: str, params: dict[str, Any], status: int, code: int
) -> None:
    headers = {"X-API-Key": KEY, "X-Centrifugo-Error-Mode": "transport"}
    answered = post(kit, f"/{method}", json.dumps(params).encode(), headers)
    assert (answered.status, answered.json()["code"]) == (status, code)


# Publishing


def test_publication_reaches_all_and_has_its_place(kit: TestServer) -> None:
    reader, raw = joined(kit, "ann", "room:1"), kit.connect("/raw")
    kit.server.subscribe("room:1", raw.client)
    first = call(kit, "publish", channel="room:1", data={"n": 1})
    second = call(kit, "publish", channel="room:1", data="text")
    assert (first["offset"], second["offset"]) == (1, 2)
    assert reader.publications() == [({"n": 1}, 1), ("text", 2)]
    assert raw.messages == ['{"n":1}', "text"]
    # The place is one of the history.
    page = call(
        kit, "history", channel="room:1", limit=-1, since={**first, "offset": 1}
    )
    assert page["publications"] == [{"data": "text", "offset": 2}]
    assert call(kit, "publish", channel="hall", data=1) == {}


def test_publication_that_comes_again_is_published_once(kit: TestServer) -> None:
    reader = joined(kit, "ann", "room:1")
    given = {"channel": "room:1", "data": 1, "idempotency_key": "order 7"}
    first = call(kit, "publish", **given)
    call(kit, "publish", channel="room:1", data=2)
    assert call(kit, "publish", **given) == first
    assert reader.publications() == [(1, 1), (2, 2)]
    code, text = fail(kit, "publish", **{**given, "channel": "hall"})
    assert (code, text) == (
        108,
        "not available: idempotency_key is for what is kept in a history",
    )
    assert fail(kit, "publish", **given, skip_history=True)[0] == 108


def test_publication_that_nobody_else_would_get_is_an_error(
    kit: TestServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = joined(kit, "ann", "hall")
    with monkeypatch.context() as patched:
        engine = SimpleNamespace(state=SimpleNamespace(up=False))
        patched.setattr(kit.server, "_engine", engine)
        error = 100, "internal server error"
        assert fail(kit, "publish", channel="hall", data=1) == error
    call(kit, "publish", channel="hall", data=2)
    assert reader.publications() == [(2, 0)]


def test_publication_need_not_be_kept(kit: TestServer) -> None:
    reader, raw = joined(kit, "ann", "room:1"), kit.connect("/raw")
    kit.server.subscribe("room:1", raw.client)
    for data in {"n": 1}, 5, "x":
        call(kit, "publish", channel="room:1", data=data, skip_history=True)
    encoded = base64.b64encode(b"\0\1").decode()
    call(kit, "publish", channel="room:1", b64data=encoded, skip_history=True)
    assert reader.publications() == [({"n": 1}, 0), (5, 0), ("x", 0), (encoded, 0)]
    assert raw.messages == ['{"n":1}', "5", "x", b"\0\1"]
    assert call(kit, "history", channel="room:1", limit=9)["publications"] == []


def test_tags(kit: TestServer) -> None:
    reader, raw = joined(kit, "ann", "room:1"), kit.connect("/raw")
    kit.server.subscribe("room:1", raw.client)
    tags = {"lang": "de", "\u00fc": "\ud800"}
    for more in {}, {"skip_history": True}:
        call(kit, "publish", channel="room:1", data=[1], tags=tags, **more)
    call(kit, "broadcast", channels=["room:1"], data="x", tags=tags)
    pubs = [each["pub"] for each in reader.pushes()]
    assert [(each["data"], each["tags"]) for each in pubs] == [
        ([1], tags),
        ([1], tags),
        ("x", tags),
    ]
    assert raw.messages == ["[1]", "[1]", "x"]
    page = call(kit, "history", channel="room:1", limit=9)["publications"]
    assert page[0] == {"data": [1], "offset": 1, "tags": tags}
    call(kit, "publish", channel="room:1", data=1, tags={})
    assert "tags" not in reader.pushes()[0]["pub"]


def test_bytes(kit: TestServer) -> None:
    reader, raw = joined(kit, "ann", "hall"), kit.connect("/raw")
    kit.server.subscribe("hall", raw.client)
    encoded = base64.b64encode(b"\0\xff").decode()
    call(kit, "publish", channel="hall", b64data=encoded)
    assert (reader.publications(), raw.messages) == ([(encoded, 0)], [b"\0\xff"])


def test_broadcast(kit: TestServer) -> None:
    reader = joined(kit, "ann", "room:1", "room:2", "hall")
    result = call(
        kit, "broadcast", channels=["room:1", "", "hall", "room:2"], data={"n": 1}
    )
    one, error, three, four = result["responses"]
    assert (one["result"]["offset"], four["result"]["offset"]) == (1, 1)
    assert (error["error"]["code"], three) == (107, {"result": {}})
    assert len(reader.publications()) == 3
    assert fail(kit, "broadcast", channels=[], data=1)[0] == 107
    assert fail(kit, "broadcast", channels=["a"])[0] == 107


def test_broadcast_to_very_many_takes_several_turns(kit: TestServer) -> None:
    names = [f"room:{number}" for number in range(1050)]
    responses = call(kit, "broadcast", channels=names, data=1)["responses"]
    assert [each["result"]["offset"] for each in responses] == [1] * 1050


# Connections


def pushes(peer: LivePeer, kind: str) -> list[Any]:
    return [(each.get("channel"), each[kind]) for each in peer.pushes() if kind in each]


def test_subscribe_and_unsubscribe(kit: TestServer) -> None:
    one, two, other = joined(kit, "ann"), joined(kit, "ann"), joined(kit, "bob")
    place = call(kit, "publish", channel="room:1", data=1)
    call(kit, "publish", channel="room:1", data=2)
    call(
        kit,
        "subscribe",
        user="ann",
        channel="room:1",
        data={"hello": 1},
        recover_since={"offset": 1, "epoch": place["epoch"]},
    )
    for peer in one, two:
        subscribe, publication = (
            each for each in peer.pushes() if "subscribe" in each or "pub" in each
        )
        assert subscribe["channel"] == "room:1"
        assert subscribe["subscribe"]["data"] == {"hello": 1}
        assert publication["pub"] == {"data": 2, "offset": 2}
    assert other.pushes() == []
    call(kit, "unsubscribe", user="ann", channel="room:1")
    gone = {"code": 2000, "reason": "server unsubscribe"}
    assert pushes(one, "unsubscribe") == [("room:1", gone)]
    assert kit.server.count("room:1") == 0
    # Nobody is subscribed twice, or unsubscribed from what it has not.
    call(kit, "unsubscribe", user="ann", channel="room:1")
    assert one.pushes() == []


def test_subscription_has_info_and_an_end(kit: TestServer) -> None:
    peer = joined(kit, "ann")
    until = int(time.time()) + 4
    given = {"user": "ann", "channel": "room:1"}
    call(kit, "subscribe", **given, info={"role": "admin"}, expire_at=until)
    assert len(pushes(peer, "subscribe")) == 1
    peer.ask("publish", channel="room:1", data=1)
    (push,) = peer.pushes()
    assert push["pub"]["info"]["chan_info"] == {"role": "admin"}
    kit.advance(8)
    assert pushes(peer, "unsubscribe")[0][1]["code"] == 2501
    assert fail(kit, "subscribe", **given, info="x" * 5000)[0] == 107


def test_one_connection_of_a_user(kit: TestServer) -> None:
    one, two = LivePeer(kit), joined(kit, "ann")
    name = one.connect(data="ann")["client"]
    call(kit, "subscribe", user="ann", channel="hall", client=name)
    assert (len(one.pushes()), len(two.pushes())) == (1, 0)
    call(kit, "subscribe", user="bob", channel="yard", client=name)
    call(kit, "subscribe", user="ann", channel="yard", client=f"{name[:-1]}z")
    assert one.pushes() == []


def test_connection_of_a_session(kit: TestServer) -> None:
    one, two = StreamPeer(kit, "http_stream"), joined(kit, "ann")
    session = one.connect(data="ann")["session"]
    call(kit, "subscribe", user="ann", channel="hall", session=session)
    assert (len(one.pushes()), len(two.pushes())) == (1, 0)
    call(kit, "disconnect", user="ann", session=session)
    (push,) = one.pushes()
    assert push["disconnect"] == {"code": 3503, "reason": "force disconnect"}
    assert two.client.is_open()
    one.leave()


def test_unsubscribe_from_everything(kit: TestServer) -> None:
    one = joined(kit, "ann", "hall", "yard")
    call(kit, "unsubscribe", user="ann", channel="")
    assert [topic for topic, _ in pushes(one, "unsubscribe")] == ["hall", "yard"]


@pytest.mark.parametrize("user", ["7", NODE_ID])
def test_users_may_be_numbers_and_uuids(kit: TestServer, user: str) -> None:
    one = joined(kit, None)
    one.client.bind(int(user) if user == "7" else UUID(user))
    call(kit, "subscribe", user=user, channel="hall")
    assert len(one.pushes()) == 1
    call(kit, "subscribe", user=f"0{user}", channel="yard")
    assert one.pushes() == []


def test_connections_without_a_user(kit: TestServer) -> None:
    one, two = LivePeer(kit), joined(kit)
    name = one.connect()["client"]
    call(kit, "subscribe", user="", client=name, channel="hall")
    assert (len(one.pushes()), len(two.pushes())) == (1, 0)
    for method in "subscribe", "unsubscribe", "disconnect":
        assert fail(kit, method, user="", channel="hall")[0] == 107


def test_disconnect(kit: TestServer) -> None:
    one, two, other = LivePeer(kit), joined(kit, "ann"), joined(kit, "bob")
    name = one.connect(data="ann")["client"]
    raw = kit.connect("/raw")
    raw.client.bind("ann")
    call(kit, "disconnect", user="ann", whitelist=[name])
    assert (two.peer.close_code, two.peer.close_reason) == (3503, "force disconnect")
    assert raw.close_code == 3503
    call(kit, "disconnect", user="ann", disconnect={"code": 4001, "reason": "banned"})
    assert (one.peer.close_code, one.peer.close_reason) == (4001, "banned")
    assert other.client.is_open()


def test_refresh(kit: TestServer) -> None:
    peer, other = joined(kit, "ann"), joined(kit, "bob")
    call(kit, "refresh", user="ann", expire_at=int(time.time()) + 3600)
    (push,) = peer.pushes()
    assert push["refresh"]["expires"] is True
    assert 3590 < push["refresh"]["ttl"] <= 3600
    call(kit, "refresh", user="ann")
    assert peer.pushes() == [{"refresh": {}}]
    call(kit, "refresh", user="ann", expired=True)
    assert (peer.peer.close_code, other.client.is_open()) == (3005, True)
    call(kit, "refresh", user="bob", expire_at=5)
    assert other.peer.close_code == 3005


@pytest.mark.parametrize(
    "disconnect",
    [
        {},
        {"code": 0},
        {"code": 999},
        {"code": 5000},
        {"code": 3000, "reason": "x" * 124},
    ],
)
def test_close_code_must_be_one(kit: TestServer, disconnect: dict[str, Any]) -> None:
    peer = joined(kit, "ann")
    assert fail(kit, "disconnect", user="ann", disconnect=disconnect)[0] == 107
    assert peer.client.is_open()


# Looking


def test_presence(kit: TestServer) -> None:
    one = joined(kit, "ann", "room:1")
    one.client.present_as = {"name": "Ann"}
    kit.settle()
    joined(kit, "bob", "room:1")
    info = {"client": "ann", "user": "ann", "conn_info": {"name": "Ann"}}
    assert call(kit, "presence", channel="room:1")["presence"]["ann"] == info
    stats = call(kit, "presence_stats", channel="room:1")
    assert stats == {"num_clients": 2, "num_users": 2}
    for method in "presence", "presence_stats":
        assert fail(kit, method, channel="hall") == (108, "not available")
        assert fail(kit, method, channel="")[0] == 107


def test_history(kit: TestServer) -> None:
    for number in range(1, 8):
        place = call(kit, "publish", channel="room:1", data=number)

    def read(**params: Any) -> list[int]:
        page = call(kit, "history", channel="room:1", **params)
        assert (page["offset"], page["epoch"]) == (7, place["epoch"])
        assert all(each["data"] == each["offset"] for each in page["publications"])
        return [each["offset"] for each in page["publications"]]

    since = {"offset": 5, "epoch": place["epoch"]}
    assert read() == read(limit=0) == []
    assert read(limit=-1) == read(limit=9.0) == [3, 4, 5, 6, 7]
    assert read(limit=2) == [3, 4]
    assert read(limit=2, reverse=True) == [7, 6]
    assert read(limit=-1, since=since) == [6, 7]
    assert read(limit=-1, since=since, reverse=True) == [4, 3]
    unknown = {"offset": 5, "epoch": "abcd:5:0000"}
    assert fail(kit, "history", channel="room:1", since=unknown)[0] == 112
    assert fail(kit, "history", channel="hall") == (108, "not available")
    assert fail(kit, "history", channel="")[0] == 107


def test_history_is_removed(kit: TestServer) -> None:
    peer = joined(kit, "ann")
    given = {"channel": "room:1", "data": 1, "idempotency_key": "a"}
    first = call(kit, "publish", **given)
    call(kit, "publish", channel="room:1", data=2)
    assert call(kit, "history_remove", channel="room:1") == {}
    page = call(kit, "history", channel="room:1", limit=-1)
    assert (page["publications"], page["offset"]) == ([], 2)
    # Who has missed them is told; offsets go on.
    result = peer.ask("subscribe", channel="room:1", recover=True, **first)
    assert result["recovered"] is False
    assert call(kit, "publish", **given)["offset"] == 3
    assert peer.publications() == [(1, 3)]
    page = call(kit, "history", channel="room:1", limit=-1, since=first)
    assert [each["offset"] for each in page["publications"]] == [3]
    assert fail(kit, "history_remove", channel="hall") == (108, "not available")
    assert fail(kit, "history_remove", channel="")[0] == 107


def test_channels(kit: TestServer) -> None:
    joined(kit, "ann", "room:1", "room:2", "hall")
    joined(kit, "bob", "hall")
    raw = kit.connect("/raw")
    for topic in "room:2", "yard":
        kit.server.subscribe(topic, raw.client)

    def counts(**params: Any) -> dict[str, int]:
        found = call(kit, "channels", **params)["channels"]
        return {topic: each["num_clients"] for topic, each in found.items()}

    everything = {"room:1": 1, "room:2": 2, "hall": 2, "yard": 1}
    assert counts() == counts(pattern="") == counts(pattern="*") == everything
    assert counts(pattern="room:*") == {"room:1": 1, "room:2": 2}
    assert counts(pattern="{hall,ya?d}") == {"hall": 2, "yard": 1}
    assert counts(pattern="room:[!2]") == {"room:1": 1}
    assert counts(pattern="roo") == {}
    assert fail(kit, "channels", pattern="x" * 1001)[0] == 107
    assert fail(kit, "channels", pattern="{a,b}" * 200)[0] == 107


def test_very_many_channels_are_looked_through_in_a_thread(
    kit: TestServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_nodes, "_MANY", 1)
    monkeypatch.setattr(api_nodes, "MAX_BODY", 20)
    joined(kit, "ann", "room:1", "room:2", "hall")
    seen: list[int] = []

    def selected(*args: Any) -> dict[str, int]:
        seen.append(threading.get_ident())
        return select(*args)

    select = api_nodes._selected
    monkeypatch.setattr(api_nodes, "_selected", selected)
    body = b'{"pattern": "room:*"}'
    found = post(kit, "/channels", body).json()["result"]["channels"]
    assert set(found) == {"room:1", "room:2"}
    assert seen != [threading.get_ident()]
    # With an engine, the answer of a node has a limit.
    monkeypatch.setattr(kit.server.cluster, "_has_engine", True)
    code, why = fail(kit, "channels", pattern="room:*")
    assert (code, "too many topics: 2" in why) == (100, True)


def test_info(kit: TestServer) -> None:
    joined(kit, "ann", "room:1", "hall")
    joined(kit, "ann", "hall")
    kit.advance(5)
    (node,) = call(kit, "info")["nodes"]
    assert node.pop("uid") == kit.server.cluster.id
    assert node.pop("version").startswith("simple_ws ")
    assert node.pop("name")
    assert node == {
        "num_clients": 2,
        "num_users": 1,
        "num_channels": 2,
        "num_subs": 3,
        "uptime": 5,
    }


def test_node_that_does_not_answer_is_an_error(
    kit: TestServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    future: Future[Answers] = Future()
    answers = Answers([], {}, {"one": "it failed"}, ["two"])
    future.set_result(answers)
    monkeypatch.setattr(kit.server.cluster, "_ask", lambda *args: future)
    why = "internal server error: two has not answered, one: it failed"
    assert fail(kit, "disconnect", user="ann") == (100, why)
    assert fail(kit, "info") == (100, why)


# Several at once


@pytest.mark.parametrize("parallel", [False, True])
def test_batch(kit: TestServer, parallel: bool) -> None:
    commands: list[dict[str, Any]] = [
        {"publish": {"channel": "room:1", "data": 1}},
        {"publish": {"channel": "", "data": 1}},
        {"history": {"channel": "room:1", "limit": 1}},
        {},
        {"info": {}, "channels": {}},
        {"unknown": {}},
    ]
    body = json.dumps({"commands": commands, "parallel": parallel}).encode()
    answered = post(kit, "/batch", body)
    replies = answered.json()["replies"]
    assert replies[0]["publish"]["offset"] == 1
    assert replies[2]["history"]["publications"] == [{"data": 1, "offset": 1}]
    codes = [each.get("error", {}).get("code") for each in replies]
    assert codes == [None, 107, None, 104, 107, 104]
    assert kit.server.stats()["api"]["errors"] == {"107": 2, "104": 2}


def test_batch_of_very_many(kit: TestServer) -> None:
    commands = [{"publish": {"channel": "room:1", "data": n}} for n in range(1500)]
    body = json.dumps({"commands": commands}).encode()
    replies = post(kit, "/batch", body).json()["replies"]
    assert [each["publish"]["offset"] for each in replies] == list(range(1, 1501))
    assert post(kit, "/batch", b'{"commands": []}').json() == {"replies": []}


def test_older_form(kit: TestServer) -> None:
    commands = [
        '{"method": "publish", "params": {"channel": "room:1", "data": 1}, "id": 7}',
        '{"method": "HISTORY", "params": {"channel": "room:1", "limit": 1}}',
        '{"method": "nothing", "params": {}}\n{"method": "publish"}',
        '{"method": "presence_stats", "params": {"channel": "a"}}',
    ]
    answered = post(kit, "", " \n".join(commands).encode())
    replies = [json.loads(line) for line in answered.body.split(b"\n")]
    assert (replies[0]["id"], replies[0]["result"]["offset"]) == (7, 1)
    assert replies[1]["result"]["publications"] == [{"data": 1, "offset": 1}]
    codes = [each["error"]["code"] for each in replies[2:]]
    assert codes == [104, 107, 108]
    for body in b"", b" \n", b"{}", b'{"method": "info"} x', b'{"method": 5}':
        assert post(kit, "", body).status == 400


def test_function_of_the_user_that_fails_is_error_100(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def key(msg: Any) -> Any:
        raise LookupError("a mistake of the user's")

    server = Server("127.0.0.1", 0)
    server.topic("prices", latest=key)
    server.topic("kept", history=1, latest=key)
    server.live("/live", api_key=KEY)
    with TestServer(server, raise_server_exceptions=False) as kit:
        error = 100, "internal server error"
        assert fail(kit, "publish", channel="prices", data=1) == error
        given = {"channel": "kept", "data": 1, "skip_history": True}
        assert fail(kit, "publish", **given)[0] == 100  # it is sent by each node
        channels = ["a", "prices"]
        result = call(kit, "broadcast", channels=channels, data=1)["responses"]
        assert [each.get("error", {}).get("code") for each in result] == [None, 100]
    assert "a mistake of the user's" in caplog.text
