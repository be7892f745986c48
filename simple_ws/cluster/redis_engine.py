"""Redis and Valkey as an engine, and the broker of `workers=N`: RESP3, sans-I/O.

One connection publishes and receives. Replies come in the order of commands, and pushes
where the server worked on them, so a subscription whose command was sent is before all
messages that are published later. What bytes mean is left to `resp`, sockets to `link`.

    connected: HELLO 3 with AUTH and SETNAME ─► a master? ─► SELECT, if a db is set
        ─► SCRIPT LOAD, of histories; SUBSCRIBE and PUBLISH, a probe ─► Ready
        ─► SUBSCRIBE, 512 channels at a time ─► Subscribed
        ─► PUBLISH and EVALSHA, and another probe each 10 s

The rights that a user needs are in docs/cluster.md; without those for histories it
serves topics that have none. What is stored is said in `redis_scripts`.
"""

from __future__ import annotations

import re
import secrets
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from ..text import excerpt
from .announced_rules import rules_key
from .connected_engine import ConnectedEngine
from .engine import (
    Accepted,
    Delivered,
    Notice,
    Origin,
    ReadRefused,
    Ready,
    Refused,
    Subscribed,
)
from .engine_address import DEFAULT_PREFIX, EngineAddress, is_client_name, is_prefix
from .history import Retention
from .position import Position
from .redis_channels import Change, RedisChannels, encode_channel
from .redis_history import (
    APPEND_COMMAND,
    READ_COMMAND,
    REMOVE_COMMAND,
    append_arguments,
    page_of,
    read_arguments,
    script_command,
    stored_of,
)
from .redis_scripts import APPEND, READ, REMOVE, Script
from .resp import ErrorReply, ReplyReader, encode_command, new_reader

__all__ = ["RedisEngine"]

#: Histories that are read at once: an answer has 1 MiB and a message at most, and
#: Redis cuts a connection for which too much waits (`redis_channels`).
_READS = 16
#: Seconds in which a probe that was accepted must have come back.
_PROBE_TIMEOUT = 3.0

#: Errors that would come again (at the beginning), and those that are the server's
#: state (at any time) and no fault of one message.
_PERMANENT = frozenset({"NOAUTH", "WRONGPASS", "NOPERM", "NOPROTO", "DENIED"})
_STATE = frozenset({"READONLY", "MASTERDOWN", "LOADING", "NOAUTH", "CLUSTERDOWN"})
#: The same in the answer of a script: before Redis 7 they are in the text. And what is
#: answered where the scripts are gone, which are loaded when we connect again.
_SCRIPT_STATE = re.compile(rf"\b(?:NOSCRIPT|{'|'.join(sorted(_STATE))})\b")

#: How servers and proxies say that they do not know HELLO: Redis 5, Envoy,
#: redis-cluster-proxy.
_UNKNOWN_COMMAND = re.compile(
    r"(unknown|unsupported|unrecognized|invalid) (command|request)", re.IGNORECASE
)

_PUBLISH = b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n"
_PING = encode_command(b"PING")
_HELLO = encode_command(b"HELLO", b"3")
_new_event = tuple.__new__


