"""Sending to many clients, to a topic, or to an identity.

`Hub` is the sending side of a server. It has the open connections, their subscriptions
and identities; opening and closing them is left to `server`. `fan_out` puts messages
into the outboxes (`_fallback.connection`, in C `_c/fan_out.pxi`); the loop flushes
these at the end of its turn.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable
from copy import deepcopy
from functools import partial
from typing import TYPE_CHECKING, Any

from ..checks import optional, seconds, whole
from ..cluster.channels import Audience
from ..cluster.envelope import Content, JsonText
from ..cluster.since import ALL, Since, parse_since
from ..cluster.topic_rules import TopicRule, TopicRules, check_key
from ..connection.client import Client
from ..connection.topics import Group, Identities, Topics
from ..constants import Delivered, SendStatus
from ..loop.reactor import Reactor
from ..messages import encode_message
from ..speedups import fan_out, fan_out_latest, write_latest
from .conflation import Slot, Slots, Subject, subject_of
from .histories import Histories
from .joins import Join
from .presence import PresenceRun, checked_payload
from .publications import HistoryFuture
from .run import Run
from .state import ServerState, step

if TYPE_CHECKING:
    from .sharded_engine import AnyEngine

__all__ = ["Hub"]

logger = logging.getLogger("simple_ws")

#: Seconds between two log lines about dropped messages.
_BETWEEN_COMPLAINTS = 10.0


class Hub:
    """The open connections of a server, and how to reach them.

    Every method may be called from any thread.

    Attributes:
        clients: open connections of all handlers, the earliest first.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clients: Group[Client] = Group()
        self._topics: Topics[Client] = Topics()
        self._identities: Identities[Client] = Identities()
        self._topic_rules = TopicRules()
        # Of this run, if some topic has presence; and what clients say of themselves.
        self._presence: PresenceRun | None = None
        self._payloads: dict[Client, dict[str, Any]] = {}
        self._clock = clock
        self._histories = Histories(self, clock)
        self._slots = Slots()  # of the topics with `latest`
        # Clients that must authenticate and have not: only what is written to one of
        # them reaches it.
        self._strangers: set[Client] = set()
        # Middlewares see what is sent: any object may become a message on its way.
        self._filtered = False
        self._lost = 0
        self._complain_at = 0.0
        self._state = ServerState.NEW
        self._run: Run | None = None  # while it listens or runs
        self._engine: AnyEngine | None = None  # of this run

    def _move(self, to: ServerState) -> None:
        """Change the state of the server; see `life.STEPS`."""
        self._state = step(self._state, to)

    @property
    def reactor(self) -> Reactor:
        """The event loop; an inactive one while the server is stopped."""
        run = self._run
        return Reactor(clock=self._clock) if run is None else run.reactor

    # Sending

    def broadcast(
        self, msg: object, exclude: Collection[Client] = (), *, local: bool = False
    ) -> int:
        """Send a message to every client; return how many accepted it.

        A callback may return the result without sending a reply (`Delivered`); the same
        is true for `publish`, `deliver` and `send_to`.

        From a thread other than the loop's, the message is queued, and 0 is returned.
        With an engine it goes to the clients of all nodes: here it is sent when it
        comes back from the engine, and 0 is returned, too.

        Args:
            msg: str, bytes, dict …, as for `Client.write_message`; encoded once for
                all.
            exclude: clients that do not get the message.
            local: send it to the clients of this process alone.

        Raises:
            TypeError: The message has a type that `Client.write_message` does not take,
                or `exclude` is not a collection of clients.
            ValueError: Text is not valid Unicode, or JSON cannot represent the message.
            Exception: The first exception of a middleware's `on_send`, raised after the
                message was sent to all other clients.
        """
        return self._send_to(Audience.EVERYBODY, None, msg, exclude, local)

    def publish(
        self,
        topic: str,
        msg: object,
        exclude: Collection[Client] = (),
        *,
        local: bool = False,
        key: str | None = None,
    ) -> int:
        """Send a message to all subscribers of a topic; return how many accepted it.

        Args:
            topic: any name, even one without subscribers.
            msg: as for `broadcast`, also for the result and the errors raised; it must
                be one that `Client.write_message` takes where the topic has a history.
            exclude: clients that do not get the message, unless they join later with
                `since`.
            local: send it to subscribers of this process alone, and do not keep it in
                the history of the topic.
            key: for a topic with history: if it has a message with this key, nothing is
                published. Such as the number that a browser gives to a message that it
                may send again.

        Returns:
            How many accepted it; with an engine 0, or False where the topic has a
            history, and too much waits for the engine or the server does not run: then
            the message is lost.

        Raises:
            TypeError: The topic is not a str, or the key neither str nor None; or the
                rule of the topic has a function as `latest`, and what it returned is
                not hashable.
            ValueError: There is a key, and the topic has no history; or it is empty, or
                longer than 256 characters.
            Exception: What that function raised; nothing was sent then.
        """
        _check_topic(topic)
        rule = self._topic_rules.find(topic) if self._topic_rules else None
        kept = rule is not None and rule.history > 0
        if key is not None:
            check_key(key, topic, kept)
        # Here, with what is published, in any thread: the user's error is raised.
        subject = None if rule is None else subject_of(rule, topic, msg)
        if rule is None or not kept or local:
            return self._send_to(Audience.TOPIC, topic, msg, exclude, local, subject)
        left_out = _clients_in(exclude)
        reactor = self._other_loop()
        publish = self._histories.publish
        if reactor is None:
            return publish(topic, rule, msg, left_out, key, subject)
        self._queue(
            reactor,
            msg,
            lambda given: publish(topic, rule, given, left_out, key, subject),
            anything=False,
        )
        return Delivered(0)

    def history(
        self,
        topic: str,
        since: Any = None,
        limit: int | None = None,
        timeout: float = 5.0,
    ) -> HistoryFuture:
        """The messages in the history of a topic, the oldest first.

        Args:
            topic: one with history, see `topic`.
            since: as for `Client.subscribe`; None is all of them.
            limit: at most so many: the first ones after a position, otherwise the
                newest.
            timeout: seconds that the engine has, if there is one.

        Returns:
            A future of a list of `Publication` (`position` and `msg`), which is also a
            sequence of them once it is done; without an engine it is done at once.

        Raises:
            TypeError, ValueError: The topic is not a str or has no history, or another
                argument has a value that is not allowed.
        """
        _check_topic(topic)
        limit = optional(whole(1, "messages"))("limit", limit)
        timeout = seconds("timeout", timeout)
        rule = self._topic_rules.find(topic) if self._topic_rules else None
        if rule is None or not rule.history:
            raise ValueError(f"the topic {topic!r} has no history, see Server.topic")
        begin = ALL if since is None else parse_since(since)
        future, histories = HistoryFuture(self._in_loop), self._histories
        read = partial(histories.read, future, topic, rule, begin, limit, timeout)
        reactor = self._other_loop()
        if reactor is None:
            read()
        else:
            histories.read_soon(reactor, future, read)
        return future

    def deliver(self, topic: str, msg: object) -> Client | None:
        """Send a message to one subscriber of a topic: the first that accepts it.

        Subscribers are tried by priority, the highest first; among equals the latest is
        tried first. A subscriber that is closing or whose buffer is full is skipped.
        Only subscribers of this process are tried, even with an engine.

        Args:
            topic: any name.
            msg: as for `broadcast`, also for the errors raised.

        Returns:
            The client that accepted it, or None; None from a thread other than the
            loop's, where the message is queued.

        Raises:
            TypeError: The topic is not a str.
        """
        _check_topic(topic)
        reactor = self._other_loop()
        if reactor is not None:
            send = partial(self.deliver, topic)
            self._queue(reactor, msg, send, anything=self._filtered)
            return None
        ranked = self._topics.by_priority(topic)
        for client in ranked:
            if client not in self._strangers and client.write_message(msg):
                return client
        if not ranked and not self._filtered:
            encode_message(msg, None)  # raises for a wrong one, without subscribers too
        return None

    def send_to(self, client_id: Any, msg: object, *, local: bool = False) -> int:
        """Send a message to all connections of an identity; return how many took it.

        Args:
            client_id: as given to `bind`; it does not need to be online.
            msg: as for `broadcast`, also for the result and the errors raised.
            local: send it to connections of this process alone.

        Raises:
            TypeError: The identity is not hashable; or there is an engine, and it is
                neither str, int, bytes nor UUID.
        """
        _check_identity(client_id)
        return self._send_to(Audience.IDENTITY, client_id, msg, (), local)

    def _send_to(
        self,
        audience: Audience,
        value: Any,
        msg: object,
        exclude: Collection[Client],
        local: bool,
        subject: Subject | None = None,
    ) -> int:
        left_out = _clients_in(exclude)
        engine = None if local else self._engine
        send: Callable[[object], int | None]
        if engine is None:
            send = lambda given: self._send_here(  # noqa: E731
                self._receivers(audience, value), given, left_out, subject
            )
        else:
            channel = engine.channels.name(audience, value)
            send = lambda given: engine.publish(channel, given, left_out)  # noqa: E731
        reactor = self._other_loop()
        if reactor is None:
            return Delivered(send(msg) or 0)
        self._queue(reactor, msg, send, anything=self._filtered and engine is None)
        return Delivered(0)

    def _receivers(self, audience: Audience, value: Any) -> Iterable[Client]:
        """The connections of this process that listen to something."""
        if audience is Audience.TOPIC or audience is Audience.KEPT:
            return self._topics.members(value)
        if audience is Audience.IDENTITY:
            return self._identities.members(value)
        return self.clients

    def _send_here(
        self,
        receivers: Iterable[Client],
        msg: object,
        exclude: Collection[Client],
        subject: Subject | None = None,
    ) -> int:
        """Send a message to connections of this process."""
        if self._strangers:
            exclude = self._strangers.union(exclude)
        slot = None if subject is None else self._slots.get(subject)
        if self._filtered:
            return _send_to_each(receivers, msg, exclude, slot)
        if slot is None:
            return fan_out(receivers, msg, exclude)
        return fan_out_latest(receivers, msg, exclude, slot)

    def _queue(
        self,
        reactor: Reactor,
        msg: object,
        send: Callable[[object], object],
        anything: bool,
    ) -> None:
        """Send a message from the loop's thread, with its present content."""
        frozen, size = _frozen(msg, anything)
        if not reactor.reserve(size):
            self._note_lost()
            return

        def send_queued() -> None:
            reactor.release(size)
            send(frozen)

        reactor.call_threadsafe(send_queued)

    def _note_lost(self) -> None:
        """A message found no room in the queue; one log line for many of them."""
        self._lost += 1
        now = time.monotonic()
        if now >= self._complain_at:
            self._complain_at = now + _BETWEEN_COMPLAINTS
            lost, self._lost = self._lost, 0
            logger.warning(
                "%d messages from other threads were dropped: the loop is behind", lost
            )

    # Topics and identities

    def subscribe(
        self, topic: str, client: Client, priority: float = 0, since: Any = None
    ) -> bool:
        """Subscribe a client to a topic until its connection ends.

        Args:
            topic: any name.
            client: the client to subscribe; subscribing again makes it the latest, with
                the new priority.
            priority: `deliver` chooses the subscriber with the highest.
            since: see `Client.subscribe`.

        Returns:
            False if the topic has `max_subscribers`, or the connection has ended; True
            from a thread other than the loop's, where the call is queued.

        Raises:
            TypeError: The topic is not a str, the client not a `Client`, or the
                priority not a number.
            ValueError: The client belongs to another server, or the priority is NaN.
        """
        _check_topic(topic)
        self._check_client(client)
        if isinstance(priority, bool) or not isinstance(priority, int | float):
            raise TypeError(f"priority must be a number, not {priority!r}")
        if priority != priority:  # not to be compared with others
            raise ValueError(f"priority must be a number, not {priority!r}")
        begin = parse_since(since)
        reactor = self._other_loop()
        if reactor is None:
            return self._subscribe(topic, client, priority, begin)
        reactor.call_threadsafe(
            partial(self._subscribe, topic, client, priority, begin)
        )
        return True

    def unsubscribe(self, topic: str, client: Client) -> None:
        """Unsubscribe a client from a topic; does nothing if it is not subscribed.

        Raises:
            TypeError: The topic is not a str, or the client not a `Client`.
            ValueError: The client belongs to another server.
        """
        _check_topic(topic)
        self._check_client(client)
        self._on_loop(self._unsubscribe, topic, client)

    def count(self, topic: str) -> int:
        """The number of subscribers of a topic."""
        _check_topic(topic)
        return len(self._topics.members(topic))

    def members(self, topic: str) -> list[Client]:
        """The subscribers of a topic, the earliest first."""
        _check_topic(topic)
        return list(self._topics.members(topic))

    def bind(self, client: Client, client_id: Any) -> None:
        """Bind a connection to an identity until it ends; replaces an earlier identity.

        Args:
            client: the client to bind; ignored if its connection has ended.
            client_id: anything hashable; one identity can have several connections.
                None removes the identity of the client.

        Raises:
            TypeError: `client` is not a `Client`, or `client_id` is not hashable; or
                there is an engine, and it is neither str, int, bytes nor UUID.
            ValueError: The client belongs to another server.
        """
        self._check_client(client)
        _check_identity(client_id)
        if self._engine is not None and client_id is not None:
            self._engine.channels.identity(client_id)  # raises for a wrong one
        self._on_loop(self._bind, client, client_id)

    def is_online(self, client_id: Any) -> bool:
        """Whether an identity has a connection that has not ended.

        Raises:
            TypeError: The identity is not hashable.
        """
        _check_identity(client_id)
        return bool(self._identities.members(client_id))

    def online(self) -> list[Any]:
        """Every identity with a connection that has not ended, the earliest first."""
        return self._identities.online()

    def _subscribe(
        self, topic: str, client: Client, priority: float, since: Since
    ) -> bool:
        if client not in self.clients or not client.is_open():
            return False
        rule = self._topic_rules.find(topic) if self._topic_rules else None
        known = topic in (client._topics or ())
        if rule is not None and not known and self._is_full(topic, rule):
            return False
        if self._engine is not None and not known:
            self._engine.listen(self._channel(topic, rule))
        client._note_topic(topic, True)
        if rule is not None and rule.presence and not known and self._presence:
            self._presence.enter(topic, client)
        if rule is not None and rule.history:
            self._topics.unsubscribe(topic, client)
            self._histories.join(topic, rule, client, priority, since)
            return True
        self._add_subscriber(topic, client, priority)
        if since is not None:
            nothing = Join("", 0, None)
            client._call(client._handler.on_join, client, topic, nothing)
        return True

    def _is_full(self, topic: str, rule: TopicRule) -> bool:
        most = rule.max_subscribers
        if most is None:
            return False
        joining = self._histories.joins.count(topic)
        return len(self._topics.members(topic)) + joining >= most

    def _channel(self, topic: str, rule: TopicRule | None) -> str:
        """The channel of a topic in the engine."""
        assert self._engine is not None
        kept = rule is not None and rule.history > 0
        audience = Audience.KEPT if kept else Audience.TOPIC
        return self._engine.channels.name(audience, topic)

    def _add_subscriber(self, topic: str, client: Client, priority: float) -> None:
        self._topics.subscribe(topic, client, priority)

    def _unsubscribe(self, topic: str, client: Client) -> None:
        if topic not in (client._topics or ()):
            return
        if self._engine is not None:
            rule = self._topic_rules.find(topic) if self._topic_rules else None
            self._engine.leave(self._channel(topic, rule))
        self._histories.joins.cancel(topic, client)
        self._topics.unsubscribe(topic, client)
        if self._presence is not None:
            self._presence.leave(topic, client)
        client._note_topic(topic, False)

    def _bind(self, client: Client, client_id: Any) -> None:
        bound = client in self._identities.members(client_id)
        if client in self.clients and client.is_open() and not bound:
            self._unbind(client)
            client._note_identity(client_id)
            if client_id is not None:
                if self._engine is not None:
                    self._engine.listen(self._engine.channels.identity(client_id))
                self._identities.bind(client_id, client)
                self._strangers.discard(client)
                self._histories.joins.resume(client)
            elif client._handler._closed_to_strangers:
                self._strangers.add(client)
            if self._presence is not None:
                self._presence.rebind(client)

    def _set_payload(self, client: Client, payload: dict[str, Any] | None) -> None:
        if payload is None:
            self._payloads.pop(client, None)
        elif client in self.clients:
            self._payloads[client] = payload
        if self._presence is not None:
            self._presence.update(client)

    def _unbind(self, client: Client) -> None:
        identity = client._client_id
        if identity is None:
            return
        if self._engine is not None and client in self._identities.members(identity):
            self._engine.leave(self._engine.channels.identity(identity))
        self._identities.unbind(identity, client)

    # Called by connections

    @property
    def _members_here(self) -> int:
        """Members of topics with presence that are here."""
        presence = self._presence
        return 0 if presence is None else presence.members

    def _payload_of(self, client: Client) -> dict[str, Any] | None:
        """What a client says of itself."""
        return self._payloads.get(client)

    def _say_payload(self, client: Client, payload: object) -> None:
        """A client says something of itself; see `Client.present_as`."""
        self._on_loop(self._set_payload, client, checked_payload(payload))

    def _add_client(self, client: Client) -> None:
        """A connection opened."""
        if client._handler._closed_to_strangers:
            self._strangers.add(client)
        self.clients.add(client)
        client._handler.clients.add(client)

    def _remove_client(self, client: Client) -> None:
        """A connection ended."""
        for topic in tuple(client._topics or ()):
            self._unsubscribe(topic, client)
        self._unbind(client)
        self._payloads.pop(client, None)
        self._strangers.discard(client)
        self.clients.discard(client)
        client._handler.clients.discard(client)

    def _note_drained(self, client: Client) -> None:
        """A connection has taken all its output."""
        self._histories.joins.resume(client)

    # For topics with history

    @property
    def _lacks_engine(self) -> bool:
        """Whether it does not run, and its histories are not in this process."""
        return False

    def _send_kept(
        self,
        topic: str,
        content: Content,
        exclude: Collection[Client],
        subject: Subject | None,
    ) -> int:
        """Send a message to the subscribers of a topic."""
        members = self._topics.members(topic)
        return self._send_here(members, self._sendable(content), exclude, subject)

    def _send_content(self, client: Client, content: Content) -> SendStatus:
        """Send one client a message of a history; a failure is only logged."""
        try:
            return client.write_message(self._sendable(content))
        except Exception as error:
            client._calls.on_error(client, error)
            return SendStatus.DROPPED

    def _sendable(self, content: Content) -> object:
        if type(content) is not JsonText:
            return content
        return json.loads(content) if self._filtered else str(content)

    def _check_client(self, client: object) -> None:
        if not isinstance(client, Client):
            raise TypeError(f"client must be a Client, not {client!r}")
        host: object = client._host
        if host is not self:
            raise ValueError(f"client {client!r} belongs to another server")

    def _on_loop(self, function: Callable[..., object], *args: object) -> None:
        reactor = self._other_loop()
        if reactor is None:
            function(*args)
        else:
            reactor.call_threadsafe(partial(function, *args))

    def _in_loop(self) -> bool:
        """Whether the caller is the thread of a loop that runs."""
        return self._run is not None and self._other_loop() is None

    def _other_loop(self) -> Reactor | None:
        """The loop that a call must be queued for; None where it may act directly."""
        # While the server is stopped or closing, no loop would run the call.
        run = self._run
        if run is None or self._state is ServerState.CLOSING:
            return None
        reactor = run.reactor
        return reactor if threading.get_ident() != reactor.owner else None


