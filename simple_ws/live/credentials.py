"""Who clients are: the tokens that they connect, subscribe and refresh with.

Until when they may stay is in `lifetimes`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ..checks import flag
from ..errors import KeysUnavailable, TokenError, TokenExpired
from ..loop.deferred import InThread, Steps
from . import codes
from .codes import Disconnect, DisconnectClient, LiveError
from .interfaces import LiveHost
from .lifetimes import Lifetimes
from .session import Session

if TYPE_CHECKING:
    from ..tokens import ConnectionClaims, SubscriptionClaims, Tokens

__all__ = ["Credentials", "checked_info", "user_of"]

#: The largest info of a client, as JSON: that of a member of a topic.
_MAX_INFO = 4096

T = TypeVar("T")


class Credentials:
    """See the head of the module.

    Args:
        live: the handler.
        tokens: that clients have; None: they have none that mean something here.
        allow_anonymous: clients without one may connect.
        lifetimes: of their connections and subscriptions.

    Attributes:
        lifetimes: as given.

    Raises:
        TypeError, ValueError: One of them is something else.
    """

    def __init__(
        self,
        live: LiveHost,
        tokens: Tokens | None,
        allow_anonymous: bool,
        lifetimes: Lifetimes,
    ) -> None:
        known = hasattr(tokens, "verify_connection") and not isinstance(tokens, type)
        if tokens is not None and not known:
            raise TypeError(f"tokens must be a simple_ws.tokens.Tokens, not {tokens!r}")
        self._live, self._tokens = live, tokens
        self._allow_anonymous = flag("allow_anonymous", allow_anonymous)
        self.lifetimes = lifetimes

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
        client._host._log.note_refusal(client.address, str(why))

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
        return self.lifetimes.connected(session, claims.expires_at)

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
        return self.lifetimes.subscribed(session, topic, claims.expires_at)


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
    # Measured as `present_as` is, where a dict goes.
    if info is not None and len(json.dumps(info, allow_nan=False)) > _MAX_INFO:
        raise ValueError(f"info has more than {_MAX_INFO:,} bytes of JSON")
    return info
