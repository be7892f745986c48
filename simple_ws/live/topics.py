"""The subscriptions of the clients of `live`: how they begin, and how they end.

A client gets the reply first, then what is published after it, in the same turn of the
loop: so it misses nothing, and gets nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ..cluster.history import Entry, History
from ..cluster.position import Position
from ..cluster.since import Since, parse_since
from ..server.feeds import Arrival
from . import codes
from .client import write_to_all
from .codes import Code, Disconnect, LiveError, Unsubscribe
from .commands import encode_publication, encode_push
from .flags import Flags
from .interfaces import LiveHost
from .methods import Subscribed
from .positions import Claim, epoch_of
from .session import Session, Subscription

if TYPE_CHECKING:
    from ..loop.timers import Timer
    from ..server.arrivals import Arriving

__all__ = ["Beginning", "LiveTopics", "missed", "recovered", "subscribed"]

#: Seconds that the engine has to give the history of a topic: SDKs wait for 5.
_TIMEOUT = 4.0


_NOTHING = Subscribed()


class LiveTopics:
    """See the head of the module.

    Args:
        live: the handler.
    """

    def __init__(self, live: LiveHost) -> None:
        self._live = live

    def begin(
        self,
        session: Session,
        topic: str,
        subscription: Subscription,
        claim: Claim | Since,
        done: Callable[[Arrival | None], object],
    ) -> None:
        """Subscribe a client.

        Args:
            session: of the client.
            topic: that it is not subscribed to.
            subscription: the new one.
            claim: what the client has got.
            done: called with where it begins, before it gets anything; with None if it
                does not begin, because it was ended before, or the engine is away.

        Raises:
            LiveError: The topic is full.
        """
        self.enter(session, topic, subscription, claim, done).look()

    def enter(
        self,
        session: Session,
        topic: str,
        subscription: Subscription,
        claim: Claim | Since,
        done: Callable[[Arrival | None], object],
    ) -> Beginning:
        """Let a client into a topic, which is to `look` where it begins; as `begin`."""
        session.topics[topic] = subscription
        if not self._live.server._enter_feed(topic, session.client):
            del session.topics[topic]
            raise LiveError(*codes.LIMIT_EXCEEDED)
        return Beginning(self, session, topic, subscription, claim, done)

    def end(self, session: Session, topic: str) -> Subscription | None:
        """End a subscription, and tell nobody; return it."""
        subscription = session.topics.pop(topic, None)
        if subscription is None:
            return None
        self._live.expiries.discard(subscription)
        self._live.server._unsubscribe(topic, session.client)
        if subscription.pending is not None:
            subscription.pending(None)
        return subscription

    # By the server

    def join(
        self,
        session: Session,
        topic: str,
        since: Any,
        granted: Subscribed = _NOTHING,
    ) -> bool:
        """The server subscribes a client; return False if it may not.

        Args:
            session: of the client.
            topic: any name.
            since: a `Claim`, or as for `Client.subscribe`.
            granted: what holds for the subscription.
        """
        if not session.client.is_open():
            return False
        if not session.is_connected:
            session.at_connect[topic] = since
            return True
        if topic in session.topics:
            return True
        flags = self.flags_by_server(session, topic)
        subscription = Subscription(True, flags.join_leave, granted.info)
        tell = partial(self._tell_joined, session, topic, flags, granted)
        claim = since if isinstance(since, Claim) else parse_since(since)
        try:
            self.begin(session, topic, subscription, claim, tell)
        except LiveError:
            return False
        return True

    def flags_by_server(self, session: Session, topic: str) -> Flags:
        """What a subscription by the server has."""
        flags = self._live.flags(session.client, topic, True)
        return flags.asked(recoverable=True, positioned=True, join_leave=True)

    def _tell_joined(
        self,
        session: Session,
        topic: str,
        flags: Flags,
        granted: Subscribed,
        arrival: Arrival | None,
    ) -> None:
        if arrival is None:
            return
        result, position = subscribed(arrival, flags), arrival.position
        if position is not None and result:
            # What is missed comes as publications: it has not got these yet.
            result["offset"] = position.offset
            if arrival.missed:
                result["offset"] = arrival.missed[0].offset - 1
        if granted.data is not None:
            result["data"] = granted.data
        if granted.expires_at is not None:
            expire = self._live.expire_subscription
            result |= expire(session, topic, granted.expires_at)
        session.push("subscribe", result, topic)
        for entry in arrival.missed:
            text = encode_publication(topic, entry.body, entry.offset)
            session.client._write_publication(text, topic, entry.offset)

    def leave(self, session: Session, topic: str, code: Code) -> None:
        """The server ends a subscription, and the client is told."""
        if self.end(session, topic) is not None:
            value = {"code": code.code, "reason": code.text}
            session.push("unsubscribe", value, topic)

    # What all subscribers are told

    def tell_gap(self, topic: str) -> None:
        """Messages of a topic with history are missing: who counts them begins again
        from where it is, and is told then.

        None of them gets the next message, which would hide that some are missing.
        They are told in turn: there may be very many.
        """
        server = self._live.server
        for client in server._feeds.members(topic):
            session = client._live
            subscription = session.topics.get(topic)
            if session.live is not self._live or subscription is None:
                continue
            if subscription.positioned:
                server._feeds.discard(topic, client)
                told = partial(self._end_by_gap, session, topic, subscription)
                server._histories.turns.add(told)

    def _end_by_gap(
        self, session: Session, topic: str, subscription: Subscription
    ) -> None:
        if session.topics.get(topic) is not subscription:
            return  # it has left meanwhile
        if subscription.by_server:
            session.disconnect(Disconnect.INSUFFICIENT_STATE)
        else:
            self.leave(session, topic, Unsubscribe.INSUFFICIENT_STATE)

    def tell_presence(self, topic: str, joined: bool, info: dict[str, Any]) -> None:
        """A member has joined a topic or left it."""
        members = [
            client
            for client in self._live.server._feeds.members(topic)
            if client._live.live is self._live
            and (subscription := client._live.topics.get(topic)) is not None
            and subscription.join_leave
        ]
        text = encode_push("join" if joined else "leave", {"info": info}, topic)
        write_to_all(members, text)


class Beginning:
    """A client on its way into a topic; see `LiveTopics.begin`.

    Attributes:
        arrive: called with where it begins, once that is known; then it is to `settle`,
            and to `begin_feed`.
        end: called if it does not begin.
    """

    def __init__(
        self,
        topics: LiveTopics,
        session: Session,
        topic: str,
        subscription: Subscription,
        claim: Claim | Since,
        done: Callable[[Arrival | None], object],
    ) -> None:
        self._topics = topics
        self._session, self._topic = session, topic
        self._subscription = subscription
        self._claim = claim
        self._done = done
        self._hub = session.live.server
        self._arriving: Arriving | None = None
        self._timer: Timer | None = None
        self._known = False  # where it begins
        self.arrive: Callable[[Arrival], object] = self._begin
        self.end: Callable[[], object] = lambda: None
        subscription.pending = self._end

    def look(self, again: bool = False) -> None:
        """Find out where it begins; again, because that was a while ago: then it does
        not wait for what the client may be ahead."""
        claim, self._known = self._claim, False
        hub, begin = self._hub, partial(_since, claim)
        since = None if again else _comparable(claim)
        arriving = hub._arriving(self._topic, since, begin, self._arrive)
        if arriving is None:
            self._arrive(Arrival(gap=0 if claim is None else None))
            return
        self._arriving = arriving
        arriving.look()
        if not self._known and self._subscription.pending is not None:
            self._timer = hub.reactor.call_later(_TIMEOUT, self._note_late)

    def _arrive(self, arrival: Arrival) -> None:
        if self._subscription.pending is not None:
            self._known = True
            self._stop_waiting()
            self.arrive(arrival)

    def _begin(self, arrival: Arrival) -> None:
        self.settle(arrival)
        self._session.flush()
        self.begin_feed()

    def settle(self, arrival: Arrival) -> None:
        """This is where it begins."""
        self._subscription.positioned = arrival.position is not None
        self._subscription.pending = None
        self._done(arrival)

    def begin_feed(self) -> None:
        """It gets what is published from now on, unless it was ended meanwhile."""
        if self._session.topics.get(self._topic) is self._subscription:
            self._hub._begin_feed(self._topic, self._session.client)

    def _note_late(self) -> None:
        """Not at once: very many may wait for one engine."""
        self._hub._histories.turns.add(self._expire)

    def _expire(self) -> None:
        if self._known or self._subscription.pending is None:
            return  # it has arrived meanwhile
        if self._session.topics.get(self._topic) is self._subscription:
            self._topics.end(self._session, self._topic)

    def _end(self, _: Arrival | None) -> None:
        self._subscription.pending = None
        self._stop_waiting()
        self._done(None)
        self.end()

    def _stop_waiting(self) -> None:
        if self._arriving is not None:
            self._arriving.end()
            self._arriving = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _comparable(claim: Claim | Since) -> Since:
    return claim.position if isinstance(claim, Claim) else claim


def _since(claim: Claim | Since, history: History) -> Since:
    return claim.since(history) if isinstance(claim, Claim) else claim


def subscribed(arrival: Arrival, flags: Flags) -> dict[str, Any]:
    """The result of a subscription, without what was missed."""
    position: Position | None = arrival.position
    if position is None or not (flags.recoverable or flags.positioned):
        return {}
    result: dict[str, Any] = {"positioned": True}
    if flags.recoverable:
        result["recoverable"] = True
    result["epoch"], result["offset"] = epoch_of(position), position.offset
    return result


def recovered(arrival: Arrival) -> dict[str, Any]:
    """What a client is told that has come back, without what it missed."""
    return {"was_recovering": True, "recovered": _is_whole(arrival)}


def missed(arrival: Arrival) -> tuple[Entry, ...]:
    """What it missed, if that is all."""
    return arrival.missed if _is_whole(arrival) else ()


def _is_whole(arrival: Arrival) -> bool:
    return arrival.position is not None and arrival.gap == 0
