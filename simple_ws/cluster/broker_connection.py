"""One connection to the broker: its commands, its channels, its output.

Output is a queue of strings, so that a message for a hundred receivers is encoded once
and held once. Who receives which channel is known by the `Broker`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any, Protocol

from ..loop.reactor import READ, WRITE, Reactor
from .broker_history import Appending, Histories, Read
from .commands import MAX_COMMAND, Command, CommandReader, Publication
from .position import Position
from .redis_history import APPEND_COMMAND, READ_COMMAND, REMOVE_COMMAND
from .stream import Stream

__all__ = ["OUTPUT_LIMIT", "BrokerConnection", "BrokerHost"]

logger = logging.getLogger("simple_ws")

#: Bytes that may wait for a connection that does not read: above it, it is cut, as
#: Redis does (client-output-buffer-limit pubsub).
OUTPUT_LIMIT = 32 * 2**20
#: Bytes of one read.
_READ_SIZE = 65536
#: What a connection may cause in one turn: commands, and messages for receivers. Some
#: milliseconds; then others are served.
_WORK = 8192
#: Bytes joined for one write.
_PIECE = 262144
#: Bytes of a command, and seconds, until the password has come.
_STRANGER_LIMIT, _STRANGER_TIME = 16384, 10.0

_MESSAGE = b">3\r\n$7\r\nmessage\r\n"
_OK = b"+OK\r\n"
_MALFORMED = b"-ERR an argument is malformed\r\n"
_NOAUTH = b"-NOAUTH HELLO 3 AUTH comes first\r\n"
#: RESP3: a map of six.
_HELLO = (
    b"%%6\r\n$6\r\nserver\r\n$6\r\nbroker\r\n$7\r\nversion\r\n$1\r\n1\r\n"
    b"$5\r\nproto\r\n:3\r\n$2\r\nid\r\n:%d\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n"
    b"$4\r\nrole\r\n$6\r\nmaster\r\n"
)


class BrokerHost(Protocol):
    """What a connection needs of its broker."""

    #: The receivers of each channel that has some.
    channels: dict[bytes, dict[BrokerConnection, None]]
    histories: Histories

    def is_secret(self, password: bytes) -> bool:
        """Whether it is the password."""

    def remove(self, connection: BrokerConnection) -> None:
        """It is closed."""


class BrokerConnection:
    """A client of the broker.

    Args:
        sock: accepted; this object owns it from now on.
        reactor: drives it.
        host: its broker.
        number: that the client is told.

    Attributes:
        waiting: bytes of output.
        closed: its socket is closed.
    """

    __slots__ = (
        "__weakref__",
        "_channels",
        "_commands",
        "_dirty",
        "_ending",
        "_entered",
        "_events",
        "_host",
        "_number",
        "_output",
        "_reactor",
        "_reader",
        "_rest",
        "_stream",
        "_timer",
        "closed",
        "waiting",
    )

    def __init__(
        self, sock: Any, reactor: Reactor, host: BrokerHost, number: int
    ) -> None:
        self._reactor, self._host, self._number = reactor, host, number
        self._stream = Stream(sock)
        self._reader = CommandReader(_STRANGER_LIMIT)
        self._commands: deque[Publication | Command] = deque()
        self._entered = self._ending = self.closed = False
        self._dirty = False  # it will be flushed at the end of the turn
        self._channels: dict[bytes, None] = {}
        self._output: deque[bytes] = deque()
        self._rest: bytes | memoryview = b""  # of what was offered to the system
        self.waiting = 0
        self._events = READ
        reactor.register(self._stream, READ, self._on_ready)
        self._timer = reactor.call_later(_STRANGER_TIME, self.close)

    # Input

    def _on_ready(self, events: int) -> None:
        if events & WRITE:
            self._stream.blocked = False
            self._flush()
        if events & READ and self._events & READ and not self.closed:
            self._read()

    def _read(self) -> None:
        try:
            data = self._stream.recv(_READ_SIZE)
        except OSError:
            data = b""
        if data is None:
            return
        if not data:
            self.close()
            return
        self._commands.extend(self._reader.receive(data))
        self._serve()

    def _serve(self) -> None:
        """Process commands, as many as a turn allows."""
        commands, left = self._commands, _WORK
        while commands and left > 0 and not self.closed and not self._ending:
            command = commands.popleft()
            if isinstance(command, tuple):
                left -= self._publish(*command)
            else:
                left -= self._execute(command)
        if self.closed:
            return
        if self._ending:
            commands.clear()
        elif commands:
            self._reactor.call_soon(self._serve)
        elif self._reader.problem is not None:
            self._end(b"-ERR Protocol error: %b\r\n" % self._reader.problem.encode())
        self._watch()

    def _watch(self) -> None:
        """Wait for input, unless some is left; for room, if output waits for it."""
        events = self._stream.events
        if self._commands or self._ending:
            events &= ~READ
        if events != self._events:
            self._events = events
            self._reactor.modify(self._stream, events, self._on_ready)

    def _publish(
        self, channel: bytes, encoded: bytes, answer: bytes = b":%d\r\n"
    ) -> int:
        """Send a message to those who receive its channel, and answer how many they
        are; return how much work."""
        if not self._entered:
            self._send(_NOAUTH)
            return 1
        receivers = self._host.channels.get(channel)
        if receivers is None:
            self._send(answer % 0)
            return 1
        push, flush_soon = _MESSAGE + encoded, self._reactor.flush_soon
        size = len(push)
        for receiver in receivers:
            receiver._output.append(push)
            receiver.waiting += size
            if not receiver._dirty:
                flush_soon(receiver)
        self._send(answer % len(receivers))
        return 1 + len(receivers)

    def _execute(self, command: Command) -> int:
        """Process any other command; return how much work."""
        name, arguments = command[0], command[1:]
        known = _COMMANDS.get(name)
        if not self._entered and name not in _FOR_STRANGERS:
            self._send(_NOAUTH)
        elif known is None:
            self._send(b"-ERR unknown command '%b'\r\n" % _quoted(name))
        elif not known[1] <= len(arguments) <= known[2]:
            text = b"-ERR wrong number of arguments for '%b' command\r\n"
            self._send(text % _quoted(name.lower()))
        else:
            return len(command) + (known[0](self, arguments) or 0)
        return len(command)

    # Commands

    def _on_hello(self, arguments: list[bytes]) -> None:
        options = arguments[1:]
        if arguments[:1] != [b"3"]:
            self._send(b"-NOPROTO this broker speaks version 3\r\n")
            return
        if len(options) >= 3 and options[0].upper() == b"AUTH":
            self._enter(options[2])
        elif not self._entered:
            self._send(_NOAUTH)
        if self._entered:
            self._send(_HELLO % self._number)

    def _on_auth(self, arguments: list[bytes]) -> None:
        if self._enter(arguments[-1]):
            self._send(_OK)

    def _enter(self, password: bytes) -> bool:
        """Let those in who know the password; others have one attempt."""
        if not self._host.is_secret(password):
            self._end(b"-WRONGPASS this is not the password of the broker\r\n")
            self._entered = False
            return False
        self._entered = True
        self._reader.limit = MAX_COMMAND
        self._timer.cancel()
        return True

    def _on_client(self, arguments: list[bytes]) -> None:
        is_id = arguments[0].upper() == b"ID"
        self._send(b":%d\r\n" % self._number if is_id else _OK)

    def _on_subscribe(self, channels: list[bytes]) -> None:
        for channel in channels:
            self._channels[channel] = None
            self._host.channels.setdefault(channel, {})[self] = None
            self._confirm(b"subscribe", _bulk(channel))

    def _on_unsubscribe(self, channels: list[bytes]) -> None:
        if not channels and not self._channels:
            self._confirm(b"unsubscribe", b"_\r\n")
        for channel in channels or list(self._channels):
            self._leave(channel)
            self._confirm(b"unsubscribe", _bulk(channel))

    def _confirm(self, kind: bytes, channel: bytes) -> None:
        self._send(b">3\r\n%b%b:%d\r\n" % (_bulk(kind), channel, len(self._channels)))

    def _leave(self, channel: bytes) -> None:
        if channel not in self._channels:
            return
        del self._channels[channel]
        receivers = self._host.channels[channel]
        del receivers[self]
        if not receivers:
            del self._host.channels[channel]

    def _on_ping(self, arguments: list[bytes]) -> None:
        self._send(_bulk(arguments[0]) if arguments else b"+PONG\r\n")

    def _on_role(self, arguments: list[bytes]) -> None:
        self._send(b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n")

    def _on_pubsub(self, arguments: list[bytes]) -> None:
        what, rest, channels = arguments[0].upper(), arguments[1:], self._host.channels
        if what == b"NUMSUB":
            counts = [
                b"%b:%d\r\n" % (_bulk(channel), len(channels.get(channel, ())))
                for channel in rest
            ]
            self._send(b"*%d\r\n%b" % (2 * len(rest), b"".join(counts)))
        elif what == b"CHANNELS" and len(rest) <= 1:
            pattern = rest[0] if rest else b"*"
            names = [_bulk(name) for name in channels if fnmatchcase(name, pattern)]
            self._send(b"*%d\r\n%b" % (len(names), b"".join(names)))
        else:
            self._send(b"-ERR unknown subcommand '%b'\r\n" % _quoted(what))

    def _on_quit(self, arguments: list[bytes]) -> None:
        self._end(_OK)

    # Histories: the arguments are those of `redis_scripts`, as are the answers

    def _on_history_append(self, arguments: list[bytes]) -> int:
        try:
            message = _appending(*arguments)
        except (ValueError, OverflowError):
            self._send(_MALFORMED)
            return 0
        position, again = self._host.histories.append(message, self._reactor.time())
        place = str(position).encode()
        if again:
            self._send(b"*3\r\n%b:1\r\n:0\r\n" % _bulk(place))
            return 0
        encoded = _bulk(message.channel) + _bulk(place + b" " + message.envelope)
        answer = b"*3\r\n%b:0\r\n:%%d\r\n" % _bulk(place)
        return self._publish(message.channel, encoded, answer)

    def _on_history_read(self, arguments: list[bytes]) -> int:
        channel, epoch, offset, tag, after, limit, new = arguments
        known: Position | None = None
        try:
            if epoch:
                name = epoch.decode("ascii", "replace")
                known = Position(name, int(offset), int(tag, 16) if tag else None)
            page = self._host.histories.read(
                channel,
                known,
                int(after),
                int(limit),
                new.decode("ascii"),
                self._reactor.time(),
            )
        except (ValueError, OverflowError):
            self._send(_MALFORMED)
            return 0
        self._send(_encode_page(page))
        return len(page.entries)

    def _on_history_remove(self, arguments: list[bytes]) -> None:
        self._send(b":%d\r\n" % self._host.histories.remove(arguments[0]))

    # Output

    def _send(self, data: bytes) -> None:
        self._output.append(data)
        self.waiting += len(data)
        if not self._dirty:
            self._reactor.flush_soon(self)

    def _flush(self) -> None:
        """Write output as far as the system takes it; cut it if too much is left."""
        if self.closed:
            return
        stream = self._stream
        try:
            while self.waiting and not stream.blocked:
                piece = self._rest or self._next_piece()
                sent = stream.send(piece)
                self.waiting -= sent
                self._rest = memoryview(piece)[sent:] if sent < len(piece) else b""
        except OSError:
            self.close()
            return
        if self.waiting > OUTPUT_LIMIT:
            if self._reactor.repeats.may_say("clients of the broker cut"):
                text = "the broker cuts a client that does not read: %d bytes wait"
                logger.warning(text, self.waiting)
            self.close()
        elif self._ending and not self.waiting:
            self.close()
        else:
            self._watch()

    def _next_piece(self) -> bytes:
        output = self._output
        if len(output) == 1:
            return output.popleft()
        if self.waiting <= _PIECE:
            piece = b"".join(output)
            output.clear()
            return piece
        parts, size = [], 0
        while output and size < _PIECE:
            parts.append(output.popleft())
            size += len(parts[-1])
        return b"".join(parts)

    # Ending

    def _end(self, last: bytes) -> None:
        """Send something, and close the connection when it is sent."""
        self._send(last)
        self._ending = True

    def close(self) -> None:
        """Close it at once; what waits for it is dropped."""
        if self.closed:
            return
        self.closed = True
        self._timer.cancel()
        for channel in list(self._channels):
            self._leave(channel)
        self._reactor.unregister(self._stream)
        self._stream.abort()
        self._output.clear()
        self._commands.clear()
        self.waiting = 0
        self._host.remove(self)

    def forget(self) -> None:
        """Close a forked process's copy of its socket."""
        self.closed = True
        self._stream.close()

    _abandon = close


