"""`OneWayClient`: a client that only listens, see `one_way`; and its session.

The response begins when all of its subscriptions have: so one that is refused gets an
HTTP status, which ends an `EventSource` for good.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

from ...cluster.history import Entry
from ...connection.interfaces import Connection
from ...connection.keepalive import KeepAlive
from ...constants import CloseCause, CloseCode, SendStatus
from ...protocol.response import Response
from ..codes import Code, Disconnect, Unsubscribe
from ..commands import Command, encode_push, entry_of
from ..interfaces import LiveHost
from ..positions import Claim
from ..session import Session
from .client import StreamClient
from .forms import PUSHES
from .places import encode_places

__all__ = ["Asked", "OneWayClient"]

#: The HTTP status for the codes of errors; 403 for others.
_STATUS = {101: 401, 106: 429, 107: 400, 109: 401, 110: 401, 111: 429}
#: And of disconnects after which a client must not come back.
_ENDS = {Disconnect.INVALID_TOKEN: 401, Disconnect.BAD_REQUEST: 400}


class Asked(NamedTuple):
    """What a client has asked for.

    Attributes:
        params: of `connect`.
        topics: what it has got of each.
    """

    params: dict[str, Any]
    topics: dict[str, Claim | None]


class OneWaySession(Session):
    """A session without commands of the client: all are in its request."""

    answers_pings: ClassVar = False

    __slots__ = ("_asked", "_pending", "_result", "_wanted")

    def __init__(self, live: LiveHost, client: OneWayClient, asked: Asked) -> None:
        super().__init__(live, client)
        self._asked = asked
        self._result: dict[str, Any] = {}
        #: The topics to subscribe to, and how many of them are not subscribed to yet.
        self._wanted: list[str] = []
        self._pending = 0

    def begin(self) -> None:
        """Connect, and subscribe to all topics."""
        self._start(Command(0, "connect", self._asked.params))

    def reply(
        self, number: int, method: str, result: Any, missed: Sequence[Entry] = ()
    ) -> None:
        """A command has been carried out."""
        if method == "connect":
            self._result = result
        else:
            entries = [entry_of(entry.offset, entry.body) for entry in missed]
            result |= {"publications": entries}
            self._enter(self._wanted[number - 1], result)
            self._pending -= 1
            self._look()

    def resume(self) -> None:
        """It is connected."""
        super().resume()
        self._subscribe_all()

    def _subscribe_all(self) -> None:
        by_server = self._result.pop("subs", {})
        self._result |= {"pong": False, "subs": {}}
        for topic, its in by_server.items():
            self._enter(topic, its)
        topics = self._asked.topics
        self._wanted = [topic for topic in topics if topic not in by_server]
        self._pending = len(self._wanted)
        for number, topic in enumerate(self._wanted, 1):
            params: dict[str, Any] = {"channel": topic, "recoverable": True}
            claim = topics[topic]
            if claim is not None:
                params |= {"recover": True, **claim._asdict()}
            self._start(Command(number, "subscribe", params))
        if not self._wanted:
            self._look()

    def _enter(self, topic: str, result: dict[str, Any]) -> None:
        """A subscription has begun: what was missed comes like what follows."""
        missed = result.pop("publications", ())
        self._result["subs"][topic] = result
        place = None
        if "epoch" in result:
            offset = missed[0]["offset"] - 1 if missed else result["offset"]
            place = Claim(result["epoch"], offset)
        self.client._note_place(topic, place)
        for entry in missed:
            text = encode_push("pub", entry, topic)
            self.client._write_publication(text, topic, entry["offset"])

    def _look(self) -> None:
        """Begin the response if everything has begun."""
        if not self._pending and self.client.is_open():
            self.client._begin_response(encode_push("connect", self._result))

    def reply_error(
        self, number: int, code: int, message: str, temporary: bool = False
    ) -> None:
        """A command was refused: nothing comes of it all."""
        if temporary:
            self.disconnect(Disconnect.SERVER_ERROR)
        elif not self.client._refuse(_STATUS.get(code, 403), message):
            self.disconnect(Disconnect.PERMISSION_DENIED)

    def push(self, kind: str, value: Any, channel: str | None = None) -> None:
        """Tell the client something; it cannot subscribe again by itself."""
        lost = Unsubscribe.INSUFFICIENT_STATE.code
        if kind == "unsubscribe" and value["code"] >= lost:
            self.disconnect(Disconnect.INSUFFICIENT_STATE)
        else:
            super().push(kind, value, channel)

    def disconnect(self, code: Code) -> None:
        """End the connection, and say whether the client should come back."""
        ends = code in _ENDS and self.client._refuse(_ENDS[code], code.text)
        if not ends:
            super().disconnect(code)


class _OneWayKeepAlive(KeepAlive):
    """It says nothing, so it is never idle, nor does it answer."""

    def start(self, client: Connection) -> None:
        """The connection is open."""

    def ping(self, client: Connection, payload: bytes) -> bool:
        """It cannot be sent."""
        return False


class OneWayClient(StreamClient):
    """A client that only listens.

    Args:
        asked: what it asks for.
        head: of the response, if it is let in.
        refuse: makes the bytes of another response.
        args: as for `Client`.
    """

    _keepalive: ClassVar[KeepAlive] = _OneWayKeepAlive()

    __slots__ = ()

    def __init__(
        self,
        asked: Asked,
        head: bytes,
        refuse: Callable[[Response], bytes],
        *args: Any,
    ) -> None:
        self._asked = asked
        #: Not sent yet.
        self._head = head + PUSHES.opening()
        self._refusal: Callable[[Response], bytes] | None = refuse
        #: What is sent after that; None once it is.
        self._early: list[bytes] | None = []
        self._early_size = 0
        #: Where it is in the topics that it has asked for.
        self._places = dict(asked.topics)
        super().__init__(PUSHES, *args)

    def _make_session(self, live: LiveHost) -> Session:
        return OneWaySession(live, self, self._asked)

    def _begin(self) -> None:
        assert isinstance(self._live, OneWaySession)
        self._live.begin()

    # The beginning

    def _note_place(self, topic: str, place: Claim | None) -> None:
        """It has entered a topic, here."""
        if topic in self._places:
            self._places[topic] = place

    def _begin_response(self, text: str) -> None:
        """All subscriptions have begun: send what has waited for that."""
        early, self._early = self._early or [], None
        self._refusal = None  # it keeps the request
        for block in (self._form.block(text), *early):
            self._send_framed(block)
        if any(self._places.values()):
            # No event, but what a browser comes back with.
            self._send_framed(self._id() + b"\n")

    def _refuse(self, status: int, message: str) -> bool:
        """Answer with an HTTP status; return False if the response has begun."""
        refusal, self._refusal = self._refusal, None
        if refusal is None or not self._head or not self._open:
            return False
        self._head = b""
        self._enqueue(refusal(Response(status, f"{message}\n")))
        self._protocol.conclude(CloseCode.POLICY_VIOLATION, message, CloseCause.LOCAL)
        self._sync()
        self._loop.call_soon(self._end)
        return True

    # Output

    def _enqueue(self, frame: bytes | memoryview) -> None:
        head, self._head = self._head, b""
        if head:
            super()._enqueue(head)
        super()._enqueue(frame)

    def _write_block(self, block: bytes) -> SendStatus:
        if self._early is None:
            return self._send_framed(block)
        self._early_size += len(block)
        if self._early_size > self._write_limit:
            reason = f"unsent output exceeds write_limit {self._write_limit:,}"
            self._close(CloseCode.TRY_AGAIN_LATER, reason, CloseCause.SLOW_CONSUMER)
            return SendStatus.DROPPED
        self._early.append(block)
        return SendStatus.SENT

    def _write_published(self, block: bytes, topic: str, offset: int) -> SendStatus:
        place = self._places.get(topic)
        if offset and place is not None:
            self._places[topic] = Claim(place.epoch, offset)
            block = self._id() + block
        return self._write_block(block)

    def _id(self) -> bytes:
        """The line that says where it is."""
        return f"id: {encode_places(self._places.values())}\n".encode()
