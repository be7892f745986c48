"""Who receives: every way to send to many, to a topic, or to an identity.

`Hub` is what a server is to those who send. It knows the open connections, their
subscriptions and identities; how they come and go is left to `server`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable
from copy import deepcopy
from functools import partial
from typing import Any

from ..connection.client import Client
from ..connection.topics import Group, Identities, Topics
from ..loop.reactor import Reactor
from ..messages import encode_message
from ..speedups import fan_out

__all__ = ["Hub"]

logger = logging.getLogger("simple_ws")

#: Seconds between two lines about messages that are dropped.
_BETWEEN_COMPLAINTS = 10.0


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
        # Middlewares see what is sent: any object may become a message on its way.
        self._filtered = False
        self._lost = 0
        self._complain_at = 0.0

    # Sending

    def broadcast(self, msg: object, exclude: Collection[Client] = ()) -> int:
        """Send a message to every client; return how many took it.

        From a thread that is not the loop's it is queued, and 0 is returned.

        Args:
            msg: str, bytes, dict …, as of `Client.write_message`; encoded once for all.
            exclude: clients that are left out.

        Raises:
            TypeError: A message of another type than `Client.write_message` takes, or
                `exclude` is not a collection of clients.
            ValueError: Text that is not valid Unicode, or what JSON cannot say.
            Exception: Whatever `on_send` of a middleware raised; not before everybody
                else was sent the message.
        """
        return self._send_to(lambda: self.clients, msg, exclude)

    def publish(self, topic: str, msg: object, exclude: Collection[Client] = ()) -> int:
        """Send a message to everyone subscribed to a topic; return how many took it.

        Args:
            topic: any name; nobody need be subscribed.
            msg: as of `broadcast`, also in what is returned and raised.
            exclude: clients that are left out.

        Raises:
            TypeError: The topic is no str.
        """
        _check_topic(topic)
        return self._send_to(lambda: self._topics.members(topic), msg, exclude)

    def deliver(self, topic: str, msg: object) -> Client | None:
        """Send a message to one subscriber of a topic: the first that takes it.

        The one with the highest priority is asked first, the latest among equals, and
        the next when it is leaving or takes no more.

        Args:
            topic: any name.
            msg: as of `broadcast`, also in what is raised.

        Returns:
            Who took it, or None; None from a thread that is not the loop's, where it
            is queued.

        Raises:
            TypeError: The topic is no str.
        """
        _check_topic(topic)
        if self._elsewhere():
            self._queue(msg, lambda frozen: self.deliver(topic, frozen))
            return None
        ranked = self._topics.by_priority(topic)
        for client in ranked:
            if client.write_message(msg):
                return client
        if not ranked and not self._filtered:
            encode_message(msg, None)  # a wrong one raises, also where nobody is
        return None

    def send_to(self, client_id: Any, msg: object) -> int:
        """Send a message to every connection of an identity; return how many took it.

        Args:
            client_id: as it was given to `bind`; nobody need be online.
            msg: as of `broadcast`, also in what is returned and raised.

        Raises:
            TypeError: The identity is not hashable.
        """
        _check_identity(client_id)
        return self._send_to(lambda: self._identities.members(client_id), msg, ())

    def _send_to(
        self,
        find: Callable[[], Iterable[Client]],
        msg: object,
        exclude: Collection[Client],
    ) -> int:
        left_out = _clients_in(exclude)
        send = _send_to_each if self._filtered else fan_out
        if self._elsewhere():
            self._queue(msg, lambda frozen: send(find(), frozen, left_out))
            return 0
        return send(find(), msg, left_out)

    def _queue(self, msg: object, send: Callable[[object], object]) -> None:
        """Have a message sent in the loop's thread, as it is now."""
        reactor = self.reactor
        frozen, size = _frozen(msg, self._filtered)
        if not reactor.reserve(size):
            self._note_lost()
            return

        def send_queued() -> None:
            reactor.release(size)
            send(frozen)

        reactor.call_threadsafe(send_queued)

    def _note_lost(self) -> None:
        """A message found no room in the queue; one line for many of them."""
        self._lost += 1
        now = time.monotonic()
        if now >= self._complain_at:
            self._complain_at = now + _BETWEEN_COMPLAINTS
            lost, self._lost = self._lost, 0
            logger.warning(
                "%d messages of other threads are dropped: the loop is behind", lost
            )

    # Topics and identities

    def subscribe(self, topic: str, client: Client, priority: float = 0) -> None:
        """Subscribe a client to a topic until its connection ends.

        Args:
            topic: any name.
            client: who subscribes; again means the latest, with the new priority.
            priority: who of several is chosen by `deliver`; the highest.

        Raises:
            TypeError: The topic is no str, the client no `Client`, or the priority no
                number.
            ValueError: The client is of another server, or the priority is NaN.
        """
        _check_topic(topic)
        self._check_client(client)
        if isinstance(priority, bool) or not isinstance(priority, int | float):
            raise TypeError(f"priority must be a number, not {priority!r}")
        if priority != priority:  # not to be compared with others
            raise ValueError(f"priority must be a number, not {priority!r}")
        self._on_loop(self._subscribe, topic, client, priority)

    def unsubscribe(self, topic: str, client: Client) -> None:
        """Take a client's subscription away; no harm where there is none.

        Raises:
            TypeError: The topic is no str, or the client no `Client`.
            ValueError: The client is of another server.
        """
        _check_topic(topic)
        self._check_client(client)
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
        """Give a connection an identity, until it ends; an earlier one of it ends.

        Args:
            client: whose identity it is; one that has ended gets none.
            client_id: anything hashable; one identity may have several connections.
                None takes the one it has away.

        Raises:
            TypeError: `client` is no `Client`, or `client_id` is not hashable.
            ValueError: The client is of another server.
        """
        self._check_client(client)
        _check_identity(client_id)
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

    def _subscribe(self, topic: str, client: Client, priority: float) -> None:
        if client in self.clients and client.is_open():
            self._topics.subscribe(topic, client, priority)
            if client._topics is None:
                client._topics = set()
            client._topics.add(topic)

    def _unsubscribe(self, topic: str, client: Client) -> None:
        self._topics.unsubscribe(topic, client)
        if client._topics is not None:
            client._topics.discard(topic)

    def _bind(self, client: Client, client_id: Any) -> None:
        bound = client in self._identities.members(client_id)
        if client in self.clients and client.is_open() and not bound:
            self._identities.unbind(client._client_id, client)
            client._client_id = client_id
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
        self._identities.unbind(client._client_id, client)
        self.clients.discard(client)
        client._handler.clients.discard(client)

    def _check_client(self, client: object) -> None:
        if not isinstance(client, Client):
            raise TypeError(f"client must be a Client, not {client!r}")
        home: object = client._home
        if home is not self:
            raise ValueError(f"client {client!r} is of another server")

    def _on_loop(self, function: Callable[..., object], *args: object) -> None:
        if self._elsewhere():
            self.reactor.call_threadsafe(partial(function, *args))
        else:
            function(*args)

    def _elsewhere(self) -> bool:
        """Whether a call must be queued for the loop's thread."""
        return threading.get_ident() != self.reactor.owner


def _send_to_each(
    clients: Iterable[Client], msg: object, exclude: Collection[Client]
) -> int:
    """What `fan_out` does, where each message to each client may be looked at.

    Who fails to be sent it keeps it from nobody else: that is raised in the end.
    """
    taken, failure = 0, None
    for client in clients:
        if client not in exclude:
            try:
                taken += bool(client.write_message(msg))
            except Exception as error:
                failure = failure or error
    if failure is not None:
        raise failure
    return taken


def _frozen(msg: object, filtered: bool) -> tuple[object, int]:
    """A message as it is now, since its owner may change it before its turn comes, and
    its size; raises now what it would raise then."""
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
    """Those who are left out, as they are now."""
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