def _bulk(data: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(data), data)


def _appending(
    channel: bytes,
    publisher: bytes,
    seq: bytes,
    tag: bytes,
    size: bytes,
    keep: bytes,
    epoch: bytes,
    envelope: bytes,
    key: bytes | None = None,
) -> Appending:
    """Read the arguments of `HISTORY.APPEND`; ValueError: one is malformed."""
    return Appending(
        channel,
        publisher,
        int(seq),
        int(tag, 16) & 0xFFFF,
        max(int(size), 1),
        int(keep) / 1000 if keep else None,
        epoch.decode("ascii"),
        envelope,
        key,
    )


def _encode_page(page: Read) -> bytes:
    epoch, top, reset, entries = page
    parts = [b"*%d\r\n" % (3 + 4 * len(entries)), _bulk(epoch.encode())]
    parts.append(b":%d\r\n:%d\r\n" % (top, reset))
    for offset, tag, age, body in entries:
        parts.append(b":%d\r\n$4\r\n%04x\r\n" % (offset, tag))
        parts.append(b":%d\r\n%b" % (int(age * 1000), _bulk(body)))
    return b"".join(parts)


def _quoted(name: bytes) -> bytes:
    """A stranger's word in one line of text."""
    return ascii(name[:64].decode("latin-1"))[1:-1].encode()


