"""Who is connected, to which topics they are subscribed, and who they are.

Opening and closing connections is left to `server`, sending to `hub`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from ..cluster.channels import Audience
from ..cluster.history import History
from ..cluster.since import Since, parse_since
from ..cluster.topic_rules import TopicRule, TopicRules
from ..connection.client import Client
from ..connection.drains import Drains
from ..connection.topics import Group, Identities, Topics
from ..loop.reactor import Reactor
from ..speedups import PublishCore
from .arrivals import Arriving
from .feeds import Arrival, Feeds
from .histories import Histories
from .joins import Join
from .presence import PresenceRun, checked_payload
from .run import Run
from .state import ServerState, step

if TYPE_CHECKING:
    from .sharded_engine import AnyEngine

__all__ = ["Membership", "check_identity", "check_topic"]


class Membership(PublishCore):
    """The open connections of a server, their topics and identities.

    Every method may be called from any thread.

    Args:
        clock: seconds that never run backwards.

    Attributes:
        clients: open connections of all handlers, the earliest first.
    """

    _histories: Histories

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self.clients: Group[Client] = Group()
        self._topics: Topics[Client] = Topics(self._plain)
        # Subscribers who get messages in a form of their own, if there may be any.
        self._feeds: Feeds | None = None
        self._identities: Identities[Client] = Identities(self._plain_identities)
        self._topic_rules = TopicRules()
        # Of this run, if some topic has presence; and what clients say of themselves.
        self._presence: PresenceRun | None = None
        self._payloads: dict[Client, dict[str, Any]] = {}
        self._drains = Drains()
        self._clock = clock
        # Clients that must authenticate and have not: only what is written to one of
        # them reaches it.
        self._strangers: set[Client] = set()
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
        check_topic(topic)
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
        check_topic(topic)
        self._check_client(client)
        leave = self._unsubscribe
        if client._live is not None:
            leave = client._live.leave
        self._on_loop(leave, topic, client)

    def count(self, topic: str) -> int:
        """The number of subscribers of a topic."""
        check_topic(topic)
        return self._count(topic)

    def members(self, topic: str) -> list[Client]:
        """The subscribers of a topic, the earliest first; those of `live` last."""
        check_topic(topic)
        return list(self._subscribers(topic))

    def _count(self, topic: str) -> int:
        feeds = self._feeds
        count = len(self._topics.members(topic))
        return count + len(feeds.members(topic)) if feeds else count

    def _subscribers(self, topic: str) -> Iterable[Client]:
        """The subscribers of this process of a topic."""
        members: Iterable[Client] = self._topics.members(topic)
        feeds = self._feeds
        return [*members, *feeds.members(topic)] if feeds else members

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
        check_identity(client_id)
        if self._engine is not None and client_id is not None:
            self._engine.channels.identity(client_id)  # raises for a wrong one
        self._on_loop(self._bind, client, client_id)

    def is_online(self, client_id: Any) -> bool:
        """Whether an identity has a connection that has not ended.

        Raises:
            TypeError: The identity is not hashable.
        """
        check_identity(client_id)
        return bool(self._identities.members(client_id))

    def online(self) -> list[Any]:
        """Every identity with a connection that has not ended, the earliest first."""
        return self._identities.online()

    def _subscribe(
        self, topic: str, client: Client, priority: float, since: Since
    ) -> bool:
        if client._live is not None:
            return bool(client._live.join(topic, client, since))
        rule = self._topic_rules.find(topic) if self._topic_rules else None
        known = topic in (client._topics or ())
        if not self._enter_topic(topic, client, rule):
            return False
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

    def _enter_topic(self, topic: str, client: Client, rule: TopicRule | None) -> bool:
        """Note a subscription; return False if the topic is full, or the client gone.

        It gets nothing before it is among the members.
        """
        if client not in self.clients or not client.is_open():
            return False
        known = topic in (client._topics or ())
        if rule is not None and not known and self._is_full(topic, rule):
            return False
        if self._engine is not None and not known:
            self._engine.listen(self._channel(topic, rule))
        client._note_topic(topic, True)
        return True

    def _is_full(self, topic: str, rule: TopicRule) -> bool:
        most = rule.max_subscribers
        if most is None:
            return False
        joining = self._histories.joins.count(topic)
        return self._count(topic) + joining >= most

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
        if self._feeds:
            self._feeds.discard(topic, client)
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
                self._add_stranger(client)
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

    def _add_stranger(self, client: Client) -> None:
        self._strangers.add(client)
        self._forget_plain()

    def _forget_client(self, client: Client) -> None:
        """What a connection was in, but for the groups of all: it has ended."""
        if client._topics:
            for topic in tuple(client._topics):
                self._unsubscribe(topic, client)
        if client._client_id is not None:
            self._unbind(client)
        if self._payloads:
            self._payloads.pop(client, None)
        if self._drains:
            self._drains.wake(client)
        if self._strangers:
            self._strangers.discard(client)

    def _note_drained(self, client: Client) -> None:
        """A connection has taken all its output."""
        self._drains.wake(client)
        self._histories.joins.resume(client)

    async def _wait_for_drain(self, client: Client) -> None:
        """See `Client.drain`."""
        await self._drains.wait(client)

    # For `live`

    def _counts(self) -> dict[str, int]:
        """How many subscribers each topic has in this process."""
        counts = self._topics.counts()
        for topic, count in self._feeds.counts().items() if self._feeds else ():
            counts[topic] = counts.get(topic, 0) + count
        return counts

    def _enter_feed(self, topic: str, client: Client) -> bool:
        """Subscribe a client, which begins with `_begin_feed`.

        Returns:
            False if the topic is full, or the client has gone.
        """
        rule = self._topic_rules.find(topic) if self._topic_rules else None
        return self._enter_topic(topic, client, rule)

    def _begin_feed(self, topic: str, client: Client) -> None:
        """From now on a client gets the messages of a topic, and is present: it is told
        of itself, too."""
        assert self._feeds is not None
        self._feeds.add(topic, client)
        self._plain.pop(topic, None)
        if self._presence is not None:
            rule = self._topic_rules.find(topic)
            if rule is not None and rule.presence:
                self._presence.enter(topic, client)

    def _arriving(
        self,
        topic: str,
        since: Since,
        begin: Callable[[History], Since],
        arrive: Callable[[Arrival], object],
    ) -> Arriving | None:
        """The way of a client into a topic with history that it has entered.

        Args:
            topic: any name.
            since: what it has got; if that is more than has come here, it waits for a
                short time.
            begin: says where it begins in a history, once that has come.
            arrive: called with where it begins; calls `_begin_feed`.

        Returns:
            A way that is to be begun (`look`) and ended; None: the topic has none.
        """
        rule = self._topic_rules.find(topic) if self._topic_rules else None
        if rule is None or not rule.history:
            return None
        return self._histories.arriving(topic, rule, since, begin, arrive)

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


def check_identity(client_id: object) -> None:
    """Refuse an identity that is not hashable with TypeError."""
    try:
        hash(client_id)
    except TypeError:
        raise TypeError(f"client_id must be hashable, not {client_id!r}") from None


def check_topic(topic: object) -> None:
    """Refuse a topic that is not a str with TypeError."""
    if not isinstance(topic, str):
        raise TypeError(f"topic must be a str, not {topic!r}")
