"""`ApiMethods`: what each method of the server API does on this node.

What all nodes do is in `api_nodes`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from ...cluster.answers import Answers
from ...cluster.position import Position
from ...cluster.topic_rules import check_key
from ...messages import check_close
from .. import codes
from ..codes import Disconnect, LiveError
from ..commands import message_of, with_headers
from ..credentials import checked_info
from ..positions import epoch_of
from ..reading import Outcome, read_history, read_presence, read_presence_stats
from .nodes import QUESTION, matcher
from .several import Several

__all__ = ["ApiMethods", "Done"]

#: Called once, with the result or the error.
Done = Callable[[Outcome], object]

#: Seconds that other nodes, and the engine, have to answer: clients wait for 10.
_TIMEOUT, _ENGINE_TIMEOUT = 3.0, 8.0


class ApiMethods:
    """See the head of the module.

    Args:
        server: that it publishes by.
        check: called with the topic of a call; it may raise LiveError.
    """

    def __init__(
        self, server: Any, check: Callable[[str], object] | None = None
    ) -> None:
        self._server = server
        self._check_more = check
        self._methods: dict[str, Callable[[dict[str, Any], Done], object]] = {
            "publish": self._publish,
            "broadcast": self._broadcast,
            "subscribe": self._subscribe,
            "unsubscribe": self._unsubscribe,
            "disconnect": self._disconnect,
            "refresh": self._refresh,
            "presence": self._presence,
            "presence_stats": self._presence_stats,
            "history": self._history,
            "history_remove": self._history_remove,
            "channels": self._channels,
            "info": self._info,
        }

    def call(self, name: str, params: dict[str, Any], done: Done) -> None:
        """Call a method.

        Args:
            name: of the method.
            params: checked.
            done: called once, with the result or the error.
        """
        self._guard(partial(self._methods[name], params, done), done)

    def _guard(self, function: Callable[[], object], done: Done) -> None:
        """Call a function; `done` gets what it raises."""
        try:
            function()
        except LiveError as error:
            done(error)
        except Exception as error:  # of a function of the user's, such as `latest`
            self._server._log.note_failure(
                "calls of the server API failed",
                "a call of the server API failed",
                error=error,
            )
            done(LiveError(*codes.INTERNAL))

    def _channel(self, params: dict[str, Any]) -> str:
        channel: str = params["channel"]
        self._check(channel)
        return channel

    def _check(self, channel: str) -> None:
        _check_channel(channel)
        if self._check_more is not None:
            self._check_more(channel)

    # Publishing

    def _publish(self, params: dict[str, Any], done: Done) -> None:
        self._publish_to(self._channel(params), _publication(params), params, done)

    def _broadcast(self, params: dict[str, Any], done: Done) -> None:
        topics, publication = params["channels"], _publication(params)
        if not topics:
            raise _bad("channels must not be empty")

        def publish(topic: str, note: Callable[[dict[str, Any]], object]) -> None:
            def begin() -> None:
                self._check(topic)
                self._publish_to(topic, publication, params, reply)

            def reply(outcome: Outcome) -> None:
                note(_response(outcome))

            self._guard(begin, reply)

        calls = [partial(publish, topic) for topic in topics]
        give = lambda responses: done({"responses": responses})  # noqa: E731
        Several(self._server.reactor, calls, give, parallel=True).begin()

    def _publish_to(
        self,
        topic: str,
        publication: _Publication,
        params: dict[str, Any],
        done: Done,
    ) -> None:
        """Publish one message; the answer comes when the engine has it."""
        server, key = self._server, params.get("idempotency_key") or None
        rule = server._topic_rules.find(topic)
        kept = rule is not None and rule.history > 0
        keep = kept and not params.get("skip_history")
        if key is not None:
            _check_key(key, topic, keep)
        if kept and not keep:
            order = {"do": "send", "topic": topic, "tags": publication.tags}
            self._everywhere({**order, **_portable(publication.data)}, done)
            return
        engine = server._engine
        if not kept and engine is not None and not engine.state.up:
            raise LiveError(*codes.INTERNAL)  # it would be lost
        waiting = _Waiting(server, done)
        try:
            msg = publication.msg
            server._publish_confirmed(topic, msg, key, waiting.note)
        except (ValueError, RecursionError) as error:  # too large, or too deep
            waiting.end(_bad(str(error)))
        else:
            waiting.begin()

    # Connections

    def _subscribe(self, params: dict[str, Any], done: Done) -> None:
        topic = self._channel(params)
        data, info = _data(params), params.get("info")
        try:
            checked_info(info)
        except (ValueError, RecursionError) as error:
            raise _bad(str(error)) from None
        self._everywhere(
            {
                "do": "subscribe",
                **_connections(params),
                "topic": topic,
                "since": params.get("recover_since"),
                "info": info,
                "expires_at": params.get("expire_at") or None,
                **({} if data is None else _portable(data[0])),
            },
            done,
        )

    def _unsubscribe(self, params: dict[str, Any], done: Done) -> None:
        order = {
            "do": "unsubscribe",
            **_connections(params),
            "topic": params["channel"],
        }
        self._everywhere(order, done)

    def _disconnect(self, params: dict[str, Any], done: Done) -> None:
        code, reason = Disconnect.FORCED
        given = params.get("disconnect")
        if given is not None:
            code, reason = given.get("code", 0), given.get("reason", "")
        try:
            check_close(code, reason)
        except ValueError as error:
            raise _bad(str(error)) from None
        order = {"do": "disconnect", **_connections(params), "code": code}
        stay = params.get("whitelist", [])
        self._everywhere({**order, "reason": reason, "stay": stay}, done)

    def _refresh(self, params: dict[str, Any], done: Done) -> None:
        expires_at = params.get("expire_at") or None
        if params.get("expired"):
            expires_at = 0
        order = {"do": "refresh", **_connections(params), "expires_at": expires_at}
        self._everywhere(order, done)

    def _everywhere(self, order: dict[str, Any], done: Done) -> None:
        """Have all nodes do something."""
        self._ask(order, lambda answers: done({}), done)

    def _ask(
        self,
        order: dict[str, Any],
        give: Callable[[list[Any]], object],
        done: Done,
    ) -> None:
        """Ask all nodes something; `done` gets the error if one does not answer."""
        future = self._server.cluster._ask(QUESTION, order, _TIMEOUT, list)

        def note(asked: Any) -> None:
            answers: Answers = asked.result()
            if answers.missing or answers.errors:
                why = [f"{name} has not answered" for name in answers.missing]
                why += [f"{name}: {error}" for name, error in answers.errors.items()]
                code, text = codes.INTERNAL
                done(LiveError(code, f"{text}: {', '.join(why)[:500]}"))
            else:
                give(answers.value)

        future.add_done_callback(note)

    # Looking

    def _presence(self, params: dict[str, Any], done: Done) -> None:
        self._channel(params)
        read_presence(self._server, params, done)

    def _presence_stats(self, params: dict[str, Any], done: Done) -> None:
        self._channel(params)
        read_presence_stats(self._server, params, done)

    def _history(self, params: dict[str, Any], done: Done) -> None:
        self._channel(params)
        read_history(self._server, params, done)

    def _history_remove(self, params: dict[str, Any], done: Done) -> None:
        server, topic = self._server, self._channel(params)
        rule = server._topic_rules.find(topic)
        if rule is None or not rule.history:
            raise LiveError(*codes.NOT_AVAILABLE)
        waiting = _Waiting(server, done)

        def removed(offset: int | None) -> None:
            if offset is None:
                waiting.end(LiveError(*codes.INTERNAL))
            else:
                order = {"do": "forget", "topic": topic, "offset": offset}
                self._everywhere(order, waiting.end)

        server._histories.remove(topic, rule, removed)
        waiting.begin()

    def _channels(self, params: dict[str, Any], done: Done) -> None:
        def give(answers: list[dict[str, int]]) -> None:
            counts: dict[str, int] = {}
            for answer in answers:
                for topic, count in answer.items():
                    counts[topic] = counts.get(topic, 0) + count
            found = {topic: {"num_clients": count} for topic, count in counts.items()}
            done({"channels": found})

        pattern = params.get("pattern", "")
        try:
            matcher(pattern)
        except ValueError as error:
            raise _bad(str(error)) from None
        self._ask({"do": "channels", "pattern": pattern}, give, done)

    def _info(self, params: dict[str, Any], done: Done) -> None:
        self._ask({"do": "info"}, lambda nodes: done({"nodes": nodes}), done)


class _Publication(NamedTuple):
    """What is published.

    Attributes:
        data: as it was given; bytes if it was in base64.
        tags: that subscribers get with it, or None.
        msg: both, as for `Server.publish`.
    """

    data: Any
    tags: dict[str, str] | None
    msg: object


class _Waiting:
    """Something that the engine has not confirmed."""

    def __init__(self, server: Any, done: Done) -> None:
        self._server = server
        self._done: Done | None = done
        self._timer: Any = None

    def note(self, placed: Position | bool | None) -> None:
        """A publication is stored, or was taken, or was not."""
        if isinstance(placed, Position):
            self.end({"offset": placed.offset, "epoch": epoch_of(placed)})
        else:
            self.end({} if placed else LiveError(*codes.INTERNAL))

    def begin(self) -> None:
        """Wait, if that is necessary."""
        if self._done is not None:
            code, text = codes.INTERNAL
            late = LiveError(code, f"{text}: the engine has not answered")
            call_later = self._server.reactor.call_later
            self._timer = call_later(_ENGINE_TIMEOUT, partial(self.end, late))

    def end(self, outcome: Outcome) -> None:
        """Give the outcome, once."""
        done, self._done = self._done, None
        if self._timer is not None:
            self._timer.cancel()
        if done is not None:
            done(outcome)


# Parameters


def _bad(why: str) -> LiveError:
    return LiveError(codes.BAD_REQUEST.code, f"bad request: {why}"[:500])


def _check_channel(channel: str) -> None:
    if not channel:
        raise _bad("channel must not be empty")
    if len(channel) > codes.MAX_CHANNEL:
        raise _bad(f"channel must have at most {codes.MAX_CHANNEL} characters")
    try:
        channel.encode()
    except UnicodeEncodeError:
        raise _bad("channel is not valid Unicode") from None


def _data(params: dict[str, Any]) -> tuple[Any] | None:
    """What is given as `data` or `b64data`, or None."""
    encoded = params.get("b64data")
    if encoded:
        try:
            return (base64.b64decode(encoded, validate=True),)
        except (binascii.Error, ValueError):
            raise _bad("b64data is not base64") from None
    return (params["data"],) if "data" in params else None


def _publication(params: dict[str, Any]) -> _Publication:
    given = _data(params)
    if given is None:
        raise _bad("data is missing")
    (data,), tags = given, params.get("tags") or None
    try:
        msg = data if isinstance(data, bytes) else message_of(data)
        return _Publication(data, tags, with_headers(msg, tags=tags))
    except (ValueError, RecursionError):
        raise _bad("data is too deep") from None


def _check_key(key: str, topic: str, kept: bool) -> None:
    if not kept:
        code, text = codes.NOT_AVAILABLE
        why = "idempotency_key is for what is kept in a history"
        raise LiveError(code, f"{text}: {why}")
    try:
        check_key(key, topic, kept)
        key.encode()
    except ValueError as error:
        raise _bad(str(error)) from None


def _connections(params: dict[str, Any]) -> dict[str, Any]:
    """Whom a method means."""
    wanted = {name: params.get(name, "") for name in ("user", "client", "session")}
    if not any(wanted.values()):
        raise _bad("user must not be empty, or client or session must be given")
    return wanted


def _portable(data: Any) -> dict[str, Any]:
    """What was given, as it travels to other nodes."""
    if isinstance(data, bytes):
        return {"b64data": base64.b64encode(data).decode()}
    return {"data": data}


def _response(outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, LiveError):
        return {"error": {"code": outcome.code, "message": outcome.message}}
    return {"result": outcome}
