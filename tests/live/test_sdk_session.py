"""The state machine of the Python client, against a server that the test plays."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simple_ws.client.backoff import Backoff
from simple_ws.constants import CloseCause
from simple_ws.errors import (
    AuthenticationError,
    ConnectError,
    ConnectionClosed,
    HandshakeRefused,
)
from simple_ws.live import ClientInfo, LiveError, Message, Position, Publication
from simple_ws.live.sdk.interfaces import Ask, Drop, Open, SessionOptions, State
from simple_ws.live.sdk.rooms import Room, RoomState
from simple_ws.live.sdk.session import Session

pytestmark = pytest.mark.one_backend


class Told:
    """What a session and its subscriptions have told."""

    def __init__(self) -> None:
        self.states: list[str] = []
        self.events: list[Any] = []
        self.pubs: list[Publication] = []
        self.gaps = 0
        self.presence: list[Any] = []
        self.data: list[Any] = []
        self.ended: list[Exception | None] = []

    def on_state(self, state: State, error: Exception | None) -> None:
        self.states.append(state.value)

    def on_event(self, event: Any) -> None:
        self.events.append(event)

    def on_server_gap(self, topic: str) -> None:
        self.events.append(topic)

    def on_publication(self, publication: Publication) -> None:
        self.pubs.append(publication)

    def on_gap(self) -> None:
        self.gaps += 1

    def on_presence(self, joined: bool, info: ClientInfo) -> None:
        self.presence.append((joined, info.client))

    def on_subscribed(self, data: Any) -> None:
        self.data.append(data)

    def on_ended(self, error: Exception | None) -> None:
        self.ended.append(error)

    @property
    def got(self) -> list[Any]:
        return [each.data for each in self.pubs]


class Play:
    """A session, its clock, and the server that the test plays."""

    def __init__(self, **options: Any) -> None:
        self.now = 100.0
        self.told = Told()
        options.setdefault("backoff", Backoff(first=1, longest=8, random=lambda: 1.0))
        self.session = Session(SessionOptions(**options), self.told, lambda: self.now)
        self.session.begin()

    def actions(self) -> list[Any]:
        taken = list(self.session.actions)
        self.session.actions.clear()
        return taken

    def sent(self) -> list[dict[str, Any]]:
        """The commands it sends now."""
        return [
            json.loads(line)
            for frame in self.session.output()
            for line in frame.split("\n")
        ]

    def say(self, *replies: dict[str, Any]) -> None:
        self.session.on_frame("\n".join(json.dumps(each) for each in replies))

    def push(self, channel: str, **value: Any) -> None:
        self.say({"push": {"channel": channel, **value}})

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while (due := self.session.next_deadline) is not None and due <= end:
            self.now = max(due, self.now)
            self.session.on_time()
        self.now = end

    def open(self) -> dict[str, Any]:
        """The connection opens; return the command `connect`."""
        assert self.actions() == [Open()]
        self.session.on_open()
        (command,) = self.sent()
        return command

    def connect(self, **result: Any) -> list[dict[str, Any]]:
        """Open and connect; return the commands that follow."""
        number = self.open()["id"]
        self.say({"id": number, "connect": {"client": "c", **result}})
        return self.sent()

    def lose(self, code: int = 1006) -> None:
        self.session.on_lost(ConnectionClosed(code, "", CloseCause.PEER))

    def room(self, **options: Any) -> Room:
        room = Room("room:1", self.told, **options)
        self.session.subscribe(room)
        return room

    def subscribed(self, **result: Any) -> Room:
        """A client that is subscribed with recovery, at ("e", 5)."""
        room = self.room(recover=True)
        (command,) = self.connect()
        result = {"epoch": "e", "offset": 5, "positioned": True} | result
        self.say({"id": command["id"], "subscribe": result})
        return room

    def call(self, method: str = "publish", again: bool = True) -> list[Any]:
        outcome: list[Any] = []
        call = self.session.make_call(method, {"data": 1}, outcome.append, again)
        self.session.add(call)
        return outcome


class TestConnecting:
    def test_what_it_says(self) -> None:
        play = Play(token="t", data={"x": 1}, name="n", version="1")
        assert play.open() == {
            "id": 1,
            "connect": {"token": "t", "data": {"x": 1}, "name": "n", "version": "1"},
        }
        assert play.session.state is State.CONNECTING
        play.say({"id": 1, "connect": {"client": "c", "data": [1], "ping": 25}})
        assert play.session.client == "c"
        assert play.session.data == [1]
        assert play.told.states == ["connected"]

    @pytest.mark.parametrize("code", [1000, 1001, 1006, 1012, 3000, 3001, 3499, 4000])
    def test_it_comes_back_later_each_time(self, code: int) -> None:
        play = Play()
        for wait in 1, 2, 4, 8, 8:
            play.open()
            play.lose(code)
            play.pass_time(wait - 0.01)
            assert play.actions() == []
            play.pass_time(0.01)
        assert play.actions() == [Open()]

    @pytest.mark.parametrize("code", [3500, 3501, 3999, 4500, 4999, 1009])
    def test_it_does_not_come_back(self, code: int) -> None:
        play = Play()
        room, outcome = play.room(), play.call()
        play.connect()
        play.lose(code)
        assert play.session.state is State.CLOSED
        assert isinstance(play.session.error, ConnectionClosed)
        (error,) = outcome
        assert error.code == code
        assert room.state is RoomState.ENDED
        play.pass_time(1000)
        assert play.actions() == []
        with_error = play.call()
        assert with_error[0].code == code

    def test_wait_begins_anew_after_a_while(self) -> None:
        play = Play()
        for _ in range(3):
            play.open()
            play.lose()
            play.pass_time(8)
        play.connect()
        play.pass_time(10)
        play.lose()
        play.pass_time(1)
        assert play.actions() == [Open()]

    def test_connection_that_does_not_hold_is_no_success(self) -> None:
        play = Play()
        for wait in 1, 2, 4:
            play.connect()
            play.lose()
            play.pass_time(wait - 0.01)
            assert play.actions() == []
            play.pass_time(0.01)

    def test_server_that_is_full_says_when(self) -> None:
        play = Play()
        play.actions()
        refused = HandshakeRefused("ws://x", "", 503, {"Retry-After": "30"}, b"")
        play.session.on_lost(refused)
        play.pass_time(29)
        assert play.actions() == []
        play.pass_time(1)
        assert play.actions() == [Open()]

    def test_refusal_for_good(self) -> None:
        play = Play()
        play.actions()
        refused = HandshakeRefused("ws://x", "", 404, {}, b"")
        play.session.on_lost(refused)
        assert play.session.error is refused

    def test_no_reply(self) -> None:
        play = Play(timeout=5)
        play.open()
        play.pass_time(5)
        assert play.actions() == [Drop(1000)]
        play.pass_time(1)
        assert play.actions() == [Open()]

    @pytest.mark.parametrize(
        ("error", "comes_back"),
        [
            ({"code": 100, "message": "x"}, True),
            ({"code": 111, "message": "x", "temporary": True}, True),
            ({"code": 101, "message": "x"}, False),
            ({"code": 500, "message": "x"}, False),
            ({"code": 109, "message": "expired"}, False),  # nobody gives another
        ],
    )
    def test_error(self, error: dict[str, Any], comes_back: bool) -> None:
        play = Play(token="t")
        number = play.open()["id"]
        play.say({"id": number, "error": error})
        assert play.actions() == [Drop(1000)]
        assert (play.session.state is State.CONNECTING) == comes_back
        if not comes_back:
            assert isinstance(play.session.error, LiveError)
            assert play.session.error.code == error["code"]

    def test_pushed_disconnect(self) -> None:
        play = Play()
        play.connect()
        play.say({"push": {"disconnect": {"code": 3001, "reason": "shutdown"}}})
        assert play.actions() == [Drop(1000)]
        play.pass_time(1)
        play.connect()
        play.say({"push": {"disconnect": {"code": 3500, "reason": "no"}}})
        assert play.session.state is State.CLOSED

    def test_close(self) -> None:
        play = Play()
        outcome = play.call()
        play.connect()
        play.session.close()
        assert play.actions() == [Drop(1000)]
        assert outcome[0].cause is CloseCause.LOCAL
        play.session.close()
        play.lose()
        assert play.actions() == []


class TestSilence:
    def test_pings_are_answered(self) -> None:
        play = Play(ping_delay=10)
        play.connect(ping=25, pong=True)
        for _ in range(3):
            play.pass_time(34)
            play.session.on_frame("{}")
            assert list(play.session.output()) == ["{}"]
        assert play.session.is_connected

    def test_not_where_the_server_does_not_want_it(self) -> None:
        play = Play()
        play.connect(ping=25)
        play.session.on_frame("{}")
        assert list(play.session.output()) == []

    def test_silence_ends_the_connection(self) -> None:
        play = Play(ping_delay=10)
        play.connect(ping=25, pong=True)
        play.pass_time(35)
        assert play.actions() == [Drop(1000)]
        assert play.told.states == ["connected", "connecting"]

    def test_server_without_pings_may_be_silent(self) -> None:
        play = Play()
        play.connect()
        play.pass_time(10_000)
        assert play.session.is_connected


class TestTokens:
    def test_asked_for_before_it_connects(self) -> None:
        play = Play(asks=True)
        assert play.actions() == [Ask(None)]
        play.session.on_token(None, "one")
        assert play.open()["connect"]["token"] == "one"

    def test_renewed_before_it_expires(self) -> None:
        play = Play(asks=True, token="old")
        play.connect(expires=True, ttl=100)
        play.pass_time(89)
        assert play.actions() == []
        play.pass_time(1)
        assert play.actions() == [Ask(None)]
        play.session.on_token(None, "new")
        (command,) = play.sent()
        assert command["refresh"] == {"token": "new"}
        play.say({"id": command["id"], "refresh": {"expires": True, "ttl": 10}})
        play.pass_time(9)
        assert play.actions() == [Ask(None)]
        play.lose()
        play.pass_time(1)
        assert play.open()["connect"]["token"] == "new"

    def test_expired_when_it_connects(self) -> None:
        play = Play(asks=True, token="old")
        number = play.open()["id"]
        play.say({"id": number, "error": {"code": 109, "message": "expired"}})
        play.actions()
        play.pass_time(1)
        assert play.actions() == [Ask(None)]

    def test_expired_in_the_middle(self) -> None:
        play = Play(asks=True, token="old")
        play.connect()
        play.lose(3005)
        play.pass_time(1)
        assert play.actions() == [Ask(None)]

    def test_function_that_fails_is_called_again(self) -> None:
        play = Play(asks=True)
        for wait in 1, 2:
            assert play.actions() == [Ask(None)]
            play.session.on_token(None, OSError("no network"))
            play.pass_time(wait)
        play.actions()
        play.session.on_token(None, "one")
        play.connect(expires=True, ttl=10)
        play.pass_time(9)
        assert play.actions() == [Ask(None)]
        play.session.on_token(None, OSError("no network"))
        play.pass_time(8)
        assert play.actions() == [Ask(None)]
        assert play.session.is_connected

    @pytest.mark.parametrize("token", ["", AuthenticationError("no")])
    def test_there_is_none(self, token: Any) -> None:
        play = Play(asks=True)
        play.session.on_token(None, token)
        assert play.session.state is State.CLOSED
        assert play.actions() == [Drop(1000)]

    def test_token_that_comes_late_opens_nothing(self) -> None:
        play = Play(asks=True, token="old")
        play.connect(expires=True, ttl=10)
        play.pass_time(9)
        assert play.actions() == [Ask(None)]
        play.lose()
        play.session.on_token(None, "new")
        assert play.actions() == []
        play.pass_time(1)
        assert play.open()["connect"]["token"] == "new"

    def test_of_a_subscription(self) -> None:
        play = Play()
        room = play.room(asks=True)
        assert play.connect() == []
        assert play.actions() == [Ask("room:1")]
        play.session.on_token("room:1", "one")
        (command,) = play.sent()
        assert command["subscribe"]["token"] == "one"
        error = {"code": 109, "message": "expired"}
        play.say({"id": command["id"], "error": error})
        assert play.actions() == [Ask("room:1")]
        play.session.on_token("room:1", "expired, too")
        (command,) = play.sent()
        play.say({"id": command["id"], "error": error})
        play.pass_time(1.9)
        assert play.actions() == []
        play.pass_time(0.1)
        assert play.actions() == [Ask("room:1")]
        play.session.on_token("room:1", "two")
        (command,) = play.sent()
        result = {"expires": True, "ttl": 10}
        play.say({"id": command["id"], "subscribe": result})
        play.pass_time(9)
        assert play.actions() == [Ask("room:1")]
        play.session.on_token("room:1", "three")
        (command,) = play.sent()
        assert command["sub_refresh"] == {"channel": "room:1", "token": "three"}
        play.say({"id": command["id"], "sub_refresh": result})
        play.pass_time(9)
        play.actions()
        play.session.on_token("room:1", "")
        assert room.state is RoomState.ENDED
        assert isinstance(play.told.ended[0], LiveError)


class TestSubscribing:
    def test_recovery(self) -> None:
        play = Play()
        room = play.subscribed(data={"hello": 1})
        assert play.told.data == [{"hello": 1}]
        play.push("room:1", pub={"data": "a", "offset": 6})
        play.lose()
        play.pass_time(1)
        (command,) = play.connect()
        assert command["subscribe"] == {
            "channel": "room:1",
            "recoverable": True,
            "positioned": True,
            "recover": True,
            "epoch": "e",
            "offset": 6,
        }
        missed = [{"data": "b", "offset": 7}, {"data": "c", "offset": 8}]
        result = {"epoch": "e", "offset": 8, "positioned": True, "recovered": True}
        play.say(
            {"id": command["id"], "subscribe": result | {"publications": missed}},
            {"push": {"channel": "room:1", "pub": {"data": "d", "offset": 9}}},
        )
        assert play.told.got == ["a", "b", "c", "d"]
        assert play.told.gaps == 0
        assert room.position == Position("e", 9)

    def test_nothing_is_shown_twice(self) -> None:
        play = Play()
        play.subscribed()
        for offset in 6, 6, 4, 7, 7:
            play.push("room:1", pub={"data": offset, "offset": offset})
        assert play.told.got == [6, 7]

    def test_what_is_not_recovered_is_told(self) -> None:
        play = Play()
        room = play.subscribed()
        play.lose()
        play.pass_time(1)
        (command,) = play.connect()
        result = {"epoch": "f", "offset": 2, "positioned": True, "recovered": False}
        play.say({"id": command["id"], "subscribe": result})
        assert play.told.gaps == 1
        play.push("room:1", pub={"data": "x", "offset": 3})
        assert play.told.pubs == [Publication("room:1", "x", Position("f", 3))]
        assert room.position == Position("f", 3)

    def test_without_recovery_each_loss_is_a_gap(self) -> None:
        play = Play()
        play.room()
        for count in 0, 1, 2:
            (command,) = play.connect()
            assert command["subscribe"] == {"channel": "room:1"}
            play.say({"id": command["id"], "subscribe": {}})
            assert play.told.gaps == count
            play.push("room:1", pub={"data": count, "offset": 3 - count})
            play.lose()
            play.pass_time(8)
        assert play.told.got == [0, 1, 2]

    def test_since_the_last_run_of_the_program(self) -> None:
        play = Play()
        play.room(since=Position("e", 5))
        (command,) = play.connect()
        assert command["subscribe"]["recover"] is True
        assert command["subscribe"]["offset"] == 5
        result = {"epoch": "f", "offset": 2, "positioned": True}
        play.say({"id": command["id"], "subscribe": result})
        assert play.told.gaps == 1

    @pytest.mark.parametrize("code", [100, 111])
    def test_temporary_error(self, code: int) -> None:
        play = Play()
        room = play.room()
        (command,) = play.connect()
        for wait in 1, 2, 4:
            error = {"code": code, "message": "", "temporary": True}
            play.say({"id": command["id"], "error": error})
            play.pass_time(wait - 0.01)
            assert play.sent() == []
            play.pass_time(0.01)
            (command,) = play.sent()
        play.say({"id": command["id"], "subscribe": {}})
        assert room.state is RoomState.SUBSCRIBED

    def test_refusal(self) -> None:
        play = Play()
        room = play.room()
        (command,) = play.connect()
        play.say({"id": command["id"], "error": {"code": 103, "message": "no"}})
        assert room.state is RoomState.ENDED
        (error,) = play.told.ended
        assert isinstance(error, LiveError)
        assert error.code == 103
        play.lose()
        play.pass_time(1)
        assert play.connect() == []

    def test_ended_by_the_server(self) -> None:
        play = Play()
        play.subscribed()
        play.push("room:1", unsubscribe={"code": 2000, "reason": "server"})
        (error,) = play.told.ended
        assert isinstance(error, LiveError)
        assert (error.code, str(error)) == (2000, "server")

    def test_insufficient_state(self) -> None:
        play = Play()
        play.subscribed()
        play.push("room:1", unsubscribe={"code": 2500, "reason": ""})
        play.push("room:1", pub={"data": "late", "offset": 9})
        assert play.told.got == []
        play.pass_time(1)
        (command,) = play.sent()
        assert command["subscribe"]["offset"] == 5

    def test_pause_keeps_the_place(self) -> None:
        play = Play()
        room = play.subscribed()
        play.session.rooms.pause(room)
        (command,) = play.sent()
        assert command["unsubscribe"] == {"channel": "room:1"}
        play.push("room:1", pub={"data": "on its way", "offset": 6})
        play.lose()
        play.pass_time(1)
        assert play.connect() == []
        play.session.rooms.resume(room)
        (command,) = play.sent()
        assert command["subscribe"]["offset"] == 5

    def test_unsubscribe(self) -> None:
        play = Play()
        room = play.subscribed()
        play.session.rooms.end(room)
        assert [list(each)[1] for each in play.sent()] == ["unsubscribe"]
        assert play.told.ended == [None]
        play.push("room:1", pub={"data": "x", "offset": 6})
        assert play.told.got == []
        again = play.room()
        (command,) = play.sent()
        play.say({"id": command["id"], "subscribe": {}})
        assert again.state is RoomState.SUBSCRIBED

    def test_unsubscribe_on_the_way(self) -> None:
        play = Play()
        room = play.room()
        (command,) = play.connect()
        play.session.rooms.end(room)
        other = play.room()
        unsubscribe, second = play.sent()
        assert "unsubscribe" in unsubscribe
        play.say({"id": command["id"], "subscribe": {}})
        assert other.state is RoomState.SUBSCRIBING
        play.say({"id": second["id"], "subscribe": {}})
        assert other.state is RoomState.SUBSCRIBED

    def test_presence(self) -> None:
        play = Play()
        play.subscribed()
        play.push("room:1", join={"info": {"client": "a", "user": "u"}})
        play.push("room:1", leave={"info": {"client": "a", "user": "u"}})
        play.push("room:2", join={"info": {"client": "b"}})
        assert play.told.presence == [(True, "a"), (False, "a")]


class TestByServer:
    def test_in_connect_and_recovered(self) -> None:
        play = Play()
        sub = {"recoverable": True, "epoch": "e", "offset": 3}
        play.connect(subs={"news": sub, "hall": {}})
        play.push("news", pub={"data": "a", "offset": 4})
        play.push("hall", pub={"data": "b"})
        play.push("other", pub={"data": "c"})
        assert [each.data for each in play.told.events] == ["a", "b"]
        play.lose()
        play.pass_time(1)
        command = play.open()
        claim = {"recover": True, "epoch": "e", "offset": 4}
        assert command["connect"]["subs"] == {"news": claim}
        missed = [{"data": "d", "offset": 5}]
        sub |= {"offset": 5, "was_recovering": True, "recovered": True}
        subs = {"news": sub | {"publications": missed}}
        play.say({"id": command["id"], "connect": {"client": "c", "subs": subs}})
        play.push("news", pub={"data": "d", "offset": 5})
        play.push("hall", pub={"data": "not any more"})
        assert [each.data for each in play.told.events] == ["a", "b", "d"]

    def test_not_recovered(self) -> None:
        play = Play()
        sub = {"recoverable": True, "epoch": "e", "offset": 3}
        play.connect(subs={"news": sub})
        play.lose()
        play.pass_time(1)
        sub = {"recoverable": True, "epoch": "f", "offset": 1, "was_recovering": True}
        play.connect(subs={"news": sub})
        play.push("news", pub={"data": "x", "offset": 2})
        assert play.told.events == ["news", Publication("news", "x", Position("f", 2))]

    def test_begun_and_ended_in_the_middle(self) -> None:
        play = Play()
        play.connect()
        play.push("news", subscribe={"recoverable": True, "epoch": "e", "offset": 1})
        play.push("news", pub={"data": "x", "offset": 2})
        play.push("news", unsubscribe={"code": 2000, "reason": ""})
        play.push("news", pub={"data": "y", "offset": 3})
        play.say({"push": {"message": {"data": {"to": "you"}}}})
        assert [each.data for each in play.told.events] == ["x", {"to": "you"}]
        assert play.told.events[1] == Message({"to": "you"})

    def test_server_that_begins_ever_more(self) -> None:
        play = Play()
        play.connect(subs={str(number): {} for number in range(10_000)})
        assert play.session.is_connected
        play.push("0", subscribe={})
        assert play.session.is_connected
        play.push("one more", subscribe={})
        assert play.session.state is State.CLOSED


class TestCalls:
    def test_they_wait_for_the_connection_in_order(self) -> None:
        play = Play()
        outcomes = [play.call() for _ in range(3)]
        play.call("send")
        assert play.sent() == []
        commands = play.connect()
        assert [list(each)[-1] for each in commands] == [*["publish"] * 3, "send"]
        assert "id" not in commands[3]
        for command in commands[:2]:
            play.say({"id": command["id"], "publish": {}})
        play.say({"id": commands[2]["id"], "error": {"code": 103, "message": "no"}})
        assert outcomes[:2] == [[{}], [{}]]
        assert outcomes[2][0].code == 103

    def test_what_may_be_sent_again_is_and_before_what_came_later(self) -> None:
        play = Play()
        play.connect()
        first, rpc = play.call(), play.call("rpc", again=False)
        sent = play.sent()
        second = play.call()
        play.lose()
        later = play.call()
        assert isinstance(rpc[0], ConnectionClosed)
        play.pass_time(1)
        again = play.connect()
        assert again[0] == sent[0]
        assert [each["id"] for each in again] == sorted(each["id"] for each in again)
        for command in again:
            play.say({"id": command["id"], "publish": {}})
        assert [first, second, later] == [[{}]] * 3

    def test_too_many_wait(self) -> None:
        play = Play(max_outbox=2)
        outcomes = [play.call() for _ in range(3)]
        assert outcomes[:2] == [[], []]
        assert "max_outbox" in str(outcomes[2][0])

    def test_one_that_is_given_up_is_not_sent(self) -> None:
        play = Play(max_outbox=1)
        call = play.session.make_call("publish", {}, lambda outcome: None, True)
        play.session.add(call)
        play.session.calls.drop(call)
        assert play.call() == []  # there is room again
        assert len(play.connect()) == 1

    def test_not_too_many_at_once(self) -> None:
        play = Play()
        for _ in range(100):
            play.call()
        commands = play.connect()
        assert len(commands) == 64
        play.say({"id": commands[0]["id"], "publish": {}})
        assert len(play.sent()) == 1

    def test_what_is_refused_as_too_many_is_sent_again_in_order(self) -> None:
        play = Play()
        outcomes = [play.call() for _ in range(10)]
        commands = play.connect()
        error = {"code": 111, "message": "too many requests", "temporary": True}
        play.say(*({"id": each["id"], "publish": {}} for each in commands[:2]))
        play.say(*({"id": each["id"], "error": error} for each in commands[2:5]))
        play.say(*({"id": each["id"], "error": error} for each in commands[5:]))
        assert play.sent() == []
        order = []
        for _ in range(20):
            play.pass_time(0.5)
            for command in play.sent():
                order.append(command)
                play.say({"id": command["id"], "publish": {}})
        assert order == commands[2:]
        assert outcomes == [[{}]] * 10

    def test_frames_are_bounded(self) -> None:
        play = Play()
        for _ in range(4):
            text = {"data": 40_000 * "x"}
            call = play.session.make_call("publish", text, lambda outcome: None)
            play.session.add(call)
        play.open()
        play.say({"id": 5, "connect": {}})
        assert len(list(play.session.output())) == 4


class TestMalformed:
    @pytest.mark.parametrize(
        "frame",
        [
            "nonsense",
            "[]",
            "5",
            '{"id":"x"}',
            '{"push":5}',
            '{"push":{"channel":5,"pub":{}}}',
            '{"push":{"channel":"room:1","pub":{"offset":"x"}}}',
            '{"push":{"channel":"room:1","pub":{"info":5}}}',
            '{"id":1,"error":5}',
            '{"id":2,"subscribe":{"publications":[5]}}',
            10_000 * "[",
            b"\xff",
        ],
    )
    def test_it_ends_for_good(self, frame: str | bytes) -> None:
        play = Play()
        room = play.room()
        play.connect()
        room.state = RoomState.SUBSCRIBED
        play.session.on_frame(frame)
        assert play.session.state is State.CLOSED
        assert isinstance(play.session.error, ConnectionClosed)
        assert play.session.error.code == 1002
        assert play.actions() == [Drop(1002)]

    @given(st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
            st.sampled_from([
                "id", "push", "channel", "pub", "data", "offset", "error", "code",
                "subscribe", "connect", "subs", "unsubscribe", "disconnect", "epoch",
                "publications", "info", "join", "message", "ttl", "expires",
            ]),
            inner,
            max_size=4,
        ),
        max_leaves=12,
    ))  # fmt: skip
    @settings(max_examples=300, deadline=None)
    def test_nothing_a_server_says_raises(self, said: Any) -> None:
        play = Play()
        play.room(recover=True)
        play.open()
        for _ in range(2):
            play.session.on_frame(json.dumps(said))
            play.session.on_time()
            list(play.session.output())


class Model:
    """A server with one topic, and a network that fails."""

    def __init__(self, history: int) -> None:
        self.play = Play()
        self.history = history
        self.log: list[int] = []
        self.subscribed = False
        self.up = False
        self.room = self.play.room(recover=True)

    def publish(self) -> None:
        self.log.append(len(self.log) + 1)
        if self.subscribed:
            top = len(self.log)
            self.play.push("room:1", pub={"data": top, "offset": top})

    def cut(self) -> None:
        if self.up:
            self.up = self.subscribed = False
            self.play.lose()

    def go_on(self) -> None:
        play = self.play
        play.pass_time(8)
        if Open() in play.actions():
            play.session.on_open()
            self.up = True
        while self.up and (commands := play.sent()):
            for command in commands:
                self.answer(command)

    def answer(self, command: dict[str, Any]) -> None:
        number = command["id"]
        if "connect" in command:
            self.play.say({"id": number, "connect": {"client": "c"}})
        elif "subscribe" in command:
            self.play.say({"id": number, "subscribe": self.begin(command["subscribe"])})
            self.subscribed = True
        else:
            self.subscribed = False

    def begin(self, claim: dict[str, Any]) -> dict[str, Any]:
        top = len(self.log)
        result = {"epoch": "e", "offset": top, "positioned": True}
        if claim.get("recover"):
            missed = self.log[claim["offset"] :]
            if len(missed) <= self.history:
                pubs = [{"data": each, "offset": each} for each in missed]
                result |= {"recovered": True, "publications": pubs}
        return result


@given(
    st.lists(st.sampled_from(["publish", "cut", "go_on", "pause", "resume"])),
    st.integers(0, 5),
)
@settings(max_examples=300, deadline=None)
def test_shown_once_in_order_or_told(steps: list[str], history: int) -> None:
    model = Model(history)
    model.go_on()
    start = len(model.log)
    for step in steps:
        if step == "pause":
            model.play.session.rooms.pause(model.room)
        elif step == "resume":
            model.play.session.rooms.resume(model.room)
        else:
            getattr(model, step)()
    model.play.session.rooms.resume(model.room)
    model.go_on()
    model.go_on()
    got = model.play.told.got
    assert got == sorted(set(got))
    if not model.play.told.gaps:
        assert got == model.log[start:]


def test_refused_connection_of_another_kind_is_tried_again() -> None:
    play = Play()
    play.actions()
    play.session.on_lost(ConnectError("ws://x", "connection refused"))
    play.pass_time(1)
    assert play.actions() == [Open()]
