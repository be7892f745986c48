"""What each command does, and its result, or `LATER`.

Where functions of the user's are called they are generators (`deferred.run_steps`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ..cluster.position import Position
from ..cluster.since import Since, parse_since
from ..constants import RELEASE
from ..errors import AuthenticationError
from ..loop.deferred import Steps
from ..messages import encode_json
from ..server.feeds import Arrival
from . import codes
from .codes import Disconnect, LiveError
from .commands import message_of
from .flags import Flags
from .interfaces import LiveHost
from .methods import Connected, ConnectRequest
from .positions import Claim
from .reading import Outcome, read_history, read_presence, stats_of
from .session import LATER, Session, Stage, Subscription
from .topics import LiveTopics, recovered, subscribed

__all__ = ["Action", "Actions"]

Action = Callable[[Session, int, dict[str, Any]], Any]

#: Characters of the name of a topic.
_MAX_TOPIC = 255
#: Characters of the key of a publication; and what stands before it, so that no client
#: can use a key of `Server.publish` before the server does.
_MAX_KEY, _CLIENTS = 128, "live:"
#: A flag of `subscribe`: better an error than a subscription that is not recovered.
_REJECT_UNRECOVERED = 2


class Actions:
    """See the head of the module.

    Args:
        live: the handler.
        topics: the subscriptions of its clients.
    """

    def __init__(self, live: LiveHost, topics: LiveTopics) -> None:
        self._live, self._topics = live, topics
        self._actions: dict[str, Action] = {
            "connect": self._connect,
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
            "sub_refresh": self._refresh,
        }

    def __getitem__(self, method: str) -> Action:
        return self._actions[method]

    # connect

    def _connect(self, session: Session, number: int, params: dict[str, Any]) -> Steps:
        session.stage = Stage.CONNECTING
        request = ConnectRequest(
            params.get("token", ""),
            params.get("data"),
            params.get("name", ""),
            params.get("version", ""),
            params.get("headers", {}),
        )
        try:
            connected = yield from self._ask_to_connect(session, request)
        except Exception as error:
            if not isinstance(error, LiveError) or error.temporary:
                session.stage = Stage.WAITING  # it may try again
                raise
            session.reply_error(number, error.code, error.message)
            session.disconnect(Disconnect.INVALID_TOKEN)
            return LATER
        if session.stage is Stage.CONNECTING:
            self._begin_all(session, number, params, connected)
        return LATER

    def _ask_to_connect(self, session: Session, request: ConnectRequest) -> Steps:
        client, hook = session.client, self._live.hooks["on_connect"]
        answer = None
        if hook is not None:
            try:
                answer = yield session.call("on_connect", hook, client, request)
            except AuthenticationError as error:
                host = client._host
                host._log.note_refusal(client._request.address, str(error))
                answer = False
        connected = Connected() if answer is None or answer is True else answer
        if connected is False:
            raise LiveError(*codes.UNAUTHORIZED)
        if not isinstance(connected, Connected):
            raise TypeError(
                f"on_connect must return None, False or Connected, not {answer!r}"
            )
        encode_json(connected.data)  # raises now what JSON cannot represent
        if connected.user is not None:
            client.bind(connected.user)
        if client in self._live.server._strangers:
            raise LiveError(*codes.UNAUTHORIZED)
        return connected

    def _begin_all(
        self,
        session: Session,
        number: int,
        params: dict[str, Any],
        connected: Connected,
    ) -> None:
        """Begin all subscriptions by the server, then answer."""
        claims: dict[str, Claim | Since] = {
            topic: parse_since(since) for topic, since in session.at_connect.items()
        }
        session.at_connect = {}
        claims |= dict.fromkeys(connected.topics)
        results: dict[str, Any] = {}
        waiting = set(claims)

        def begun(
            topic: str, claim: Any, flags: Flags, arrival: Arrival | None
        ) -> None:
            if arrival is not None:
                results[topic] = subscribed(arrival, flags)
                if claim is not None and flags.recoverable:
                    results[topic] |= recovered(arrival)
            waiting.discard(topic)
            if not waiting and session.stage is Stage.CONNECTING:
                self._answer_connect(session, number, connected, results)

        said = params.get("subs", {})
        for topic, claim in claims.items():
            sub = said.get(topic)
            if sub is not None and sub.get("recover"):
                claim = Claim(sub.get("epoch", ""), sub.get("offset", 0))
            flags = self._topics.flags_by_server(session, topic)
            done = partial(begun, topic, claim, flags)
            subscription = Subscription(True, flags.join_leave)
            try:
                self._topics.begin(session, topic, subscription, claim, done)
            except LiveError:
                waiting.discard(topic)  # it is full
        if waiting:
            session.hold()
        elif session.stage is Stage.CONNECTING:
            self._answer_connect(session, number, connected, results)

    def _answer_connect(
        self,
        session: Session,
        number: int,
        connected: Connected,
        results: dict[str, Any],
    ) -> None:
        live, client = self._live, session.client
        result: dict[str, Any] = {
            "client": f"{client.id}@{live.server.cluster.id}",
            "version": f"simple_ws {RELEASE}",
            "ping": max(1, round(live.heartbeat)),
            "pong": True,
        }
        if connected.data is not None:
            result["data"] = connected.data
        if results:
            result["subs"] = results
        session.stage = Stage.CONNECTED
        session.reply(number, "connect", result)
        session.flush()
        session.go_on()

    # Subscriptions

    def _subscribe(
        self, session: Session, number: int, params: dict[str, Any]
    ) -> Steps:
        topic = params["channel"]
        self._check_free(session, topic)
        yield from session.check("subscribe", topic)
        client, data = session.client, params.get("data")
        answer = yield from session.ask("on_subscribe", client, topic, data)
        encode_json(answer)  # raises now what JSON cannot represent
        self._check_free(session, topic)  # the server may have subscribed it meanwhile
        if not session.is_connected:
            return LATER
        recover = params.get("recover", False)
        flags = self._live.flags(client, topic, False).asked(
            recover or params.get("recoverable", False),
            params.get("positioned", False),
            params.get("join_leave", False),
        )
        claim = None
        if recover and flags.recoverable:
            claim = Claim(params.get("epoch", ""), params.get("offset", 0))
        subscription = Subscription(join_leave=flags.join_leave)
        done = partial(self._answer_subscribe, session, number, params, flags, answer)
        self._topics.begin(session, topic, subscription, claim, done)
        return LATER

    def _check_free(self, session: Session, topic: str) -> None:
        if topic in session.topics:
            raise LiveError(*codes.ALREADY_SUBSCRIBED)
        if len(session.topics) >= self._live.max_topics:
            raise LiveError(*codes.LIMIT_EXCEEDED)
        if len(topic) > _MAX_TOPIC:
            raise LiveError(*codes.BAD_REQUEST)

    def _answer_subscribe(
        self,
        session: Session,
        number: int,
        params: dict[str, Any],
        flags: Flags,
        data: Any,
        arrival: Arrival | None,
    ) -> None:
        if arrival is None:
            session.reply_error(number, *codes.INTERNAL, temporary=True)
            return
        result = subscribed(arrival, flags)
        if params.get("recover") and flags.recoverable:
            result |= recovered(arrival)
            wanted = params.get("flag", 0) & _REJECT_UNRECOVERED
            if wanted and not result["recovered"]:
                self._topics.end(session, params["channel"])
                session.reply_error(number, *codes.UNRECOVERABLE_POSITION)
                return
        if data is not None:
            result["data"] = data
        session.reply(number, "subscribe", result)

    def _unsubscribe(
        self, session: Session, number: int, params: dict[str, Any]
    ) -> Any:
        self._topics.end(session, params["channel"])
        return {}

    # Publishing

    def _publish(self, session: Session, number: int, params: dict[str, Any]) -> Steps:
        topic, data = params["channel"], params["data"]
        key = params.get("key", "")
        if len(topic) > _MAX_TOPIC or len(key) > _MAX_KEY:
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
            msg = message_of(msg)
            own = f"{_CLIENTS}{key}" if key else None
            self._live.server._publish_confirmed(topic, msg, own, done)
        except (ValueError, RecursionError):  # too large, or too deep
            raise LiveError(*codes.BAD_REQUEST) from None
        return LATER

    # Looking

    def _history(self, session: Session, number: int, params: dict[str, Any]) -> Steps:
        yield from session.check("history", params["channel"])

        def reply(outcome: Outcome) -> None:
            if isinstance(outcome, LiveError):
                error = outcome
                session.reply_error(number, error.code, error.message, error.temporary)
            else:
                session.reply(number, "history", outcome)

        read_history(self._live.server, params, reply)
        return LATER

    def _presence(self, session: Session, number: int, params: dict[str, Any]) -> Steps:
        return {"presence": (yield from self._members(session, params["channel"]))}

    def _presence_stats(
        self, session: Session, number: int, params: dict[str, Any]
    ) -> Steps:
        return stats_of((yield from self._members(session, params["channel"])))

    def _members(self, session: Session, topic: str) -> Steps:
        yield from session.check("presence", topic)
        return read_presence(self._live.server, topic)

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

    def _refresh(self, session: Session, number: int, params: dict[str, Any]) -> Any:
        raise LiveError(*codes.NOT_AVAILABLE)  # nothing expires
