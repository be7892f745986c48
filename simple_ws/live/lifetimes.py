"""Until when clients may stay: connections and subscriptions that expire.

One that expires is refreshed by the client, with a new token (`credentials`), or by the
server, with the hooks `on_refresh` and `on_sub_refresh`. Who has not been refreshed
when `refresh_grace` has passed as well is disconnected (3005), or unsubscribed (2501).
Times are those of the tokens' clock, since 1970; timers are those of the loop.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..checks import seconds
from ..loop.deferred import DeferredCancelled, Steps, is_deferred, run_steps
from . import codes
from .codes import Disconnect, LiveError, Unsubscribe
from .interfaces import LiveHost
from .methods import checked_time
from .session import Session, Subscription

if TYPE_CHECKING:
    from ..tokens import Tokens

__all__ = ["Lifetimes"]

#: Seconds that fit into the timers of all SDKs; they refresh it earlier then.
_LONGEST = 2**31 - 1
#: How often a function of the user's is asked until the grace is over.
_ATTEMPTS = 2
#: Seconds between two looks for what has expired.
_TICK = 1.0


class Lifetimes:
    """See the head of the module.

    Args:
        live: the handler.
        tokens: with which clients refresh; None: they cannot.
        grace: seconds for which they may stay longer.

    Raises:
        TypeError, ValueError: It is no number of seconds.
    """

    def __init__(self, live: LiveHost, tokens: Tokens | None, grace: float) -> None:
        self._live = live
        self._with_tokens = tokens is not None
        self._grace = seconds("refresh_grace", grace)
        self._time: Callable[[], float] = getattr(tokens, "clock", time.time)
        self._ticking: object = None  # the loop that looks for what has expired

    def check_time(self, expires_at: float | None) -> None:
        """Refuse what has expired already.

        Raises:
            LiveError: It has.
        """
        if expires_at is not None and expires_at <= self._time():
            raise LiveError(*codes.EXPIRED)

    def connected(self, session: Session, expires_at: float | None) -> dict[str, Any]:
        """A client is connected until then; return what its program is told of it."""
        by_client = self._with_tokens and not self._live.hooks["on_refresh"]
        return self._expire(session, expires_at, (session, None), by_client)

    def subscribed(
        self,
        session: Session,
        topic: str,
        expires_at: float | None,
    ) -> dict[str, Any]:
        """A client is subscribed until then; return what its program is told of it."""
        hooks = self._live.hooks
        by_client = self._with_tokens and not hooks["on_sub_refresh"]
        subscription = session.topics[topic]
        return self._expire(subscription, expires_at, (session, topic), by_client)

    def _expire(
        self,
        thing: Session | Subscription,
        expires_at: float | None,
        of: tuple[Session, str | None],
        by_client: bool,
    ) -> dict[str, Any]:
        if expires_at is None:
            self._live.expiries.discard(thing)
            return {}
        session, topic = of
        now = self._time()
        delay = expires_at - now + (self._grace if by_client else 0)
        self._set(thing, delay, session, topic, _ATTEMPTS)
        return _told(expires_at, now) if by_client else {}

    def _set(
        self,
        thing: Session | Subscription,
        delay: float,
        session: Session,
        topic: str | None,
        attempts: int,
    ) -> None:
        """Look at it after so many seconds; so often the user's function is asked."""
        now = self._live.server._clock()
        self._live.expiries.set(thing, now + delay, (session, topic, attempts))
        reactor = self._live.server.reactor
        if self._ticking is not reactor:
            self._ticking = reactor
            reactor.call_later(_TICK, self._tick)

    def _tick(self) -> None:
        expiries, server = self._live.expiries, self._live.server
        self._ticking = None
        for thing, (session, topic, attempts) in expiries.turn(server._clock()):
            if not self._is_there(thing, session, topic):
                continue
            try:
                self._look_at(thing, session, topic, attempts)
            except Exception as error:  # there is nothing that runs the function
                session.note_failure("refresh", error)
        if expiries and self._ticking is None:
            self._ticking = server.reactor
            server.reactor.call_later(_TICK, self._tick)

    def _look_at(
        self,
        thing: Session | Subscription,
        session: Session,
        topic: str | None,
        attempts: int,
    ) -> None:
        hook = self._live.hooks["on_refresh" if topic is None else "on_sub_refresh"]
        if hook is None or not attempts:
            self._end(session, topic)
            return
        # Should it fail, or not answer.
        self._set(thing, self._grace / _ATTEMPTS, session, topic, attempts - 1)
        asking = run_steps(self._ask(hook, thing, session, topic))
        if is_deferred(asking):
            self._live.server._run_deferred(asking, lambda *_: None)

    def _ask(
        self,
        hook: Callable[..., Any],
        thing: Session | Subscription,
        session: Session,
        topic: str | None,
    ) -> Steps:
        """Ask the user's function how long a client may stay."""
        name = "on_refresh" if topic is None else "on_sub_refresh"
        given = (session.client,) if topic is None else (session.client, topic)
        try:
            answer = yield session.call(name, hook, *given)
            expires_at = checked_time(answer or None)
        except (Exception, DeferredCancelled) as error:
            session.note_failure(name, error)
            return
        if not self._is_there(thing, session, topic):
            return
        if expires_at is None or expires_at <= self._time():
            self._end(session, topic)
        elif topic is None:
            self.refresh(session, expires_at)
        else:
            self._expire(thing, expires_at, (session, topic), False)

    def _is_there(
        self, thing: Session | Subscription, session: Session, topic: str | None
    ) -> bool:
        if not session.is_connected:
            return False
        return topic is None or session.topics.get(topic) is thing

    def _end(self, session: Session, topic: str | None) -> None:
        if not session.is_connected:
            return
        if topic is None:
            session.disconnect(Disconnect.EXPIRED)
        else:
            self._live.leave_topic(session, topic, Unsubscribe.EXPIRED)

    def expire(self, session: Session, expires_at: float | None) -> None:
        """The server says until when a client may stay; None: for ever."""
        if expires_at is not None and expires_at <= self._time():
            self._end(session, None)
        else:
            self.refresh(session, expires_at)

    def refresh(self, session: Session, expires_at: float | None) -> None:
        """The server lets a client stay until then, and tells it; None: for ever."""
        self.connected(session, expires_at)
        session.push("refresh", _told(expires_at, self._time()))


def _told(expires_at: float | None, now: float) -> dict[str, Any]:
    if expires_at is None:
        return {}
    ttl = min(max(1, math.floor(expires_at - now)), _LONGEST)
    return {"expires": True, "ttl": ttl}
