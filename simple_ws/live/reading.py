"""What is read of topics: their history and who is present, as the protocol has them.

Who may read is decided by those who ask (`actions` for clients, `api` for servers).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

from ..cluster.history import Entry, History
from ..cluster.since import UNKNOWN
from ..cluster.topic_rules import TopicRule
from ..loop.future import LoopFuture
from . import codes
from .codes import LiveError
from .commands import entry_of
from .positions import Claim, epoch_of

__all__ = [
    "Outcome",
    "info_of",
    "read_history",
    "read_presence",
    "read_presence_stats",
]

#: A result, or why there is none.
Outcome = dict[str, Any] | LiveError

#: Seconds that the engine and other nodes have: SDKs wait for 5; and between two looks.
_TIMEOUT, _BETWEEN_LOOKS = 4.0, 0.1
#: A member that is a connection, see `Server.present`; its identity after a space.
_CONNECTION = re.compile(r"([0-9]+@[0-9a-f]{16})(?: (.*))?", re.DOTALL)


def read_history(
    server: Any, params: dict[str, Any], done: Callable[[Outcome], object]
) -> None:
    """Read messages of a topic with history.

    Args:
        server: that has the topic.
        params: of the method `history`.
        done: called with its result.

    Raises:
        LiveError: The topic has no history.
    """
    topic = params["channel"]
    rule = _rule(server, topic)
    if rule is None or not rule.history:
        raise LiveError(*codes.NOT_AVAILABLE)
    claim, since = None, params.get("since")
    if since is not None:
        claim = Claim(since.get("epoch", ""), since.get("offset", 0))
    future: LoopFuture[Outcome] = LoopFuture(server._in_loop)
    take = partial(_page, server, params, claim)
    position = None if claim is None else claim.position
    server._histories.read(future, topic, rule, position, _TIMEOUT, take)

    def give(future: Any) -> None:
        failed = future.exception() is not None
        internal = LiveError(*codes.INTERNAL, temporary=True)
        done(internal if failed else future.result())

    future.add_done_callback(give)


def _page(
    server: Any, params: dict[str, Any], claim: Claim | None, history: History
) -> Outcome:
    history.expire(server._clock())
    if claim is not None and claim.since(history) is UNKNOWN:
        return LiveError(*codes.UNRECOVERABLE_POSITION)
    position, limit = history.position, params.get("limit", 0)
    most = None if limit < 0 else limit
    found = _selected(history, claim, params.get("reverse", False)) if limit else []
    return {
        "epoch": epoch_of(position),
        "offset": position.offset,
        "publications": [entry_of(entry.offset, entry.body) for entry in found[:most]],
    }


def _selected(history: History, claim: Claim | None, reverse: bool) -> list[Entry]:
    """The messages after a claim, or before it in reverse, or all."""
    after = 0 if claim is None or reverse else claim.offset
    found = [entry for entry in history.after(after) if entry.body is not None]
    if reverse:
        if claim is not None:
            found = [entry for entry in found if entry.offset < claim.offset]
        found.reverse()
    return found


def read_presence(
    server: Any, params: dict[str, Any], done: Callable[[Outcome], object]
) -> None:
    """Who is present in a topic with presence, by a connection of each.

    A node that has not watched the topic asks the others first, which takes a second.

    Args:
        server: that has the topic.
        params: of the method `presence`.
        done: called with its result.

    Raises:
        LiveError: The topic has no presence.
    """
    topic = params["channel"]
    rule = _rule(server, topic)
    if rule is None or not rule.presence:
        raise LiveError(*codes.NOT_AVAILABLE)
    _Looking(server, topic, done).look()


def read_presence_stats(
    server: Any, params: dict[str, Any], done: Callable[[Outcome], object]
) -> None:
    """How many are present; see `read_presence`."""

    def count(outcome: Outcome) -> None:
        if isinstance(outcome, LiveError):
            done(outcome)
            return
        members = outcome["presence"]
        users = {info["user"] for info in members.values()}
        done({"num_clients": len(members), "num_users": len(users)})

    read_presence(server, params, count)


class _Looking:
    """A look at who is present, until that is known."""

    def __init__(
        self, server: Any, topic: str, done: Callable[[Outcome], object]
    ) -> None:
        self._server, self._topic, self._done = server, topic, done
        self._until = server._clock() + _TIMEOUT

    def look(self) -> None:
        """Look now, and again."""
        present = self._server.present(self._topic)
        if not present.stale:
            infos = (info_of(member, payload) for member, payload in present.items())
            self._done({"presence": {info["client"]: info for info in infos}})
        elif self._server._clock() < self._until:
            self._server.reactor.call_later(_BETWEEN_LOOKS, self.look)
        else:
            self._done(LiveError(*codes.INTERNAL, temporary=True))


def _rule(server: Any, topic: str) -> TopicRule | None:
    found: TopicRule | None = server._topic_rules.find(topic)
    return found


def info_of(member: Hashable, payload: dict[str, Any] | None) -> dict[str, Any]:
    """A member of a topic, as clients see it."""
    name = str(member)
    alone = _CONNECTION.fullmatch(name) if isinstance(member, str) else None
    client, user = (name, name) if alone is None else alone.groups("")
    info: dict[str, Any] = {"client": client, "user": user}
    if alone is not None and alone[2] is not None:
        return info | (payload or {})  # it is what `Session.info_in` says
    if payload is not None:
        info["conn_info"] = payload
    return info
