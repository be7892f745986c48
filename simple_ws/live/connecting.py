"""The command `connect`: who the client is, what it is subscribed to, and the reply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ..cluster.since import Since, parse_since
from ..constants import RELEASE
from ..errors import AuthenticationError
from ..loop.deferred import Steps
from ..server.feeds import Arrival
from ..speedups import encode_json
from . import codes
from .codes import Disconnect, DisconnectClient, LiveError
from .commands import entry_of
from .credentials import Credentials, checked_info
from .flags import Flags
from .interfaces import LiveHost
from .methods import Connected, ConnectRequest, checked_time
from .positions import Claim
from .session import LATER, Session, Stage, Subscription
from .together import Together
from .topics import Beginning, LiveTopics, missed, recovered, subscribed

if TYPE_CHECKING:
    from ..tokens import ConnectionClaims
    from ..tokens.claims import TopicClaims

__all__ = ["Connecting"]


class Connecting:
    """See the head of the module.

    Args:
        live: the handler.
        topics: the subscriptions of its clients.
        credentials: who they are.
    """

    def __init__(
        self, live: LiveHost, topics: LiveTopics, credentials: Credentials
    ) -> None:
        self._live, self._topics = live, topics
        self._credentials = credentials

    def connect(self, session: Session, number: int, params: dict[str, Any]) -> Steps:
        """Carry out the command."""
        session.stage = Stage.CONNECTING
        try:
            token = params.get("token", "")
            claims = yield from self._credentials.connection(session, token)
            if session.stage is not Stage.CONNECTING:  # it has gone meanwhile
                return LATER
            connected = yield from self._ask(session, params, claims)
        except DisconnectClient:
            raise
        except LiveError as error:
            if error.temporary or error.code == codes.TOKEN_EXPIRED.code:
                _wait_again(session)
                raise
            session.reply_error(number, error.code, error.message)
            session.disconnect(Disconnect.INVALID_TOKEN)
            return LATER
        except Exception:
            _wait_again(session)
            raise
        if session.stage is Stage.CONNECTING:
            topics = {} if claims is None else claims.topics
            self._begin_all(session, number, params, connected, topics)
        return LATER

    def _ask(
        self, session: Session, params: dict[str, Any], claims: ConnectionClaims | None
    ) -> Steps:
        """Ask the user's function; return what holds for the client, a `Connected`."""
        client, hook = session.client, self._live.hooks["on_connect"]
        answer = None
        if hook is not None:
            request = _request(params, claims)
            try:
                answer = yield session.call("on_connect", hook, client, request)
            except AuthenticationError as error:
                host = client._host
                host._log.note_refusal(client.address, str(error))
                answer = False
        connected = Connected() if answer is None or answer is True else answer
        if connected is False:
            raise LiveError(*codes.UNAUTHORIZED)
        if not isinstance(connected, Connected):
            raise TypeError(
                f"on_connect must return None, False or Connected, not {answer!r}"
            )
        # What the user's function gave raises now.
        encode_json(connected.data)
        checked_info(connected.info)
        checked_time(connected.expires_at)
        return self._admit(session, connected, claims)

    def _admit(
        self,
        session: Session,
        connected: Connected,
        claims: ConnectionClaims | None,
    ) -> Connected:
        """Note who the client is, as its token says, and the user's function."""
        user, info = connected.user, connected.info
        if claims is not None:
            session.user = claims.user
            user = (claims.user or None) if user is None else user
            info = claims.info if info is None else info
            if connected.expires_at is None:
                connected = replace(connected, expires_at=claims.expires_at)
        self._credentials.lifetimes.check_time(connected.expires_at)
        client = session.client
        if user is not None:
            client.bind(user)
        if client in self._live.server._strangers:
            raise LiveError(*codes.UNAUTHORIZED)
        session.informed = connected.info is not None
        session.inform(info)
        return connected

    def _begin_all(
        self,
        session: Session,
        number: int,
        params: dict[str, Any],
        connected: Connected,
        of_token: Mapping[str, TopicClaims],
    ) -> None:
        """Begin all subscriptions by the server, then answer."""
        claims = _claims(session, connected, of_token, params.get("subs", {}))
        session.at_connect = {}
        results: dict[str, Any] = {}
        begun = [
            self._begin(session, topic, claim, of_token.get(topic), results)
            for topic, claim in claims.items()
        ]
        session.pause()
        reply = partial(self._answer, session, number, connected, results)
        beginnings = [beginning for beginning in begun if beginning is not None]
        Together(beginnings, reply, partial(self._resume, session)).look()

    def _begin(
        self,
        session: Session,
        topic: str,
        claim: Claim | Since,
        token: TopicClaims | None,
        results: dict[str, Any],
    ) -> Beginning | None:
        """Begin a subscription by the server; its result comes later.

        Args:
            session: the client.
            topic: to which it is subscribed.
            claim: where it has left off.
            token: what its token says about the topic.
            results: gets the result.

        Returns:
            None: the topic is full.
        """
        flags = self._topics.flags_by_server(session, topic)
        if token is not None:
            flags = flags.overridden(token.override)
        info = None if token is None else token.info
        subscription = Subscription(True, flags.join_leave, info)
        subscription.by_token = token is not None

        def done(arrival: Arrival | None) -> None:
            if arrival is not None:
                results[topic] = _result(arrival, claim, flags, token)

        try:
            return self._topics.enter(session, topic, subscription, claim, done)
        except LiveError:
            return None

    def _resume(self, session: Session) -> None:
        if session.is_connected:
            session.resume()

    def _answer(
        self,
        session: Session,
        number: int,
        connected: Connected,
        results: dict[str, Any],
    ) -> None:
        if session.stage is not Stage.CONNECTING:
            return  # it has gone
        result: dict[str, Any] = {
            "client": session.client_id,
            "version": f"simple_ws {RELEASE}",
            "ping": max(1, round(self._live.heartbeat)),
            "pong": True,
        }
        result |= self._credentials.lifetimes.connected(session, connected.expires_at)
        if connected.data is not None:
            result["data"] = connected.data
        if results:
            result["subs"] = results
        result |= session.client._emulated()
        session.stage = Stage.CONNECTED
        session.reply(number, "connect", result)
        session.flush()