class RedisEngine(ConnectedEngine):
    """An `Engine` for Redis 6.0 and later, Valkey, and the broker of a supervisor.

    Args:
        username: of an ACL user; "" for the default one.
        password: "" where the server asks for none.
        client_name: for `CLIENT LIST`; visible ASCII characters.
        db: number of the database. Messages are the same in all of them.
        prefix: the channel of probes begins with it, as all others should.
        publish_only: never subscribe to anything, also not to probe the server: for a
            user without the right to it.
        reader: makes a reader of replies for each connection; by default hiredis where
            that is installed.

    Raises:
        ValueError: `client_name`, `db` or `prefix` cannot be used.
    """

    _protocol = "RESP3"
    _reader: ReplyReader

    def __init__(
        self,
        username: str = "",
        password: str = "",
        client_name: str = "",
        db: int = 0,
        *,
        prefix: str = DEFAULT_PREFIX,
        publish_only: bool = False,
        reader: Callable[[], ReplyReader] = new_reader,
    ) -> None:
        if not is_client_name(client_name):
            raise ValueError("client_name must be visible ASCII characters")
        if not is_prefix(prefix):
            raise ValueError("prefix must be 1 to 64 letters, digits, '_', '-' and ':'")
        if db < 0:
            raise ValueError("db must not be negative")
        self._db = db
        self._new_reader = reader
        #: Until a server refuses it.
        self.keeps_history = True
        self._rules_key, self._rules = rules_key(prefix), b""
        self._probe_channel = f"{prefix}.probe.{secrets.token_hex(8)}".encode()
        super().__init__(username, password, client_name, publish_only)

    @classmethod
    def from_address(
        cls, address: EngineAddress, *, publish_only: bool = False
    ) -> RedisEngine:
        """Make the engine of a URL that `engine_address.parse` has read."""
        return cls(
            address.username,
            address.password,
            address.client_name,
            address.db,
            prefix=address.prefix,
            publish_only=publish_only,
        )

    def _reset(self, now: float) -> None:
        super()._reset(now)
        self._channels = RedisChannels(self._wanted, self._send)
        self._names = self._channels.names
        #: What answers are awaited, in order: of a PUBLISH None, else who takes it.
        self._pending: deque[Callable[[Any], object] | Change | None] = deque()
        #: Readings whose turn has not come, and how many are not answered.
        self._to_read: deque[tuple[str, tuple[bytes, ...]]] = deque()
        self._reading = 0
        #: It keeps histories by commands of its own.
        self._is_broker = False
        self._to_load: list[Script] = []
        self._no_history = ""
        #: When the probe that is out was accepted.
        self._probe_accepted: float | None = None

    def _make_reader(self) -> ReplyReader:
        return self._new_reader()

    # The engine's interface: see `Engine`

    def announce(self, rules: bytes) -> None:
        """See `Engine.announce`. To a broker come no other programs."""
        self._rules = rules

    def _enter(self) -> None:
        arguments = [b"HELLO", b"3"]
        if self._username or self._password:
            user = self._username or "default"
            arguments += [b"AUTH", user.encode(), self._password.encode()]
        if self._client_name:
            arguments += [b"SETNAME", self._client_name.encode()]
        self._send(encode_command(*arguments), self._on_hello)

    def publish(self, channel: str, envelope: bytes) -> None:
        """See `Engine.publish`."""
        key = self._wanted.get(channel) or encode_channel(channel)
        command = _PUBLISH % (len(key), key, len(envelope), envelope)
        self._output.append(command)
        self._size += len(command)
        self._pending.append(None)

    def append(
        self, channel: str, envelope: bytes, origin: Origin, retention: Retention
    ) -> None:
        """See `Engine.append`."""
        key = self._wanted.get(channel) or encode_channel(channel)
        command = self._history_command(APPEND_COMMAND, APPEND, key)
        arguments = append_arguments(envelope, origin, retention)
        self._send(encode_command(*command, *arguments), self._on_stored)

    def read(
        self, channel: str, known: Position | None, after: int, limit: int
    ) -> None:
        """See `Engine.read`."""
        self._to_read.append((channel, tuple(read_arguments(known, after, limit))))
        self._send_reads()

    def remove(self, channel: str, done: Callable[[int | None], object]) -> None:
        """Remove the messages in the history of a topic; positions stay valid.

        Args:
            channel: of `Channels.kept`.
            done: called with the offset of the newest one, or with None if it is
                refused; not at all if the connection is lost before.
        """
        key = encode_channel(channel)
        command = self._history_command(REMOVE_COMMAND, REMOVE, key)
        self._send(encode_command(*command), partial(self._on_removed, channel, done))

    def receives(self, channel: str) -> bool:
        """See `Engine.receives`."""
        return self._channels.receives(channel)

    def ask(self, answer: Callable[[Any], object], *command: bytes) -> None:
        """Send another command, once `Ready` has come; for tools.

        Args:
            answer: called with the reply, which may be an `ErrorReply`.
            command: its name and arguments.
        """
        self._send(encode_command(*command), answer)

    def subscribe(self, channels: Iterable[str]) -> None:
        """See `Engine.subscribe`.

        Channels of one call are one command, and all commands that are not confirmed
        are for 512 channels at most: the others wait.
        """
        self._channels.add(channels)
        self._send_changes()

    def unsubscribe(self, channels: Iterable[str]) -> None:
        """See `Engine.unsubscribe`."""
        self._channels.discard(channels)
        self._send_changes()

    # Output

    def _history_command(
        self, name: bytes, script: Script, channel: bytes
    ) -> tuple[bytes, ...]:
        if self._is_broker:
            return name, channel
        if self._to_load:
            self._load_scripts()
        return script_command(script, channel)

    def _send_reads(self) -> None:
        """Read in order; one whose subscription has to wait holds up the others."""
        while self._to_read and self._reading < _READS:
            channel, arguments = self._to_read[0]
            if self._channels.must_wait(channel):
                return
            self._to_read.popleft()
            self._reading += 1
            command = self._history_command(READ_COMMAND, READ, encode_channel(channel))
            answer = partial(self._on_page, channel)
            self._send(encode_command(*command, *arguments), answer)

    def _send(self, command: bytes, answer: Callable[[Any], object] | Change) -> None:
        self._write(command)
        self._pending.append(answer)

    def _send_changes(self) -> None:
        """Subscribe and unsubscribe as far as the window allows it."""
        if self._ready and not self._failed:
            self._channels.send()
            if self._to_read:
                self._send_reads()

    # Input

    def _process(self, items: list[Any]) -> None:
        push, events, names = self._reader.push, self._events, self._names
        for item in items:
            if type(item) is not push:
                self._on_reply(item)
            elif len(item) != 3 or item[0] != b"message":
                self._on_push(item)
            elif type(item[1]) is bytes and type(item[2]) is bytes:
                name = names.get(item[1])
                if name is not None:
                    # The constructor of a NamedTuple is a function: 0.1 µs more.
                    events.append(_new_event(Delivered, (name, item[2], ())))
                elif item[1] == self._probe_channel:
                    self._on_probe(item[2])
            if self._failed:
                break

    # Replies

    def _on_reply(self, reply: Any) -> None:
        if not self._pending:
            self._fail(_unexpected(reply, "without a command"))
            return
        answer = self._pending[0]
        if answer is None:
            self._pending.popleft()
            if type(reply) is int:
                self._events.append(Accepted(reply))
            else:
                self._on_refused(reply)
        elif isinstance(answer, Change):
            self._on_change_refused(reply)
        else:
            self._pending.popleft()
            answer(reply)

    def _on_refused(self, reply: Any) -> None:
        if not isinstance(reply, ErrorReply):
            self._fail(_unexpected(reply, "to PUBLISH"))
        else:
            self._events.append(Refused(self._clean(reply.text)))
            if reply.code in _STATE:
                self._fail_by(reply)

    def _on_stored(self, reply: Any) -> None:
        if isinstance(reply, ErrorReply):
            if not self._is_gone(reply):
                self._events.append(Refused(self._why_not(reply)))
        elif (stored := stored_of(reply)) is not None:
            self._events.append(stored)
        else:
            self._fail(_unexpected(reply, "to the script that stores a message"))

    def _on_page(self, channel: str, reply: Any) -> None:
        self._reading -= 1
        if isinstance(reply, ErrorReply):
            if self._is_gone(reply):
                return
            self._events.append(ReadRefused(channel, self._why_not(reply)))
        elif (page := page_of(channel, reply)) is not None:
            self._events.append(page)
        else:
            self._fail(_unexpected(reply, "to the script that reads a history"))
        self._send_reads()

    def _on_removed(
        self, channel: str, done: Callable[[int | None], object], reply: Any
    ) -> None:
        if isinstance(reply, ErrorReply):
            if not self._is_gone(reply):
                self._events.append(Notice(channel, self._why_not(reply)))
            done(None)
        elif type(reply) is int:
            done(reply)
        else:
            self._fail(_unexpected(reply, "to the script that removes a history"))

    def _is_gone(self, error: ErrorReply) -> bool:
        """Whether the error is the state of the server: then this has failed."""
        found = _SCRIPT_STATE.search(error.text)
        if found is None or not self.keeps_history:
            return False
        if found[0] == "NOSCRIPT":
            self._fail("its scripts were flushed")
        else:
            self._fail_by(error)
        return True

    def _why_not(self, error: ErrorReply) -> str:
        return self._clean(error.text) if self.keeps_history else self._no_history

    def _on_change_refused(self, reply: Any) -> None:
        if not isinstance(reply, ErrorReply):
            self._fail(_unexpected(reply, "to SUBSCRIBE"))
        else:
            self._fail_by(reply, "it lets us not subscribe: ")

    def _on_hello(self, reply: Any) -> None:
        if isinstance(reply, ErrorReply):
            self._on_hello_refused(reply)
            return
        if not self._is_master(reply):
            return
        name, version = _word(reply, b"server"), _word(reply, b"version")
        self._server = f"{name.capitalize()} {version}"
        self._is_broker = name == "broker"
        if self._db:
            self._send(encode_command(b"SELECT", b"%d" % self._db), self._on_select)
        else:
            self._begin_histories()

    def _on_hello_refused(self, error: ErrorReply) -> None:
        if error.code == "NOPROTO" or _UNKNOWN_COMMAND.search(error.text):
            # Its text is not told: it repeats the arguments, thus the password.
            self._fail(
                "it does not speak RESP3 (it has no HELLO 3), which engines need: use "
                "Redis 6 or later, or Valkey, and no proxy that speaks only RESP2",
                permanent=True,
            )
        else:
            transient = "max number of clients" in error.text
            permanent = error.code in _PERMANENT or error.code == "ERR"
            self._fail(self._clean(error.text), permanent and not transient)

    def _is_master(self, reply: Any) -> bool:
        """Whether the server may be published to; otherwise it has failed."""
        if isinstance(reply, ErrorReply):
            self._fail_by(reply)
        elif not isinstance(reply, dict):
            self._fail(_unexpected(reply, "to HELLO"))
        elif _word(reply, b"mode") == "sentinel":
            self._fail(
                "it is a Sentinel, whose URL is redis+sentinel://…", permanent=True
            )
        elif _word(reply, b"role") not in ("master", "primary", ""):
            self._fail(f"it is no master but a {_word(reply, b'role')}")
        return not self._failed

    def _on_select(self, reply: Any) -> None:
        if isinstance(reply, ErrorReply):
            self._fail_by(reply, permanent=reply.code == "ERR")
        else:
            self._begin_histories()

    def _begin_histories(self) -> None:
        """Learn whether there can be histories; one that only publishes may not care,
        and loads the script with its first message to one."""
        self.keeps_history = True
        self._to_load = [] if self._is_broker else [APPEND, READ, REMOVE]
        if self._publish_only or self._is_broker:
            self._try_channels()
        else:
            self._load_scripts(self._try_channels)

    def _load_scripts(self, then: Callable[[], object] | None = None) -> None:
        scripts, self._to_load = self._to_load, []
        for script in scripts:
            last = then if script is scripts[-1] else None
            command = encode_command(b"SCRIPT", b"LOAD", script.source)
            self._send(command, partial(self._on_loaded, script, last))

    def _on_loaded(
        self, script: Script, then: Callable[[], object] | None, reply: Any
    ) -> None:
        """Without the scripts all goes on for topics that have no history."""
        if isinstance(reply, ErrorReply) and reply.code in _STATE:
            self._fail_by(reply)
            return
        if reply != script.digest:
            error = isinstance(reply, ErrorReply)
            why = self._clean(reply.text) if error else _unexpected(reply, "to it")
            self._no_history = f"histories need SCRIPT LOAD, which is refused: {why}"
            self.keeps_history = False
        if then is not None:
            then()

    def _try_channels(self) -> None:
        """Learn whether we may publish and subscribe, before others rely on it."""
        if self._publish_only:
            self._become_ready()
        else:
            self._channels.ask(b"SUBSCRIBE", [self._probe_channel])
            self._send_probe()

    def _become_ready(self) -> None:
        self._ready = True
        self._events.append(Ready(self._server))
        if self._rules and not self._is_broker:
            command = encode_command(b"SET", self._rules_key, self._rules)
            self._send(command, self._on_rules)
        self._channels.begin()
        self._send_changes()
        self._check_subscribed(initial=True)

    def _on_rules(self, reply: Any) -> None:
        """Without the right to it all goes on, for all but publishers."""
        if isinstance(reply, ErrorReply):
            reason = (
                "publishers cannot know which topics have a history: "
                + self._clean(reply.text)
            )
            self._events.append(Notice(self._rules_key.decode(), reason))

    # Pushes that are no messages

    def _on_push(self, item: Any) -> None:
        if len(item) != 3 or not isinstance(item[1], bytes):
            return  # of a kind that is none of ours, such as `invalidate`
        kind, key = item[0], item[1]
        answers = self._confirm(kind, key)
        if kind == b"subscribe" and answers:
            self._on_subscribed(key)
        elif kind == b"unsubscribe" and answers:
            self._channels.on_unsubscribed(key)
            self._send_changes()
        elif kind == b"unsubscribe":
            self._on_cut_off(key)

    def _confirm(self, kind: bytes, key: bytes) -> bool:
        """Whether it answers the oldest command."""
        change = self._pending[0] if self._pending else None
        if not isinstance(change, Change):
            return False
        answers = self._channels.confirm(change, kind, key)
        if change.is_done:
            self._pending.popleft()
        return answers

    def _on_subscribed(self, key: bytes) -> None:
        if not self._ready:
            return  # the channel of probes
        initial = self._channels.on_subscribed(key)
        self._send_changes()
        self._check_subscribed(initial)

    def _check_subscribed(self, initial: bool) -> None:
        if self._channels.are_complete(initial):
            self._events.append(Subscribed())

    def _on_cut_off(self, key: bytes) -> None:
        if self._channels.on_cut_off(key):
            self._send_changes()
        elif key == self._probe_channel:
            self._fail("it took the channel of our probes from us")

    # Liveness

    def _wait_anew(self, now: float) -> None:
        if self._probe_accepted is not None:
            self._probe_accepted = now
        if self._probe_unanswered:
            self._next_probe = max(self._next_probe, now + _PROBE_TIMEOUT)

    def _ask_for_life(self) -> None:
        self._send(_PING, self._on_pong)

    def _on_pong(self, reply: Any) -> None:
        """Any byte counts; what it says matters only where it is an error."""
        if isinstance(reply, ErrorReply):
            self._fail_by(reply)

    def _probe_deadline(self) -> float:
        if self._probe_accepted is None:
            return self._next_probe
        return min(self._next_probe, self._probe_accepted + _PROBE_TIMEOUT)

    def _check_probe(self, now: float) -> None:
        accepted = self._probe_accepted
        if accepted is not None and now >= accepted + _PROBE_TIMEOUT:
            self._fail(
                f"it is deaf: a message to ourselves did not come back in "
                f"{_PROBE_TIMEOUT:g} s"
            )
        else:
            super()._check_probe(now)

    def _send_probe(self) -> None:
        key, body = self._probe_channel, self._new_probe()
        self._send(_PUBLISH % (len(key), key, len(body), body), self._on_probe_accepted)
        if self._ready:
            # A master that became a replica still publishes, to its own subscribers.
            # HELLO tells the role as ROLE does, which few ACL users may call.
            self._send(_HELLO, self._is_master)

    def _on_probe_accepted(self, reply: Any) -> None:
        self._probe_unanswered = False
        if isinstance(reply, ErrorReply):
            self._fail_by(reply, "it lets us not publish: ")
        elif type(reply) is not int:
            self._fail(_unexpected(reply, "to PUBLISH"))
        else:
            if self._probe:  # Redis 7.2 and later push it after the reply
                self._probe_accepted = self._now
            if not self._ready:
                self._become_ready()

    def _on_probe(self, body: bytes) -> None:
        if body == self._probe:
            self._probe_accepted = None
        super()._on_probe(body)

    # The end

    def _fail_by(
        self, error: ErrorReply, before: str = "", permanent: bool = False
    ) -> None:
        permanent = permanent or error.code in _PERMANENT
        self._fail(before + self._clean(error.text), permanent)


def _word(reply: dict[Any, Any], key: bytes) -> str:
    value = reply.get(key)
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else ""
    return excerpt(text)


def _unexpected(reply: Any, where: str) -> str:
    kind = "an error" if isinstance(reply, ErrorReply) else f"a {type(reply).__name__}"
    return f"it answered with {kind} {where}"
