"""`EngineHost`: what a run of a server has of its engine.

It joins the three parts: the hub, which knows who listens here; the node, which keeps
order and numbers; the link, which moves bytes. Without an engine there is none.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict
from typing import Any, Protocol

from ..cluster.attempt import start_thread
from ..cluster.channels import Audience, Channels
from ..cluster.content import (
    Content,
    JsonText,
    Kind,
    WithHeaders,
    decode_body,
    encode_body,
)
from ..cluster.counts import NodeCounts
from ..cluster.engines import EngineSetup
from ..cluster.history import Retention
from ..cluster.lease import Lease
from ..cluster.link import CONNECT_REASONS, Link
from ..cluster.node import EngineState, Message, Node
from ..cluster.position import Position
from ..cluster.redis_engine import RedisEngine
from ..cluster.replica import Replica
from ..cluster.thread_engine import ThreadEngine
from ..cluster.topic_rules import TopicRules
from ..connection.client import Client
from ..loop.reactor import Reactor
from ..text import excerpt
from .conflation import Subject, subject_of
from .feeds import Feeds
from .tell import Telling, tell

__all__ = ["EngineHost", "EngineUser"]

logger = logging.getLogger("simple_ws")

#: Audiences that are a topic.
_TOPICS = (Audience.TOPIC, Audience.KEPT)


class EngineUser(Telling, Protocol):
    """What it needs of its server."""

    #: Middlewares see what is sent: they get JSON as what it stands for.
    _filtered: bool
    _topic_rules: TopicRules
    #: Subscribers who get messages in a form of their own.
    _feeds: Feeds | None
    _engine_listeners: list[Callable[[EngineState], Any]]

    def _wants_lease(self) -> bool:
        """Whether this process would make the calls that one node alone makes."""

    def _receivers(self, audience: Audience, value: Any) -> Iterable[Client]:
        """Those of this process who listen to a channel."""

    def _send_kept(
        self,
        topic: str,
        content: Content,
        exclude: Collection[Client],
        subject: Subject | None,
    ) -> int:
        """Send a message to subscribers of this process of a topic with history."""

    def _send_local(
        self,
        audience: Audience,
        value: Any,
        msg: object,
        exclude: Collection[Client],
        subject: Subject | None,
    ) -> int:
        """Send a message to those of this process who listen to a channel."""


class InternalListener(Protocol):
    """Who hears what nodes say to each other."""

    def on_engine(self, up: bool) -> None:
        """The engine has come, or has gone."""

    def on_internal(self, sender: str, channel: str, body: bytes) -> None:
        """A node has said something."""

    def stats(self) -> dict[str, Any]:
        """What it adds to the entry `engine` of `Server.stats`."""


class EngineHost:
    """The engine of one run, see `node.NodeHost`.

    Args:
        setup: the engine, and how to connect to it.
        reactor: of the run.
        user: the server.
        group: the same in all workers of a supervisor; "" without workers.

    Attributes:
        channels: the names that are used in the engine.
    """

    def __init__(
        self, setup: EngineSetup, reactor: Reactor, user: EngineUser, group: str = ""
    ) -> None:
        self.channels = Channels(setup.prefix)
        self._reactor = reactor
        self._user = user
        self._awaited: list[Callable[[], object]] = []  # see `when_up`
        self._engine, self._broker = setup.engine, setup.broker
        self._node = Node(setup.engine, self, secret=setup.secret)
        self._link = self._make_link(setup)
        self._node.interest.add(self.channels.all)
        self._ask = setup.ask
        self._lease: Lease | None = None
        if setup.ask is not None:
            self._lease = Lease(self, setup.prefix, group or self.id)
        self._internal: InternalListener | None = None

    def _make_link(self, setup: EngineSetup) -> Link | ThreadEngine:
        engine, node = setup.engine, self._node
        if isinstance(engine, ThreadEngine):
            return engine.connect(node.on_event, node.on_link)
        return Link(
            self._reactor,
            engine,
            setup.connect,
            on_event=node.on_event,
            on_state=node.on_link,
            name=setup.name,
            run_in_thread=start_thread if setup.broker is None else _call,
        )

    @property
    def id(self) -> str:
        """The id of this node."""
        return self._node.id

    @property
    def state(self) -> EngineState:
        """Whether the engine is there."""
        return self._node.state

    @property
    def leads(self) -> bool:
        """Whether this node makes the calls that one node alone makes."""
        return self._lease is None or self._lease.is_held

    @property
    def counts(self) -> NodeCounts:
        """What went through it, and what did not."""
        return self._node.counts

    def stats(self) -> dict[str, Any]:
        """The entry `engine` of `Server.stats`. From any thread."""
        state, link = self.state, self._link
        return {
            "up": int(state.up),
            "reason": state.reason,
            "server": state.server,
            "rtt": self._engine.round_trip if state.up else None,
            **asdict(self.counts),
            "connects": dict.fromkeys(CONNECT_REASONS, 0) | link.connects,
            "bytes_received": link.bytes_received,
            "bytes_sent": link.bytes_sent,
            "buffered": link.waiting,
            "channels": self._engine.channels,
            **({} if self._internal is None else self._internal.stats()),
        }

    def begin(self) -> None:
        """Connect, now and whenever the connection is lost."""
        self._link.start()

    def when_up(self, callback: Callable[[], object]) -> None:
        """Call a function once the engine is up, now if it is."""
        if self.state.up:
            callback()
        else:
            self._awaited.append(callback)

    def end(self) -> None:
        """Send what waits if the system takes it, and close the connection."""
        if self._lease is not None:
            self._lease.end()
        self._link.stop()
        self._node.end()
        if self._broker is not None:
            self._broker.close()

    def forget(self) -> None:
        """Close a forked process's copy of the connection."""
        self._link.forget()
        if self._broker is not None:
            self._broker.forget()

    # For the hub

    def publish(self, channel: str, msg: object, exclude: Collection[Client]) -> None:
        """Publish a message.

        Raises:
            TypeError, ValueError: See `envelope.encode_body`.
        """
        kind, body = encode_body(msg)
        if exclude and isinstance(self._engine, ThreadEngine):
            with self._engine.excluding(exclude):
                self._node.publish(channel, kind, body, exclude)
        else:
            self._node.publish(channel, kind, body, exclude)

    def listen(self, channel: str) -> None:
        """Somebody here listens to a channel."""
        self._node.interest.add(channel)

    def leave(self, channel: str) -> None:
        """Somebody listens to it no more."""
        self._node.interest.remove(channel)

    # For what nodes say to each other

    def listen_internal(self, listener: InternalListener) -> None:
        """Have somebody hear what is said to all nodes, and to this one."""
        self._internal = listener
        self._node.internal.add(self.channels.nodes)
        self._node.internal.add(self.channels.node(self.id))

    def send_internal(self, audience: Audience, value: Any, body: bytes) -> bool:
        """Send something to other nodes; return False if the engine is not there."""
        return self._node.send(self.channels.name(audience, value), body)

    # For topics with history

    def append(
        self,
        topic: str,
        retention: Retention,
        msg: object,
        exclude: Collection[Client],
        key: str | None,
        done: Callable[[Position | None], object] | None = None,
    ) -> bool:
        """Publish a message to a topic with history; see `kept.Kept.append`."""
        kind, body = encode_body(msg)
        append, channel = self._node.kept.append, self.channels.kept(topic)
        return append(channel, kind, body, exclude, key, retention, done)

    def replica(self, topic: str, retention: Retention) -> Replica:
        """The copy of a topic that is listened to."""
        return self._node.kept.open(self.channels.kept(topic), retention)

    def remove(self, topic: str, done: Callable[[int | None], object]) -> None:
        """Remove the messages of a topic with history; see `Histories.remove`."""
        engine = self._engine
        if not isinstance(engine, RedisEngine | ThreadEngine) or not self.state.up:
            done(None)
            return
        engine.remove(self.channels.kept(topic), done)
        self.flush_engine()

    def forget_messages(self, topic: str, offset: int) -> None:
        """Drop the copies of messages that were removed."""
        self._node.kept.forget(self.channels.kept(topic), offset)

    def expire(self) -> None:
        """Free the memory of messages that are too old."""
        self._node.kept.expire()

    # For the lease

    def wants_lease(self) -> bool:
        """See `LeaseHost`; likewise below."""
        return self._user._wants_lease()

    def ask_engine(
        self, answer: Callable[[Any], object], command: tuple[bytes, ...]
    ) -> bool:
        """Send a command to Redis; False if it is not there."""
        if self._ask is None or not self.state.up:
            return False
        self._ask(answer, *command)
        self.flush_engine()
        return True

    def watch_presence(self, topic: str, wanted: bool) -> None:
        """Hear what is said of who is present in a topic, or hear it no more."""
        channels = self._node.internal
        change = channels.add if wanted else channels.remove
        change(self.channels.presence(topic))

    # For the node

    def clock(self) -> float:
        """See `NodeHost`; likewise below."""
        return self._reactor.clock()

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Call it in this turn of the loop or the next."""
        self._reactor.call_soon(callback)

    def call_later(self, delay: float, callback: Callable[[], object]) -> None:
        """Call it in so many seconds."""
        self._reactor.call_later(delay, callback)

    def flush_engine(self) -> None:
        """The engine has output."""
        self._link.flush_soon()

    def give_up_engine(self, reason: str) -> None:
        """Close the connection to the engine, and connect again later."""
        self._link.give_up(reason)

    def deliver(self, message: Message) -> None:
        """Send a message to those who listen here."""
        channel = self.channels.parse(message.channel)
        if channel is None:
            return
        user = self._user
        msg: object = message.body
        try:
            if message.kind is Kind.HEADERS:
                msg = decode_body(message.kind, message.body)
            elif message.kind is not Kind.BINARY:
                msg = message.body.decode()
                if message.kind is Kind.JSON and user._filtered:
                    msg = json.loads(msg)
                elif message.kind is Kind.JSON and user._feeds is not None:
                    msg = JsonText(msg)  # it is sent in another form, too
            subject = None
            if channel.audience is Audience.TOPIC:
                is_json = message.kind is Kind.JSON and isinstance(msg, str)
                subject = self._subject(channel.value, msg, is_json)
            user._send_local(*channel, msg, message.exclude, subject)
        except Exception as error:
            self._note_unsent(message.channel, error)

    def deliver_kept(
        self, channel: str, content: Content, exclude: Collection[Client]
    ) -> None:
        """Send a message of a topic with history to those who are in step."""
        meant = self.channels.parse(channel)
        if meant is None:
            return
        try:
            subject = self._subject(meant.value, content, type(content) is JsonText)
            self._user._send_kept(meant.value, content, exclude, subject)
        except Exception as error:
            self._note_unsent(channel, error)

    def _subject(self, topic: str, msg: Any, is_json: bool) -> Subject | None:
        """What a message is about. Its publisher may know nothing of our rules: it is
        sent all the same if their function fails."""
        rules = self._user._topic_rules
        rule = rules.find(topic) if rules else None
        if rule is None or not rule.latest:
            return None
        if type(msg) is WithHeaders:
            msg = msg.msg
            is_json = type(msg) is JsonText
        try:
            if is_json and rule.latest is not True:
                msg = json.loads(msg)
            return subject_of(rule, topic, msg)
        except Exception as error:
            self._user._log.note_failure(
                "keys of messages failed",
                "latest of a message of topic %s failed",
                excerpt(repr(topic)),
                error=error,
            )
            return None

    def _note_unsent(self, channel: str, error: Exception) -> None:
        self._user._log.note_failure(
            "messages of the engine failed",
            "a message of channel %s could not be sent",
            excerpt(repr(channel)),
            error=error,
        )

    def deliver_internal(self, publisher: str, channel: str, body: bytes) -> None:
        """A node has said something to others."""
        if self._internal is not None:
            self._internal.on_internal(publisher, channel, body)

    def note_gap(self, channel: str, missing: int | None) -> bool:
        """So many messages never came here."""
        meant = self.channels.parse(channel)
        if meant is None:
            return False
        topic = meant.value if meant.audience in _TOPICS else None
        receivers = self._user._receivers(*meant)
        handlers = dict.fromkeys(client._handler for client in receivers)
        for handler in handlers:
            owner = f"{handler._log_name}."
            tell(self._user, "engine", owner, handler.on_gap, topic, missing)
        return bool(handlers)

    def note_engine(self, state: EngineState) -> None:
        """The engine has come, or has gone."""
        if self._internal is not None:
            self._internal.on_engine(state.up)
        for listener in list(self._user._engine_listeners):
            tell(self._user, "engine", "", listener, state)
        if state.up:
            if self._lease is not None:
                self._lease.begin()
            awaited, self._awaited = self._awaited, []
            for callback in awaited:
                callback()

    def note_internal_invalid(self, sender: str, why: str) -> None:
        """Another node has said something malformed."""
        self.counts.invalid += 1
        self.note_invalid(f"of the node {sender}", why)

    def note_invalid(self, channel: str, why: str) -> None:
        """Something else than our messages came on a channel."""
        if self._user._log.may_say("engine", logging.WARNING):
            # Topics may be a stranger's, and as long as a message.
            logger.warning("engine, channel %s: %s", excerpt(repr(channel)), why)


def _call(function: Callable[[], object]) -> None:
    function()