def _wait_again(session: Session) -> None:
    """The client may try again."""
    if session.stage is Stage.CONNECTING:
        session.stage = Stage.WAITING


def _claims(
    session: Session,
    connected: Connected,
    of_token: Mapping[str, TopicClaims],
    said: Mapping[str, Any],
) -> dict[str, Claim | Since]:
    """The topics that the server subscribes, each with where the client has left off.

    Args:
        session: the client, with the topics that it was subscribed to meanwhile.
        connected: what the user's function has answered.
        of_token: what the token of the client says.
        said: what the client says about its subscriptions.
    """
    claims: dict[str, Claim | Since] = {
        topic: parse_since(since) for topic, since in session.at_connect.items()
    }
    claims |= dict.fromkeys((*connected.topics, *of_token))
    for topic in claims:
        sub = said.get(topic)
        if sub is not None and sub.get("recover"):
            claims[topic] = Claim(sub.get("epoch", ""), sub.get("offset", 0))
    return claims


def _result(
    arrival: Arrival, claim: Claim | Since, flags: Flags, token: TopicClaims | None
) -> dict[str, Any]:
    """What the reply says about a subscription."""
    result = subscribed(arrival, flags)
    if claim is not None and flags.recoverable:
        result |= recovered(arrival)
        entries = missed(arrival)
        if entries:
            result["publications"] = [
                entry_of(entry.offset, entry.body) for entry in entries
            ]
    if token is not None and token.data is not None:
        result["data"] = token.data
    return result


def _request(params: dict[str, Any], claims: ConnectionClaims | None) -> ConnectRequest:
    return ConnectRequest(
        params.get("token", ""),
        params.get("data"),
        params.get("name", ""),
        params.get("version", ""),
        params.get("headers", {}),
        "" if claims is None else claims.user,
        None if claims is None else claims.claims,
        tuple(params.get("subs", ())),
    )