def _send_to_each(
    clients: Iterable[Client],
    msg: object,
    exclude: Collection[Client],
    slot: Slot | None,
) -> int:
    """Like `fan_out` and `fan_out_latest`, where middlewares may look at each message
    to each client.

    A failure for one client does not keep the message from the others; the first is
    raised at the end.
    """
    taken, failure = 0, None
    for client in clients:
        if client not in exclude:
            try:
                if slot is None:
                    taken += bool(client.write_message(msg))
                else:
                    taken += write_latest(client, msg, slot)
            except Exception as error:
                failure = failure or error
    if failure is not None:
        raise failure
    return taken


def _frozen(msg: object, filtered: bool) -> tuple[object, int]:
    """Copy a message, since its owner may change it before it is sent; with its size.

    Raises now what sending it would raise.
    """
    try:
        _, payload = encode_message(msg, None)
    except (TypeError, ValueError):
        if filtered:
            return deepcopy(msg), 0
        raise
    if isinstance(msg, dict | list):
        return deepcopy(msg), len(payload)
    return (msg if isinstance(msg, str) else payload), len(payload)


def _clients_in(exclude: object) -> Collection[Client]:
    """The excluded clients, as a collection that does not change."""
    if exclude is None or exclude == ():
        return ()
    try:
        clients: frozenset[Any] = frozenset(exclude)  # type: ignore[call-overload]
    except TypeError:
        clients = frozenset((None,))
    if not all(isinstance(client, Client) for client in clients):
        raise TypeError(f"exclude must be a collection of clients, not {exclude!r}")
    return clients


def _check_identity(client_id: object) -> None:
    try:
        hash(client_id)
    except TypeError:
        raise TypeError(f"client_id must be hashable, not {client_id!r}") from None


def _check_topic(topic: object) -> None:
    if not isinstance(topic, str):
        raise TypeError(f"topic must be a str, not {topic!r}")
