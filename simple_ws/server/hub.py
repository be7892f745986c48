"""Sending to many clients, to a topic, or to an identity.

`Hub` is the sending side of a server; who receives is known by `membership`. `fan_out`
puts messages into the outboxes (`_fallback.fan_out`, in C `_c/fan_out.pxi`); the loop
flushes these at the end of its turn.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Collection, Iterable
from copy import deepcopy
from functools import partial
from typing import Any

from ..checks import optional, seconds, whole
from ..cluster.channels import Audience
from ..cluster.content import Content, JsonText, WithHeaders, bare
from ..cluster.position import Position
from ..cluster.since import ALL, parse_since
from ..cluster.topic_rules import check_key
from ..connection.client import Client
from ..constants import Delivered, SendStatus
from ..loop.reactor import Reactor
from ..messages import encode_message
from ..speedups import fan_out, fan_out_latest, json_text, write_latest
from .conflation import Slot, Slots, Subject, subject_of
from .histories import Histories
from .membership import Membership, check_identity, check_topic
from .publications import HistoryFuture

__all__ = ["Hub"]

logger = logging.getLogger("simple_ws")

#: Seconds between two log lines about dropped messages.
_BETWEEN_COMPLAINTS = 10.0


class Hub(Membership):
    """The sending side of a server.

    Every method may be called from any thread.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._histories = Histories(self, clock)
        self._slots = Slots()  # of the topics with `latest`
        # Middlewares see what is sent: any object may become a message on its way.
        self._filtered = False
        self._lost = 0
        self._complain_at = 0.0

    # Sending

    def _broadcast(self, msg: object, exclude: Collection[Client], local: bool) -> int:
        """See `broadcast`."""
        taken = self._send_to(Audience.EVERYBODY, None, msg, exclude, local)
        if self._engine is None and not (self._filtered or self._strangers):
            self._remember(None, self.clients.listed())
        return taken

    def _publish(
        self,
        topic: str,
        msg: object,
        exclude: Collection[Client],
        local: bool,
        key: str | None,
    ) -> int:
        """See `publish`."""
        check_topic(topic)
        rule = self._topic_rules.find(topic) if self._topic_rules else None
        kept = rule is not None and rule.history > 0
        if key is not None:
            check_key(key, topic, kept)
        # Here, with what is published, in any thread: the user's error is raised.
        subject = None if rule is None else subject_of(rule, topic, msg)
        if rule is None or not kept or local:
            taken = self._send_to(Audience.TOPIC, topic, msg, exclude, local, subject)
            if rule is None:
                self._remember_plain(topic)
            return taken
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

    def _remember_plain(self, topic: str) -> None:
        """Let the core publish to a topic without a rule, where it may."""
        if self._engine is not None or self._filtered or self._strangers:
            return
        if not self._feeds or topic not in self._feeds:
            self._remember(topic, self._topics.members(topic).listed())

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
        check_topic(topic)
        limit = optional(whole(1, "messages"))("limit", limit)
        timeout = seconds("timeout", timeout)
        rule = self._topic_rules.find(topic) if self._topic_rules else None
        if rule is None or not rule.history:
            raise ValueError(f"the topic {topic!r} has no history, see Server.topic")
        begin = ALL if since is None else parse_since(since)
        future, histories = HistoryFuture(self._in_loop), self._histories
        take = partial(histories.publications, begin, limit)
        read = partial(histories.read, future, topic, rule, begin, timeout, take)
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
        Clients of `live` have no priority: they are tried last, and get a publication
        that is not in the history of the topic. Only subscribers of this process are
        tried, even with an engine.

        Args:
            topic: any name.
            msg: as for `broadcast`, also for the errors raised.

        Returns:
            The client that accepted it, or None; None from a thread other than the
            loop's, where the message is queued.

        Raises:
            TypeError: The topic is not a str.
        """
        check_topic(topic)
        reactor = self._other_loop()
        if reactor is not None:
            send = partial(self.deliver, topic)
            self._queue(reactor, msg, send, anything=self._filtered)
            return None
        ranked = self._topics.by_priority(topic)
        for client in ranked:
            if client not in self._strangers and client.write_message(msg):
                return client
        feeds = self._feeds
        if feeds and topic in feeds:
            return feeds.deliver(topic, msg, self._strangers)
        if not ranked and not self._filtered:
            encode_message(msg, None)  # raises for a wrong one, without subscribers too
        return None

    def _send_to_identity(self, client_id: Any, msg: object, local: bool) -> int:
        """See `send_to`."""
        check_identity(client_id)
        taken = self._send_to(Audience.IDENTITY, client_id, msg, (), local)
        if self._engine is None and not (self._filtered or self._strangers):
            members = self._identities.members(client_id).listed()
            self._remember_identity(client_id, members)
        return taken

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
        engine, reactor = None if local else self._engine, self._other_loop()
        if engine is None:
            if reactor is None:
                return Delivered(
                    self._send_local(audience, value, msg, left_out, subject)
                )
            send: Callable[[object], object] = lambda given: self._send_local(  # noqa: E731
                audience, value, given, left_out, subject
            )
        else:
            channel = engine.channels.name(audience, value)
            if reactor is None:
                return Delivered(engine.publish(channel, msg, left_out) or 0)
            send = lambda given: engine.publish(channel, given, left_out)  # noqa: E731
        self._queue(reactor, msg, send, anything=self._filtered and engine is None)
        return Delivered(0)

    def _send_local(
        self,
        audience: Audience,
        value: Any,
        msg: object,
        exclude: Collection[Client],
        subject: Subject | None = None,
    ) -> int:
        """Send a message to those of this process who listen to something."""
        if audience is Audience.TOPIC:
            return self._send_topic(value, msg, exclude, subject, 0)
        return self._send_here(self._receivers(audience, value), msg, exclude, subject)

    def _send_topic(
        self,
        topic: str,
        msg: object,
        exclude: Collection[Client],
        subject: Subject | None,
        offset: int,
    ) -> int:
        """Send a message to the subscribers of this process of a topic."""
        feeds, given = self._feeds, self._sendable(msg)
        members = self._topics.members(topic)
        if not feeds or topic not in feeds:
            return self._send_here(members, given, exclude, subject)
        if isinstance(body := bare(msg), dict | list):
            text = JsonText(json_text(body))  # encoded once for both
            msg = msg._replace(msg=text) if isinstance(msg, WithHeaders) else text
            given = given if self._filtered else str(text)
        taken = self._send_here(members, given, exclude, subject)
        if self._strangers:
            exclude = self._strangers.union(exclude)
        return taken + feeds.send(topic, msg, exclude, offset)

    def _receivers(self, audience: Audience, value: Any) -> Iterable[Client]:
        """The connections of this process that listen to something."""
        if audience is Audience.TOPIC or audience is Audience.KEPT:
            return self._subscribers(value)
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
        feeds, offset = self._feeds, 0
        if feeds and topic in feeds:
            offset = self._histories.top(topic)
        return self._send_topic(topic, content, exclude, subject, offset)

    def _send_content(self, client: Client, content: Content) -> SendStatus:
        """Send one client a message of a history; a failure is only logged."""
        try:
            return client.write_message(self._sendable(content))
        except Exception as error:
            client._calls.on_error(client, error)
            return SendStatus.DROPPED

    def _sendable(self, content: object) -> object:
        if type(content) is WithHeaders:
            content = content.msg
        if type(content) is not JsonText:
            return content
        return json.loads(content) if self._filtered else str(content)

    # For `live`

    def _publish_confirmed(
        self,
        topic: str,
        msg: object,
        key: str | None,
        done: Callable[[Position | bool | None], object],
    ) -> None:
        """Publish a message, in the loop's thread; see `publish`.

        Args:
            topic: any name.
            msg: as for `publish`.
            key: likewise; without meaning for a topic without history.
            done: called with whether it was taken: for a topic with history with where
                it is once the engine has stored it, or None if it does not take it;
                otherwise with True, at once.
        """
        rule = self._topic_rules.find(topic) if self._topic_rules else None
        subject = None if rule is None else subject_of(rule, topic, msg)
        if rule is not None and rule.history:
            self._histories.publish(topic, rule, msg, (), key, subject, done)
        else:
            if self._engine is None:
                self._send_topic(topic, msg, (), subject, 0)
            else:
                self._send_to(Audience.TOPIC, topic, msg, (), False, subject)
            done(True)


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
    if type(exclude) is tuple and len(exclude) == 1 and isinstance(exclude[0], Client):
        return exclude
    try:
        clients: frozenset[Any] = frozenset(exclude)  # type: ignore[call-overload]
    except TypeError:
        clients = frozenset((None,))
    if not all(isinstance(client, Client) for client in clients):
        raise TypeError(f"exclude must be a collection of clients, not {exclude!r}")
    return clients
