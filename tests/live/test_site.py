"""The server of a Centrifugo configuration as clients see it, frame by frame."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from live_peer import LivePeer

from simple_ws import HandshakeRefused
from simple_ws.cli.live.reader import read_settings
from simple_ws.cli.live.site import build
from simple_ws.cli.values import UsageError
from simple_ws.testing import TestServer
from simple_ws.tokens import Tokens

SECRET = "secret"
TOKENS = Tokens(SECRET, allow_short_secret=True)
USERS = {"client": {"token": {"hmac_secret_key": SECRET}}}
Start = Callable[[dict[str, Any]], "Site"]


class Site:
    """A server of a configuration, and its clients."""

    def __init__(self, tree: dict[str, Any]) -> None:
        self.server = build(read_settings(tree), ping=False)
        self.kit = TestServer(self.server)

    def peer(self) -> LivePeer:
        return LivePeer(self.kit, "/connection/websocket")

    def connected(self, user: str | None = None, **params: Any) -> LivePeer:
        peer = self.peer()
        if user is not None:
            params["token"] = TOKENS.connection(user)
        peer.connect(**params)
        return peer


@pytest.fixture
def start() -> Iterator[Start]:
    made: list[Site] = []

    def begin(tree: dict[str, Any]) -> Site:
        made.append(Site(tree))
        return made[-1]

    yield begin
    for site in made:
        site.kit.close()


def namespace(name: str = "room", **options: Any) -> dict[str, Any]:
    return {**USERS, "channel": {"namespaces": [{"name": name, **options}]}}


def test_tokens_are_needed(start: Start) -> None:
    site = start(USERS)
    peer = site.peer()
    peer.send({"id": 1, "connect": {}})
    peer.peer.assert_closed(3501)
    assert site.connected("ann").client.client_id == "ann"


@pytest.mark.parametrize("tree", [USERS, {}, {"client": {"insecure": True}}])
def test_wrong_token_is_an_end(start: Start, tree: dict[str, Any]) -> None:
    peer = start(tree).peer()
    peer.send({"id": 1, "connect": {"token": "x.y.z"}})
    peer.peer.assert_closed(3500)


@pytest.mark.parametrize("key", ["insecure", "allow_anonymous_connect_without_token"])
def test_clients_without_a_token(start: Start, key: str) -> None:
    site = start({"client": {**USERS["client"], key: True}})
    assert site.connected().client.client_id is None
    assert site.connected("ann").client.client_id == "ann"


def test_tokens_of_nobody(start: Start) -> None:
    assert start(USERS).connected("").client.client_id is None
    key = "disallow_anonymous_connection_tokens"
    peer = start({"client": {**USERS["client"], key: True}}).peer()
    peer.send({"id": 1, "connect": {"token": TOKENS.connection("")}})
    peer.peer.assert_closed(3507)


def test_personal_channel(start: Start) -> None:
    key = "subscribe_to_user_personal_channel"
    site = start({"client": {**USERS["client"], key: {"enabled": True}}})
    peer = site.peer()
    assert peer.connect(token=TOKENS.connection("ann"))["subs"] == {"#ann": {}}
    site.server.publish("#ann", "x")
    assert peer.publications() == [("x", 0)]


def test_private_channel_needs_a_token(start: Start) -> None:
    site = start(namespace(allow_subscribe_for_client=True))
    peer = site.connected("ann")
    assert peer.fail("subscribe", channel="$room:1") == 103
    token = TOKENS.subscription("ann", "$room:1")
    assert peer.ask("subscribe", channel="$room:1", token=token)["expires"]
    assert peer.fail("subscribe", channel="room:2", token="x") == 103
    peer.send({"id": 9, "subscribe": {"channel": "$room:3", "token": token}})
    peer.peer.assert_closed(3500)


def test_forced_recovery(start: Start) -> None:
    options = {"history_size": 2, "history_ttl": "60s", "force_recovery": True}
    tree = namespace(
        **options,
        allow_subscribe_for_client=True,
        allow_publish_for_subscriber=True,
        allow_history_for_subscriber=True,
    )
    site = start(tree)
    one, two = site.connected("ann"), site.connected("bob")
    begun = one.ask("subscribe", channel="room:1")
    assert (begun["recoverable"], begun["positioned"]) == (True, True)
    assert two.fail("publish", channel="room:1", data=1) == 103
    for number in (1, 2, 3):
        assert one.ask("publish", channel="room:1", data=number) == {}
    epoch = begun["epoch"]
    whole = two.ask("subscribe", channel="room:1", recover=True, epoch=epoch, offset=1)
    assert whole["recovered"]
    assert [each["data"] for each in whole["publications"]] == [2, 3]
    two.ask("unsubscribe", channel="room:1")
    gone = two.ask("subscribe", channel="room:1", recover=True, epoch=epoch, offset=0)
    assert (gone["was_recovering"], gone["recovered"]) == (True, False)
    history = two.ask("history", channel="room:1", limit=1, reverse=True)
    assert [each["data"] for each in history["publications"]] == [3]


def test_history_ends_with_its_time(start: Start) -> None:
    options = {"history_size": 5, "history_ttl": "60s"}
    site = start(namespace(**options, allow_history_for_client=True))
    site.server.publish("room:1", "x")
    peer = site.connected("ann")
    assert peer.ask("history", channel="room:1", limit=5)["publications"]
    site.kit.advance(61)
    peer = site.connected("ann")
    assert not peer.ask("history", channel="room:1", limit=5)["publications"]


def test_joins_for_all_without_presence(start: Start) -> None:
    site = start(
        namespace(
            join_leave=True,
            force_push_join_leave=True,
            allow_subscribe_for_client=True,
            allow_presence_for_client=True,
        )
    )
    peer = site.connected("ann")
    peer.ask("subscribe", channel="room:1")
    (joined,) = peer.pushes()
    assert joined["join"]["info"]["user"] == "ann"
    assert peer.fail("presence", channel="room:1") == 108


def test_no_more_channels_than_allowed(start: Start) -> None:
    site = start({"client": {"insecure": True, "channel_limit": 2}})
    peer = site.connected()
    for name in "ab":
        peer.ask("subscribe", channel=name)
    assert peer.fail("subscribe", channel="c") == 106


def test_pings(start: Start) -> None:
    times = {"ping_interval": "10s", "pong_timeout": "2s"}
    site = start({"client": {"insecure": True, **times}})
    peer = site.peer()
    assert peer.connect()["ping"] == 10
    site.kit.advance(13)
    peer.peer.assert_closed(3012)


@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [
        ([], None, True),
        ([], "https://evil.example", False),
        (["https://a.example"], "https://a.example", True),
        (["https://a.example"], None, True),
        (["https://a.example"], "https://b.example", False),
        (["https://*.example"], "https://a.example", True),
        (["https://*.example"], "https://a.example.evil", False),
        (["*"], "https://evil.example", True),
    ],
)
def test_origins(
    start: Start, origins: list[str], origin: str | None, allowed: bool
) -> None:
    site = start({"client": {"insecure": True, "allowed_origins": origins}})
    path = "/connection/websocket"
    if allowed:
        site.kit.connect(path, origin=origin)
    else:
        with pytest.raises(HandshakeRefused, match="403"):
            site.kit.connect(path, origin=origin)


@pytest.mark.parametrize(
    ("token", "text"),
    [
        ({"jwks_public_endpoint": "http://example.com"}, "must be an https address"),
        (
            {"hmac_secret_key": "x", "jwks_public_endpoint": "https://a/"},
            "without other",
        ),
    ],
)
def test_keys_that_are_wrong(token: dict[str, str], text: str) -> None:
    with pytest.raises(UsageError) as caught:
        build(read_settings({"client": {"token": token}}))
    assert text in str(caught.value)


def test_public_key_that_is_wrong() -> None:
    pytest.importorskip("cryptography", reason="cryptography has no wheel here")
    with pytest.raises(UsageError, match=r"client\.token\.rsa_public_key: "):
        build(read_settings({"client": {"token": {"rsa_public_key": "x"}}}))


def test_paths_are_those_of_centrifugo(start: Start) -> None:
    site = start({"client": {"insecure": True}, "health": {"enabled": True}})
    assert site.kit.request("GET", "/health").json() == {}
    for method, path in [
        ("GET", "/connection/sse"),
        ("POST", "/connection/http_stream"),
        ("POST", "/emulation"),
    ]:
        assert site.kit.request(method, path).status == 400, path
    assert site.kit.request("GET", "/metrics").status == 404
    script = site.kit.request("GET", "/connection/client.js")
    assert b"class Centrifuge" in script.body


def test_paths_may_be_others(start: Start) -> None:
    site = start(
        {
            "client": {"insecure": True},
            "websocket": {"handler_prefix": "/ws"},
            "sse": {"enabled": False},
            "http_stream": {"handler_prefix": "/stream"},
            "emulation": {"handler_prefix": "/more"},
            "prometheus": {"enabled": True, "handler_prefix": "/numbers"},
        }
    )
    LivePeer(site.kit, "/ws").connect()
    assert site.kit.request("GET", "/connection/sse").status == 404
    for path in ("/stream", "/more"):
        assert site.kit.request("POST", path).status == 400
    assert b"simple_ws_" in site.kit.request("GET", "/numbers").body


def test_pages_of_allowed_origins_may_use_http(start: Start) -> None:
    origins = ["https://a.example", "https://*.b.example"]
    site = start({"client": {"insecure": True, "allowed_origins": origins}})
    for origin, named in [
        ("https://a.example", "https://a.example"),
        ("https://x.b.example", "https://x.b.example"),
        ("https://c.example", None),
    ]:
        answer = site.kit.request(
            "POST", "/emulation", headers={"Origin": origin}, body=b"{}"
        )
        assert answer.headers.get("Access-Control-Allow-Origin") == named


@pytest.mark.parametrize("origin", ["example.com", "https://a.example/path"])
def test_origin_that_is_none(origin: str) -> None:
    tree = {"client": {"allowed_origins": [origin]}}
    with pytest.raises(UsageError, match=r"client\.allowed_origins: "):
        build(read_settings(tree))


def test_path_that_is_taken() -> None:
    tree = {"http_stream": {"handler_prefix": "/emulation"}}
    with pytest.raises(UsageError, match="/emulation"):
        build(read_settings(tree))


def call(site: Site, method: str, key: str = "", **params: Any) -> Any:
    headers = {"X-API-Key": key} if key else {}
    body = json.dumps(params).encode()
    return site.kit.request("POST", f"/api/{method}", headers=headers, body=body)


def test_server_api(start: Start) -> None:
    site = start({**namespace(), "http_api": {"key": "k"}})
    assert call(site, "publish", channel="room:1", data=1).status == 401
    assert call(site, "publish", "k", channel="room:1", data=1).json() == {"result": {}}
    for method in ("publish", "presence", "history", "subscribe"):
        answer = call(site, method, "k", channel="other:1", data=1, user="ann")
        assert answer.json()["error"]["code"] == 102, method
    answer = call(site, "broadcast", "k", channels=["room:1", "other:1"], data=1)
    assert [next(iter(each)) for each in answer.json()["result"]["responses"]] == [
        "result",
        "error",
    ]


def test_server_api_without_a_key(start: Start) -> None:
    assert call(start({}), "info").status == 404
    site = start({"http_api": {"insecure": True, "key": "k"}})
    assert "nodes" in call(site, "info").json()["result"]


def test_client_may_ask_for_subscriptions_by_the_server(start: Start) -> None:
    options = {"history_size": 5, "history_ttl": "60s", "force_recovery": True}
    site = start(namespace(**options, allow_subscribe_for_client=True))
    asked = {"room:1": {}, "$room:2": {}, "other": {}}
    peer = site.peer()
    subs = peer.connect(token=TOKENS.connection("ann"), subs=asked)["subs"]
    assert list(subs) == ["room:1"]
    epoch = subs["room:1"]["epoch"]
    site.server.publish("room:1", "missed")
    back = {"recover": True, "epoch": epoch, "offset": 0}
    token = TOKENS.connection("ann")
    subs = site.peer().connect(token=token, subs={"room:1": back})["subs"]
    assert subs["room:1"]["recovered"]
    assert [each["data"] for each in subs["room:1"]["publications"]] == ["missed"]
    peer = site.peer()
    peer.send({"id": 1, "connect": {"token": token, "subs": {"unknown:1": {}}}})
    peer.peer.assert_closed(3501)


def test_members_are_shown_with_all_that_tokens_say(start: Start) -> None:
    options = {"presence": True, "join_leave": True, "force_push_join_leave": True}
    site = start(namespace(**options, allow_presence_for_subscriber=True))
    peer = site.peer()
    name = peer.connect(token=TOKENS.connection("ann", info={"name": "Ann"}))["client"]
    token = TOKENS.subscription("ann", "room:1", info=["any", "JSON"])
    peer.ask("subscribe", channel="room:1", token=token)
    ann = {
        "client": name,
        "user": "ann",
        "conn_info": {"name": "Ann"},
        "chan_info": ["any", "JSON"],
    }
    assert [each["join"]["info"] for each in peer.pushes()] == [ann]
    assert peer.ask("presence", channel="room:1")["presence"] == {name: ann}
    other = site.peer()
    name = other.connect(token=TOKENS.connection(""))["client"]
    token = TOKENS.subscription("", "room:1")
    other.ask("subscribe", channel="room:1", token=token)
    nobody = {"client": name, "user": ""}
    assert [each["join"]["info"] for each in other.pushes()] == [nobody]
    stats = peer.ask("presence_stats", channel="room:1")
    assert stats == {"num_clients": 2, "num_users": 2}
    peer.ask("unsubscribe", channel="room:1")
    assert [each["leave"]["info"] for each in other.pushes()] == [ann]


def test_recovery_without_a_history_while_one_tries_things_out(start: Start) -> None:
    site = start({"client": {"insecure": True}})
    peer = site.connected()
    begun = peer.ask("subscribe", channel="x", recoverable=True)
    assert (begun["recoverable"], begun["offset"]) == (True, 0)
    other = site.connected()
    assert other.ask("publish", channel="x", data="missed") == {}
    back = site.connected().ask("subscribe", channel="x", recover=True, **begun)
    assert [each["data"] for each in back["publications"]] == ["missed"]
    assert other.ask("subscribe", channel="x") == {}
    assert other.fail("history", channel="x") == 108


def test_user_of_a_header_that_a_proxy_sets(start: Start) -> None:
    name = "X-User-Id"
    site = start({"client": {**USERS["client"], "user_id_http_header": name}})

    def connect(headers: dict[str, str], **params: Any) -> LivePeer:
        path = "/connection/websocket"
        peer = LivePeer(site.kit, path, headers=headers)
        peer.send({"id": 1, "connect": params})
        return peer

    assert connect({name: "ann"}).client.client_id == "ann"
    token = TOKENS.connection("bob")
    assert connect({name: "ann"}, token=token).client.client_id == "bob"
    connect({}).peer.assert_closed(3501)
