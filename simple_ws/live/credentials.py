"""Who clients are: their tokens, and until when they may stay.

A connection that expires is refreshed by the client, with a new token, or by the
server, with the hook `on_refresh`; likewise a subscription. Who has not been refreshed
when `refresh_grace` has passed as well is disconnected (3005), or unsubscribed (2501).
Times of tokens are those of their clock, since 1970; timers are those of the loop.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ..checks import flag, seconds
from ..errors import KeysUnavailable, TokenError, TokenExpired
from ..loop.deferred import DeferredCancelled, InThread, Steps, is_deferred, run_steps
from ..messages import encode_json
from . import codes
from .codes import Disconnect, DisconnectClient, LiveError, Unsubscribe
from .interfaces import LiveHost
from .methods import checked_time
from .session import Session, Subscription

if TYPE_CHECKING:
    from ..tokens import ConnectionClaims, SubscriptionClaims, Tokens

__all__ = ["Credentials", "checked_info", "user_of"]

#: The largest info of a client, as JSON: that of a member of a topic.
_MAX_INFO = 4096
#: Seconds that fit into the timers of all SDKs; they refresh it earlier then.
_LONGEST = 2**31 - 1
#: How often a function of the user's is asked until the grace is over.
_ATTEMPTS = 2
#: Seconds between two looks for what has expired.
_TICK = 1.0

T = TypeVar("T")


class Credentials:
    """See the head of the module.

    Args:
        live: the handler.
        tokens: that clients have; None: they have none that mean something here.
        allow_anonymous: clients without one may connect.
        refresh_grace: seconds.

    Raises:
        TypeError, ValueError: One of them is something else.
    """

    def __init__(
        self,
        live: LiveHost,
        tokens: Tokens | None,
        allow_anonymous: bool,
        refresh_grace: float,
    ) -> None:
        if tokens is not None and not hasattr(tokens, "verify_connection"):
            raise TypeError(f"tokens must be a simple_ws.tokens.Tokens, not {tokens!r}")
        self._live, self._tokens = live, tokens
        self._allow_anonymous = flag("allow_anonymous", allow_anonymous)
        self._grace = seconds("refresh_grace", refresh_grace)
        self._time = time.time if tokens is None else tokens.clock
        self._ticking: object = None  # the loop that looks for what has expired

    # Tokens

    def connection(self, session: Session, token: str) -> Steps:
        """Verify the token that a client connects with; return its claims, or None.

        Raises:
            LiveError, DisconnectClient: It may not connect.
        """
        tokens, client = self._tokens, session.client
        if tokens is None:
            return None
        if token:
            return (yield from self._verified_connection(session, tokens, token))
        if self._allow_anonymous or client.client_id is not None:
            return None
        raise LiveError(*codes.UNAUTHORIZED)

    def _verified_connection(
        self, session: Session, tokens: Tokens, token: str
    ) -> Steps:
        verify = tokens.verify_connection
        try:
            claims = yield from self._verified(tokens, verify, token)
            checked_info(claims.info)
        except (TokenError, RecursionError, ValueError) as error:
            self._note_refusal(session, error)
            raise DisconnectClient(Disconnect.INVALID_TOKEN) from None
        return claims

    def subscription(self, session: Session, topic: str, token: str) -> Steps:
        """Verify the token of a subscription; return its claims, or None without one.

        Raises:
            LiveError, DisconnectClient: It does not allow this client the topic.
        """
        tokens = self._tokens
        if tokens is None or not token:
            return None
        try:
            verify = tokens.verify_subscription
            claims = yield from self._verified(tokens, verify, token)
            checked_info(claims.topic.info)
        except (TokenError, RecursionError, ValueError) as error:
            self._note_refusal(session, error)
            raise LiveError(*codes.PERMISSION_DENIED) from None
        wrong = _wrong_use(claims, session, topic)
        if wrong:
            self._note_refusal(session, wrong)
            raise DisconnectClient(Disconnect.INVALID_TOKEN)
        return claims

    def _verified(
        self, tokens: Tokens, verify: Callable[[str], T], token: str
    ) -> Steps:
        try:
            if tokens.has_key(token):
                return verify(token)
            return (yield InThread(partial(verify, token)))
        except TokenExpired:
            raise LiveError(*codes.TOKEN_EXPIRED) from None
        except KeysUnavailable:
            raise LiveError(*codes.INTERNAL, temporary=True) from None

    def _note_refusal(self, session: Session, why: object) -> None:
        client = session.client
        client._host._log.note_refusal(client._request.address, str(why))

    # Expiry

    def check_time(self, expires_at: float | None) -> None:
        """Refuse what has expired already.

        Raises:
            LiveError: It has.
        """
        if expires_at is not None and expires_at <= self._time():
            raise LiveError(*codes.EXPIRED)

    def connected(self, session: Session, expires_at: float | None) -> dict[str, Any]:
        """A client is connected until then; return what its program is told of it."""
        by_client = self._tokens is not None and not self._live.hooks["on_refresh"]
        return self._expire(session, expires_at, (session, None), by_client)

    def subscribed(
        self,
        session: Session,
        topic: str,
        expires_at: float | None,
    ) -> dict[str, Any]:
        """A client is subscribed until then; return what its program is told of it."""
        hooks = self._live.hooks
        by_client = self._tokens is not None and not hooks["on_sub_refresh"]
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

    # Commands

    def refresh_connection(self, session: Session, token: str) -> Steps:
        """The command `refresh`; return its result.

        Raises:
            LiveError, DisconnectClient: The token is not valid.
        """
        tokens = self._tokens
        if tokens is None:
            raise LiveError(*codes.NOT_AVAILABLE)
        try:
            claims = yield from self._verified_connection(session, tokens, token)
        except LiveError as error:
            if error.code != codes.TOKEN_EXPIRED.code:
                raise
            raise DisconnectClient(Disconnect.EXPIRED) from None
        if claims.user != user_of(session):
            self._note_refusal(session, "the token is that of another user")
            raise DisconnectClient(Disconnect.INVALID_TOKEN)
        if not session.is_connected:
            return None
        if _topics_changed(session, claims):
            raise DisconnectClient(Disconnect.INSUFFICIENT_STATE)
        if claims.info is not None and not session.informed:
            session.inform(claims.info)
        return self.connected(session, claims.expires_at)

    def refresh_subscription(self, session: Session, topic: str, token: str) -> Steps:
        """The command `sub_refresh`; return its result.

        Raises:
            LiveError, DisconnectClient: The token is not valid.
        """
        if self._tokens is None:
            raise LiveError(*codes.NOT_AVAILABLE)
        subscription = session.topics.get(topic)
        if subscription is None or subscription.by_server:
            raise LiveError(*codes.PERMISSION_DENIED)
        try:
            claims = yield from self.subscription(session, topic, token)
        except LiveError as error:
            # SDKs ask for another token only after an error that is temporary.
            expired = error.code == codes.TOKEN_EXPIRED.code
            raise LiveError(
                error.code, error.message, temporary=error.temporary or expired
            ) from None
        if claims is None:
            raise LiveError(*codes.BAD_REQUEST)
        if session.topics.get(topic) is not subscription:
            return {}
        if claims.topic.info is not None:
            subscription.info = claims.topic.info
        return self.subscribed(session, topic, claims.expires_at)


def _told(expires_at: float | None, now: float) -> dict[str, Any]:
    if expires_at is None:
        return {}
    ttl = min(max(1, math.floor(expires_at - now)), _LONGEST)
    return {"expires": True, "ttl": ttl}


def user_of(session: Session) -> str:
    """Who a client is, as tokens have it; "" is nobody in particular."""
    if session.user is not None:
        return session.user
    identity = session.client.client_id
    return "" if identity is None else str(identity)


def _topics_changed(session: Session, claims: ConnectionClaims) -> bool:
    """Whether a token subscribes the client to other topics than the one before: then
    it connects again, and is subscribed to these."""
    topics = session.topics
    if not all(topic in topics for topic in claims.topics):
        return True
    return any(
        subscription.by_token and topic not in claims.topics
        for topic, subscription in topics.items()
    )


def _wrong_use(claims: SubscriptionClaims, session: Session, topic: str) -> str | None:
    """What a token is not for."""
    if claims.channel != topic:
        return "the token is for another topic"
    if claims.user != user_of(session):
        return "the token is that of another user"
    if claims.client and claims.client != session.client_id:
        return "the token is for another connection"
    return None


def checked_info(info: object) -> Any:
    """What a client is described with.

    Raises:
        TypeError, ValueError: JSON cannot represent it, or it is too large.
    """
    if info is not None and len(encode_json(info)) > _MAX_INFO:
        raise ValueError(f"info has more than {_MAX_INFO:,} bytes of JSON")
    return info
