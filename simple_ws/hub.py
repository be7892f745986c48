"""Who receives: every way to send to many, to a topic, or to an identity.

`Hub` is what a server is to those who send. It knows the open connections, their
subscriptions and identities; how they come and go is left to `server`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable
from copy import deepcopy
from functools import partial
from typing import Any

from .connection import Client
from .messages import encode_message
from .reactor import Reactor
from .speedups import fan_out
from .topics import Group, Identities, Topics

__all__ = ["Hub"]

logger = logging.getLogger("simple_ws")


class Hub:
    """The open connections of a server, and how to reach them.

    Every method may be called from any thread.

    Attributes:
        clients: open connections of all handlers, the earliest first.
    """

    reactor: Reactor

    def __init__(self) -> None:
        self.clients: Group[Client] = Group()
        self._topics: Topics[Client] = Topics()
        self._identities: Identities[Client] = Identities()

    # Sending

    def broadcast(self, msg: object, exclude: Collection[Client] = ()) -> int:
        """Send a message to every client; return how many took it.

        From a thread that is not the loop's it is queued, and 0 is returned.
        """
        return self._send_to(lambda: self.clients, msg, exclude)

    def publish(self, topic: str, msg: object, exclude: Collection[Client] = ()) -> int:
        """Send a message to everyone subscribed to a topic; see `broadcast`."""
        _check_topic(topic)
        return self._send_to(lambda: self._topics.members(topic), msg, exclude)

    def deliver(self, topic: str, msg: object) -> Client | None:
        """Send a message to one subscriber of a topic: the first that takes it.

        The one with the highest priority is asked first, the latest among equals, and
        the next when it is leaving or takes no more.

        Returns:
            Who took it, or None; None from a thread that is not the loop's, where it
            is queued.
        """
        _check_topic(topic)
        if self._elsewhere():
            self._queue(msg, lambda frozen: self.deliver(topic, frozen))
            return None
        for client in self._topics.by_priority(topic):
            if client.write_message(msg):
                return client
        return None

    def send_to(self, client_id: Any, msg: object) -> int:
        """Send a message to every connection of an identity; see `broadcast`."""
        return self._send_to(lambda: self._identities.members(client_id), msg, ())

    def _send_to(
        self,
        find: Callable[[], Iterable[Client]],
        msg: object,
        exclude: Collection[Client],
    ) -> int:
        if self._elsewhere():
            self._queue(msg, lambda frozen: fan_out(find(), frozen, exclude))
            return 0
        return fan_out(find(), msg, exclude)

    def _queue(self, msg: object, send: Callable[[object], object]) -> None:
        """Have a message sent in the loop's thread, as it is now."""
        size = len(encode_message(msg, None)[1])  # raises now what it would raise then
        reactor, frozen = self.reactor, _frozen(msg)
        if not reactor.reserve(size):
            logger.warning("a message of %d bytes is dropped: the loop is behind", size)
            return

        def send_queued() -> None:
            reactor.release(size)
            send(frozen)

        reactor.call_threadsafe(send_queued)

    # Topics and identities

    def subscribe(self, topic: str, client: Client, priority: float = 0) -> None:
        """Subscribe a client to a topic until its connection ends.

        Args:
            topic: any name.
            client: who subscribes; again means the latest, with the new priority.
            priority: who of several is chosen by `deliver`; the highest.
        """
        _check_topic(topic)
        if isinstance(priority, bool) or not isinstance(priority, int | float):
            raise TypeError(f"priority must be a number, not {priority!r}")
        self._on_loop(self._subscribe, topic, client, priority)

    def unsubscribe(self, topic: str, client: Client) -> None:
        """Take a client's subscription away."""
        _check_topic(topic)
        self._on_loop(self._unsubscribe, topic, client)

    def count(self, topic: str) -> int:
        """How many are subscribed to a topic."""
        _check_topic(topic)
        return len(self._topics.members(topic))

    def members(self, topic: str) -> list[Client]:
        """Who is subscribed to a topic, the earliest first."""
        _check_topic(topic)
        return list(self._topics.members(topic))

    def bind(self, client: Client, client_id: Any) -> None:
        """Give a connection an identity; an earlier one of it ends."""
        hash(client_id)
        self._on_loop(self._bind, client, client_id)

    def is_online(self, client_id: Any) -> bool:
        """Whether an identity has an open connection."""
        return bool(self._identities.members(client_id))

    def online(self) -> list[Any]:
        """Every identity with an open connection."""
        return self._identities.online()

    def _subscribe(self, topic: str, client: Client, priority: float) -> None:
        if client in self.clients:
            self._topics.subscribe(topic, client, priority)
            client.topics.add(topic)

    def _unsubscribe(self, topic: str, client: Client) -> None:
        self._topics.unsubscribe(topic, client)
        client.topics.discard(topic)

    def _bind(self, client: Client, client_id: Any) -> None:
        if client in self.clients:
            self._identities.unbind(client.client_id, client)
            client.client_id = client_id
            if client_id is not None:
                self._identities.bind(client_id, client)

    # What connections ask of it

    def welcome(self, client: Client) -> None:
        """A connection opened."""
        self.clients.add(client)
        client._handler.clients.add(client)

    def forget(self, client: Client) -> None:
        """A connection ended."""
        for topic in tuple(client._topics or ()):
            self._unsubscribe(topic, client)
        self._identities.unbind(client.client_id, client)
        self.clients.discard(client)
        client._handler.clients.discard(client)

    def _on_loop(self, function: Callable[..., object], *args: object) -> None:
        if self._elsewhere():
            self.reactor.call_threadsafe(partial(function, *args))
        else:
            function(*args)

    def _elsewhere(self) -> bool:
        """Whether a call must be queued for the loop's thread."""
        return threading.get_ident() != self.reactor.owner


def _frozen(msg: object) -> object:
    """A message as it is now: its owner may change it before its turn comes."""
    if isinstance(msg, str):
        return msg
    return deepcopy(msg) if isinstance(msg, dict | list) else bytes(msg)  # type: ignore[call-overload]


def _check_topic(topic: object) -> None:
    if not isinstance(topic, str):
        raise TypeError(f"topic must be a str, not {topic!r}")