#: Returns how much work it was, if that is more than its arguments tell.
_Handler = Callable[[BrokerConnection, list[bytes]], int | None]
_MANY = 10**9
#: What is known, and how many arguments it has.
_COMMANDS: dict[bytes, tuple[_Handler, int, int]] = {
    b"HELLO": (BrokerConnection._on_hello, 0, 8),
    b"AUTH": (BrokerConnection._on_auth, 1, 2),
    b"CLIENT": (BrokerConnection._on_client, 1, 8),
    b"SUBSCRIBE": (BrokerConnection._on_subscribe, 1, _MANY),
    b"UNSUBSCRIBE": (BrokerConnection._on_unsubscribe, 0, _MANY),
    b"PING": (BrokerConnection._on_ping, 0, 1),
    b"ECHO": (BrokerConnection._on_ping, 1, 1),
    b"ROLE": (BrokerConnection._on_role, 0, 0),
    b"PUBSUB": (BrokerConnection._on_pubsub, 1, _MANY),
    b"QUIT": (BrokerConnection._on_quit, 0, 0),
    APPEND_COMMAND: (BrokerConnection._on_history_append, 8, 9),
    READ_COMMAND: (BrokerConnection._on_history_read, 7, 7),
    REMOVE_COMMAND: (BrokerConnection._on_history_remove, 1, 1),
    b"PUBLISH": (BrokerConnection._on_ping, 2, 2),  # read as a `Publication`
}
_FOR_STRANGERS = {b"HELLO", b"AUTH", b"QUIT"}
