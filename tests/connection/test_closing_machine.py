"""The closing handshake (RFC 6455 §5.5.1, §7), in any order of events.

Two state machines, each with a model that implements the rules independently:
`Handshake` connects a server's protocol to a client's by two pipes and splits the bytes
anywhere; `Connection` is a client of a server on a socket, with time.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from harness import (
    CLOSE,
    PING,
    PONG,
    TEXT,
    Driven,
    Peer,
    Recorder,
    Wrapped,
    close_frame,
    frame,
)
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from simple_ws import Client, WebSocket
from simple_ws.constants import CloseCause, State
from simple_ws.protocol.websocket import Protocol

codes = st.sampled_from([1000, 1001, 1002, 1003, 1007, 1011, 1013, 3000, 4999])
reasons = st.sampled_from(["", "bye", "\u00e9" * 20, "x" * 123])
ENDINGS = settings(
    max_examples=150,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


class End(NamedTuple):
    code: int
    reason: str
    cause: str


class Frame(NamedTuple):
    opcode: int
    payload: bytes


# --- Two protocols, and the bytes between them ---------------------------------------


def parse(data: bytes) -> list[Frame]:
    """Whole frames of short payloads, masked or not."""
    frames = []
    while data:
        size, start = data[1] & 0x7F, 2
        assert size < 126
        key = bytes(4)
        if data[1] & 0x80:
            key, start = data[2:6], 6
        payload = bytes(
            byte ^ key[at % 4] for at, byte in enumerate(data[start : start + size])
        )
        frames.append(Frame(data[0] & 0x0F, payload))
        data = data[start + size :]
    return frames


class Side:
    """One end: the protocol under test, the model of it, and the pipe towards it."""

    def __init__(self, server: bool) -> None:
        self.protocol = Protocol(server=server)
        self.pipe = b""  # bytes that have not arrived
        self.coming: deque[tuple[Frame | None, int]] = deque()  # None: a fault; size
        self.events: list[tuple[int, Any]] = []
        # The model:
        self.state = State.OPEN
        self.end: End | None = None
        self.expected: list[tuple[int, Any]] = []

    def finish(self, end: End, state: State) -> None:
        self.end = self.end or end
        self.state = state

    def hear(self, heard: Frame | None) -> list[Frame]:
        """What the model does with a frame: its answers."""
        if self.state is State.CLOSED:
            return []
        was_open = self.state is State.OPEN
        if heard is None:
            self.finish(End(1002, "", "protocol_error"), State.CLOSED)
            self.expected.append((CLOSE, None))
            return [Frame(CLOSE, b"\x03\xea")] if was_open else []
        if heard.opcode == CLOSE:
            code = int.from_bytes(heard.payload[:2], "big") if heard.payload else 1005
            reason = heard.payload[2:].decode()
            self.finish(End(code, reason, "peer"), State.CLOSED)
            self.expected.append((CLOSE, None))
            return [Frame(CLOSE, heard.payload[:2])] if was_open else []
        if was_open and heard.opcode == TEXT:
            self.expected.append((TEXT, heard.payload.decode()))
        elif was_open:
            self.expected.append((heard.opcode, heard.payload))
        return [Frame(PONG, heard.payload)] if heard.opcode == PING else []


class Handshake(RuleBasedStateMachine):
    """A server and a client that close, or fail, whenever they like."""

    def __init__(self) -> None:
        super().__init__()
        self.sides = {True: Side(server=True), False: Side(server=False)}

    def emit(self, server: bool, data: bytes, expected: list[Frame]) -> None:
        """What one end sent: is it what the model says? Then it is on its way."""
        frames = parse(data)
        assert len(frames) == len(expected)
        for sent, wanted in zip(frames, expected, strict=True):
            assert sent.opcode == wanted.opcode
            if sent.opcode == CLOSE and wanted.payload == b"\x03\xea":
                assert sent.payload[:2] == wanted.payload  # the text is ours
            else:
                assert sent.payload == wanted.payload
        other = self.sides[not server]
        other.pipe += data
        head = 2 if server else 6
        other.coming.extend((sent, head + len(sent.payload)) for sent in frames)

    @rule(server=st.booleans(), text=st.sampled_from(["", "a", "\u00e9" * 60]))
    def send_text(self, server: bool, text: str) -> None:
        side = self.sides[server]
        if side.state is State.OPEN:
            data = side.protocol.send_message(TEXT, text.encode())
            self.emit(server, data, [Frame(TEXT, text.encode())])

    @rule(server=st.booleans())
    def send_ping(self, server: bool) -> None:
        side = self.sides[server]
        if side.state is State.OPEN:
            self.emit(server, side.protocol.send_ping(b"?"), [Frame(PING, b"?")])

    @rule(server=st.booleans(), code=codes, reason=reasons)
    def send_close(self, server: bool, code: int, reason: str) -> None:
        side = self.sides[server]
        if side.state is State.OPEN:
            data = side.protocol.send_close(code, reason)
            side.finish(End(code, reason, "local"), State.CLOSING)
            payload = code.to_bytes(2, "big") + reason.encode()
            self.emit(server, data, [Frame(CLOSE, payload)])

    @rule(server=st.booleans())
    def send_empty_close(self, server: bool) -> None:
        """A close frame without a code, of a peer that is not ours."""
        side = self.sides[server]
        if side.state is State.OPEN:
            side.protocol.send_close(1000, "")
            side.finish(End(1000, "", "local"), State.CLOSING)
            data = b"\x88\x00" if server else b"\x88\x80\x00\x00\x00\x00"
            self.emit(server, data, [Frame(CLOSE, b"")])

    @rule(server=st.booleans())
    def send_fault(self, server: bool) -> None:
        """A frame that breaks a rule; its sender believes in it."""
        other = self.sides[not server]
        data = b"\x83\x00" if server else b"\x83\x80\x00\x00\x00\x00"
        other.pipe += data
        other.coming.append((None, 2))  # the first two bytes tell
        if len(data) > 2:
            other.coming.append((Frame(PONG, b""), len(data) - 2))  # skipped

    @rule(server=st.booleans(), size=st.sampled_from([1, 2, 3, 7, 1000]))
    def deliver(self, server: bool, size: int) -> None:
        side = self.sides[server]
        data, side.pipe = side.pipe[:size], side.pipe[size:]
        answers, sent = self.arrive(side, len(data)), b""
        pos = 0
        while pos < len(data):
            pos = side.protocol.receive(data, pos, len(data))
            sent += b"".join(side.protocol.take_output())
            event = side.protocol.take_event()
            if event is not None:
                side.events.append(event)
        self.emit(server, sent, answers)

    def arrive(self, side: Side, size: int) -> list[Frame]:
        """Tell the model of so many bytes; its answers."""
        answers: list[Frame] = []
        while size:
            heard, left = side.coming[0]
            step = min(size, left)
            size -= step
            if step < left:
                side.coming[0] = heard, left - step
            else:
                side.coming.popleft()
                answers += side.hear(heard)
        return answers

    @rule(server=st.booleans())
    def lose(self, server: bool) -> None:
        """The connection ends under it."""
        side = self.sides[server]
        side.protocol.receive_eof()
        if side.state is not State.CLOSED:
            side.finish(End(1006, "", "eof"), State.CLOSED)

    @invariant()
    def both_are_what_the_model_says(self) -> None:
        for side in self.sides.values():
            protocol = side.protocol
            assert protocol.state is side.state
            assert side.events == side.expected
            if side.end is not None:
                assert protocol.close_code == side.end.code
                assert str(protocol.close_cause) == side.end.cause
                if side.end.cause != "protocol_error":
                    assert protocol.close_reason == side.end.reason
            else:
                assert protocol.close_code is None

    def teardown(self) -> None:
        for _ in range(4):
            for server in (True, False):
                while self.sides[server].pipe:
                    self.deliver(server, 1000)
        self.both_are_what_the_model_says()
        states = {side.state for side in self.sides.values()}
        lost = any(
            side.end is not None and side.end.cause == "eof"
            for side in self.sides.values()
        )
        # Whoever began, and however they crossed: both have come to the end.
        if not lost:
            assert states in ({State.OPEN}, {State.CLOSED})


def test_closing_handshake_of_two_ends_is_what_the_model_says() -> None:
    run_state_machine_as_test(Handshake, settings=ENDINGS)


# --- A connection on a socket, with time ---------------------------------------------

CLOSE_TIMEOUT = 1.0


class Meddling(Recorder):
    """Does in `on_close` what it should not, and raises when it is told to."""

    def on_message(self, msg: Any, client: Client) -> Any:
        super().on_message(msg, client)
        if msg == "raise":
            raise RuntimeError("told to")
        return msg if msg == "echo" else None

    def on_error(self, error: Exception, client: Any) -> None:
        client._fail_handler()

    def on_close(self, client: Any) -> None:
        super().on_close(client)
        assert not client.write_message("too late")
        assert not client.close()
        assert not client.ping()
        assert client not in self.clients


class Connection(RuleBasedStateMachine):
    """One client of a server: whatever happens, it ends once, explained, and in time.

    The model's states: open, closing (our close frame is out), ended (`on_close` was
    called, the socket is ours still), released.
    """

    ready = False

    @initialize(wrapped=st.booleans())
    def begin(self, wrapped: bool) -> None:
        self.driven = Driven(Meddling(), max_size=1000, ping=False)
        self.peer: Peer = self.driven.open(wrap=Wrapped if wrapped else None)
        self.client: Client = self.driven.handler.client()
        self.state = "open"
        self.end: End | None = None
        self.deadline = 0.0
        self.frames: list[Frame] = []  # that the peer must have got
        self.messages: list[str] = []
        self.peer_sends = True  # it has not ended its side
        self.peer_is_there = True
        self.got = b""
        self.stopped = False
        self.ready = True

    @property
    def now(self) -> float:
        return self.driven.clock.now

    def conclude(self, state: str, *end: Any) -> None:
        self.state = state
        self.end = self.end or End(*end)
        self.deadline = self.now + CLOSE_TIMEOUT

    def send(self, data: bytes) -> bool:
        """Have the peer send, if it still can."""
        if not self.peer_sends:
            return False
        try:
            self.peer.sock.send(data)
        except OSError:
            assert self.state == "released"
            return False
        return True

    # What happens

    @rule(code=codes, reason=reasons)
    def close(self, code: int, reason: str) -> None:
        assert self.client.close(code, reason) is (self.state == "open")
        if self.state == "open":
            payload = code.to_bytes(2, "big") + reason.encode()
            self.frames.append(Frame(CLOSE, payload))
            self.conclude("closing", code, reason, "local")
        self.driven.turn(2)

    @rule()
    def terminate(self) -> None:
        self.client.terminate()
        if self.state in ("open", "closing"):
            self.conclude("released", 1006, "terminated", "local")
        self.driven.turn(2)

    @rule()
    def write(self) -> None:
        assert bool(self.client.write_message("news")) is (self.state == "open")
        if self.state == "open":
            self.frames.append(Frame(TEXT, b"news"))
        self.driven.turn(2)

    @rule(text=st.sampled_from(["echo", "quiet", "raise"]))
    def hear(self, text: str) -> None:
        heard = self.send(frame(TEXT, text)) and self.state == "open"
        if heard:
            self.messages.append(text)
            if text == "echo":
                self.frames.append(Frame(TEXT, b"echo"))
            elif text == "raise":
                reason = "the handler failed"
                self.frames.append(Frame(CLOSE, b"\x03\xf3" + reason.encode()))
                self.conclude("closing", 1011, reason, "handler_error")
        self.driven.turn(2)

    @rule(code=codes, reason=reasons)
    def hear_close(self, code: int, reason: str) -> None:
        if self.send(close_frame(code, reason)):
            if self.state == "open":
                self.frames.append(Frame(CLOSE, code.to_bytes(2, "big")))
            if self.state in ("open", "closing"):
                self.conclude("ended", code, reason, "peer")
        self.driven.turn(2)

    @rule(
        fault=st.sampled_from(
            [
                (b"\x81\x01x", 1002, "unmasked frame", "protocol_error"),
                (
                    frame(TEXT, b"\xff"),
                    1007,
                    "text is not valid UTF-8",
                    "bad_data",
                ),
                (
                    frame(TEXT, "x" * 1001),
                    1009,
                    "message of 1,001 bytes exceeds max_size 1,000",
                    "too_big",
                ),
            ]
        )
    )
    def hear_fault(self, fault: tuple[bytes, int, str, str]) -> None:
        data, code, reason, cause = fault
        heard = self.send(data)
        if heard and self.state == "open":
            payload = code.to_bytes(2, "big") + reason.encode()
            self.frames.append(Frame(CLOSE, payload))
            self.conclude("ended", code, reason, cause)
        elif heard and self.state == "closing" and code == 1002:
            # What is wrong with a payload is not looked at any more.
            self.conclude("ended", code, reason, cause)
        self.driven.turn(2)

    @rule()
    def hear_the_end(self) -> None:
        if self.peer_sends:
            self.peer_sends = False
            if self.state != "released":
                self.peer.end()
                reason = "connection closed without a close frame"
                self.conclude("released", 1006, reason, "eof")
        self.driven.turn(2)

    @precondition(lambda self: self.ready and self.peer_is_there)
    @rule()
    def leave(self) -> None:
        self.got += self.peer.read_now()
        self.peer.close()
        self.peer_is_there = self.peer_sends = False
        if self.state != "released":
            reason = "connection closed without a close frame"
            self.conclude("released", 1006, reason, "eof")
        self.driven.turn(2)

    @rule()
    def stop(self) -> None:
        if not self.stopped:
            self.stopped = True
            self.driven.stop_begins(5.0)
            if self.state == "open":
                reason = "the server stops"
                self.frames.append(Frame(CLOSE, b"\x03\xe9" + reason.encode()))
                self.conclude("closing", 1001, reason, "shutdown")
                self.deadline = self.now + 5.0
        self.driven.turn(2)

    @rule(seconds=st.sampled_from([0.3, 0.9, 3.0]))
    def wait(self, seconds: float) -> None:
        self.driven.advance(seconds)
        if self.state in ("closing", "ended") and self.now >= self.deadline:
            self.state = "released"

    # What must always be so

    @invariant()
    def it_is_what_the_model_says(self) -> None:
        if not self.ready:
            return
        client, handler = self.client, self.driven.handler
        assert client.is_open() is (self.state == "open")
        assert handler.of("message") == self.messages
        ended = self.state in ("ended", "released")
        expected = [self.end] if ended else []
        assert handler.of("close") == expected, self.state
        assert (client in self.driven.server.clients) is (not ended)
        assert (client in self.driven.closing) is (self.state == "ended")
        assert (client._sock.fileno() == -1) is (self.state == "released")
        if self.end is not None:
            seen = (client.close_code, client.close_reason, str(client.close_cause))
            assert seen == self.end

    @invariant()
    def the_peer_got_what_it_must(self) -> None:
        if not self.ready or not self.peer_is_there:
            return
        self.got += self.peer.read_now()
        frames = parse(self.got)
        assert frames == self.frames
        assert [sent.opcode for sent in frames].count(CLOSE) <= 1

    def teardown(self) -> None:
        if not self.ready:
            return
        try:
            self.driven.advance(6.0)
            if self.state in ("closing", "ended"):
                self.state = "released"
            self.it_is_what_the_model_says()
            assert len(self.driven.reactor.wheel) == 0
            assert self.driven.reactor.buffered == 0
        finally:
            self.driven.close()


def test_end_of_a_connection_is_what_the_model_says() -> None:
    run_state_machine_as_test(Connection, settings=ENDINGS)


def test_every_cause_that_the_machine_knows_is_one() -> None:
    names = {"local", "peer", "eof", "handler_error", "shutdown", "protocol_error"}
    assert {*names, "bad_data", "too_big"} <= set(CloseCause)
    assert issubclass(Meddling, WebSocket)
