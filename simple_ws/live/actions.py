"""What each command does, and its result, or `LATER`.

Where functions of the user's are called they are generators (`deferred.run_steps`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ..cluster.content import WithHeaders
from ..cluster.history import Entry
from ..cluster.position import Position
from ..constants import RELEASE
from ..loop.deferred import Steps
from ..server.feeds import Arrival
from ..speedups import encode_json
from . import codes
from .codes import LiveError
from .commands import message_of
from .connecting import Connecting
from .credentials import Credentials, checked_info
from .flags import Flags
from .interfaces import LiveHost
from .methods import Subscribed, checked_time
from .positions import Claim
from .reading import Outcome, read_history, read_presence, read_presence_stats
from .session import LATER, Session, Subscription
from .topics import LiveTopics, missed, recovered, subscribed

if TYPE_CHECKING:
    from ..tokens import SubscriptionClaims

__all__ = ["Action", "Actions"]

Action = Callable[[Session, int, dict[str, Any]], Any]

#: Characters of the key of a publication; and what stands before it, so that no client
#: can use a key of `Server.publish` before the server does.
_MAX_KEY, _CLIENTS = 128, "live:"
#: A flag of `subscribe`: better an error than a subscription that is not recovered.
_REJECT_UNRECOVERED = 2
#: A subscription of which neither a function nor a token says anything.
_GRANTED = Subscribed()


class Actions:
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
        self._actions: dict[str, Action] = {
            "connect": Connecting(live, topics, credentials).connect,
            "subscribe": self._subscribe,
            "unsubscribe": self._unsubscribe,
            "publish": self._publish,
            "history": self._history,
            "presence": self._presence,
            "presence_stats": self._presence_stats,
            "rpc": self._rpc,
            "send": self._send,
            "ping": self._ping,
            "refresh": self._refresh,
            "sub_refresh": self._sub_refresh,
        }

    def __getitem__(self, method: str) -> Action:
        return self._actions[method]

    # Subscriptions

    def _subscribe(
        self, session: Session, number: int, params: dict[str, Any]
    ) -> Steps:
        topic = params["channel"]
        self._check_free(session, topic)
        token = params.get("token", "")
        claims = yield from self._credentials.subscription(session, topic, token)
        if claims is None:
            yield from session.check("subscribe", topic)
        client, data = session.client, params.get("data")
        answer = yield from session.ask("on_subscribe", client, topic, data)
        granted = self._granted(answer, claims)
        joins = params.get("join_leave", False)
        if joins and claims is None and self._live.asks_for_joins:
            joins = yield from session.may("presence", topic)
        self._check_free(session, topic)  # the server may have subscribed it meanwhile
        if not session.is_connected:
            return LATER
        recover = params.get("recover", False)
        flags = self._live.flags(client, topic, False).asked(
            recover or params.get("recoverable", False),
            params.get("positioned", False),
            joins,
        )
        if claims is not None:
            flags = flags.overridden(claims.topic.override)
        claim = None
        if recover and flags.recoverable:
            claim = Claim(params.get("epoch", ""), params.get("offset", 0))
        subscription = Subscription(join_leave=flags.join_leave, info=granted.info)
        done = partial(self._answer_subscribe, session, number, params, flags, granted)
        self._topics.begin(session, topic, subscription, claim, done)
        return LATER

    def _granted(self, answer: Any, claims: SubscriptionClaims | None) -> Subscribed:
        """What holds for a subscription, as the user's function and the token say.

        Raises:
            LiveError: It has expired.
            TypeError, ValueError: What the function gave is no good.
        """
        if answer is None and claims is None:
            return _GRANTED
        granted = answer if isinstance(answer, Subscribed) else Subscribed(answer)
        encode_json(granted.data)  # raises now what JSON cannot represent
        checked_info(granted.info)
        checked_time(granted.expires_at)
        if claims is not None:
            data, info, expires_at = granted.data, granted.info, granted.expires_at
            granted = Subscribed(
                claims.topic.data if data is None else data,
                claims.topic.info if info is None else info,
                claims.expires_at if expires_at is None else expires_at,
            )
        self._credentials.lifetimes.check_time(granted.expires_at)
        return granted

    def _check_free(self, session: Session, topic: str) -> None:
        if topic in session.topics:
            raise LiveError(*codes.ALREADY_SUBSCRIBED)
        if len(session.topics) >= self._live.max_topics:
            raise LiveError(*codes.LIMIT_EXCEEDED)
        if len(topic) > codes.MAX_CHANNEL:
            raise LiveError(*codes.BAD_REQUEST)

    def _answer_subscribe(
        self,
        session: Session,
        number: int,
        params: dict[str, Any],
        flags: Flags,
        granted: Subscribed,
        arrival: Arrival | None,
    ) -> None:
        if arrival is None:
            session.reply_error(number, *codes.INTERNAL, temporary=True)
            return
        result = subscribed(arrival, flags)
        entries: tuple[Entry, ...] = ()
        if params.get("recover") and flags.recoverable:
            result |= recovered(arrival)
            entries = missed(arrival)
            wanted = params.get("flag", 0) & _REJECT_UNRECOVERED
            if wanted and not result["recovered"]:
                self._topics.end(session, params["channel"])
                session.reply_error(number, *codes.UNRECOVERABLE_POSITION)
                return
        if granted.data is not None:
            result["data"] = granted.data
        if granted.expires_at is not None:
            topic, until = params["channel"], granted.expires_at
            result |= self._credentials.lifetimes.subscribed(session, topic, until)
        session.reply(number, "subscribe", result, entries)

    def _unsubscribe(
        self, session: Session, number: int, params: dict[str, Any]
    ) -> Any:
        self._topics.end(session, params["channel"])
        return {}

    # Publishing

    def _publish(self, session: Session, number: int, params: dict[str, Any]) -> Steps:
        topic, data = params["channel"], params["data"]
        key = params.get("key", "")
        if len(topic) > codes.MAX_CHANNEL or len(key) > _MAX_KEY:
            raise LiveError(*codes.BAD_REQUEST)
        yield from session.check("publish", topic)
        changed = yield from session.ask("on_publish", session.client, topic, data)
        # What the user's function gave may raise: that is no mistake of the client.
        msg = data if changed is None else message_of(changed)
        session.flush()

        def done(taken: Position | bool | None) -> None:
            if taken:
                session.reply(number, "publish", {})
            else:
                session.reply_error(number, *codes.INTERNAL, temporary=True)

        try:
            msg = WithHeaders(message_of(msg), session.headers_in(topic))
            own = f"{_CLIENTS}{key}" if key else None
            self._live.server._publish_confirmed(topic, msg, own, done)
        except (ValueError, RecursionError):  # too large, or too deep
            raise LiveError(*codes.BAD_REQUEST) from None
        return LATER

    # Looking

    def _history(self, session: Session, number: int, params: dict[str, Any]) -> Steps:
        return self._read(session, number, params, "history", read_history)

    def _presence(self, session: Session, number: int, params: dict[str, Any]) -> Steps:
        return self._read(session, number, params, "presence", read_presence)

    def _presence_stats(
        self, session: Session, number: int, params: dict[str, Any]
    ) -> Steps:
        return self._read(session, number, params, "presence", read_presence_stats)

    def _read(
        self,
        session: Session,
        number: int,
        params: dict[str, Any],
        action: str,
        read: Callable[[Any, dict[str, Any], Callable[[Outcome], object]], object],
    ) -> Steps:
        """Read something of a topic; the answer comes when it is known."""
        topic = params["channel"]
        if len(topic) > codes.MAX_CHANNEL:
            raise LiveError(*codes.BAD_REQUEST)
        yield from session.check(action, topic)
        method = "presence_stats" if read is read_presence_stats else action

        def reply(outcome: Outcome) -> None:
            if isinstance(outcome, LiveError):
                error = outcome
                session.reply_error(number, error.code, error.message, error.temporary)
            else:
                session.reply(number, method, outcome)

        read(self._live.server, params, reply)
        return LATER

    # Calls

    def _rpc(self, session: Session, number: int, params: dict[str, Any]) -> Steps:
        name, data = params.get("method", ""), params.get("data")
        yield from session.check("call", name)
        changed = yield from session.ask("on_rpc", session.client, name, data)
        data = data if changed is None else changed
        function = self._live.methods.find(name)
        if function is None:
            raise LiveError(*codes.METHOD_NOT_FOUND)
        return {"data": (yield session.call(name, function, session.client, data))}

    def _send(self, session: Session, number: int, params: dict[str, Any]) -> Steps:
        yield from session.ask("on_send", session.client, params.get("data"))
        return {}

    def _ping(self, session: Session, number: int, params: dict[str, Any]) -> Any:
        return {}

    # Expiry

    def _refresh(self, session: Session, number: int, params: dict[str, Any]) -> Steps:
        token = params.get("token", "")
        expiry = yield from self._credentials.refresh_connection(session, token)
        if not session.is_connected:
            return LATER
        version = f"simple_ws {RELEASE}"
        return {"client": session.client_id, "version": version, **expiry}

    def _sub_refresh(
        self, session: Session, number: int, params: dict[str, Any]
    ) -> Steps:
        topic, token = params["channel"], params.get("token", "")
        return self._credentials.refresh_subscription(session, topic, token)
