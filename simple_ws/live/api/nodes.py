"""What each node does when the server API is used on one of them: see `api_methods`.

An order is a JSON object; `do` is its name. All nodes that serve `live` carry it out,
whether they have the API or not.
"""

from __future__ import annotations

import base64
import fnmatch
import math
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from uuid import UUID

from ...cluster.asking import MAX_BODY
from ...loop.deferred import InThread
from ..commands import message_of, with_headers
from ..methods import Subscribed
from ..positions import Claim

__all__ = ["QUESTION", "carry_out", "matcher"]

#: The kind of a question to nodes, see `ControlRun.answer`.
QUESTION = "live"
#: Topics that are looked through in a thread.
_MANY = 10_000
#: Characters of a pattern, and its alternatives.
_MAX_PATTERN, _MAX_ALTERNATIVES = 1000, 100


def carry_out(server: Any, order: Any) -> Any:
    """Carry out an order, and return the answer of this node.

    Raises:
        LookupError, TypeError, ValueError: It is malformed, or a function of the
            user's has failed.
    """
    try:
        return _ORDERS[order["do"]](server, order)
    except (LookupError, TypeError, ValueError):
        raise
    except Exception as error:  # such as of `latest`
        server._log.note_failure(
            "orders of the server API failed",
            "an order of the server API failed",
            error=error,
        )
        raise ValueError("it failed") from None


# Whom an order means


def _chosen(server: Any, order: dict[str, Any]) -> Iterator[Any]:
    """The connections that an order means."""
    own, name = f"@{server.cluster.id}", order["client"]
    if name and not name.endswith(own):
        return
    session = order["session"]
    for client in _connections(server, order["user"]):
        if name and f"{client.id}{own}" != name:
            continue
        if session and _session_id(client) != session:
            continue
        yield client


def _connections(server: Any, user: str) -> list[Any]:
    """Those of an identity, or those without one."""
    if not user:
        return [each for each in server.clients if each._client_id is None]
    return [
        client
        for identity in _identities(user)
        for client in server._identities.members(identity)
    ]


def _identities(user: str) -> Iterator[Any]:
    """What a user may be bound as, see `info_of`."""
    yield user
    if user.isascii() and user.lstrip("-").isdigit() and len(user) < 20:
        number = int(user)
        if str(number) == user:
            yield number
    elif len(user) == 36:
        try:
            identity = UUID(user)
        except ValueError:
            return
        if str(identity) == user:
            yield identity


def _session_id(client: Any) -> str:
    """Of a client without WebSockets, as `connect` has told it."""
    return "" if client._live is None else client._emulated().get("session", "")


# Orders


def _subscribe(server: Any, order: dict[str, Any]) -> int:
    since, topic = order["since"], order["topic"]
    if since is not None:
        since = Claim(since.get("epoch", ""), since.get("offset", 0))
    data = order.get("b64data", order.get("data"))
    granted, count = Subscribed(data, order["info"], order["expires_at"]), 0
    for client in _chosen(server, order):
        session = client._live
        if session is not None:
            count += session.live.join_topic(session, topic, since, granted)
    return count


def _unsubscribe(server: Any, order: dict[str, Any]) -> int:
    topic, count = order["topic"], 0
    for client in _chosen(server, order):
        session = client._live
        if session is None:
            continue
        topics = [topic] if topic else list(session.topics)
        for each in topics:
            count += each in session.topics
            session.leave(each, client)
    return count


def _disconnect(server: Any, order: dict[str, Any]) -> int:
    own, stay, count = f"@{server.cluster.id}", set(order["stay"]), 0
    for client in list(_chosen(server, order)):
        if f"{client.id}{own}" not in stay:
            count += client.close(order["code"], order["reason"])
    return count


def _refresh(server: Any, order: dict[str, Any]) -> int:
    count, expires_at = 0, order["expires_at"]
    for client in _chosen(server, order):
        session = client._live
        if session is not None and session.is_connected:
            count += 1
            session.live.expire_client(session, expires_at)
    return count


def _send(server: Any, order: dict[str, Any]) -> int:
    """Send a message of a topic with history that is not kept."""
    encoded = order.get("b64data")
    if encoded is not None:
        msg: object = base64.b64decode(encoded)
    else:
        msg = message_of(order["data"])
    msg = with_headers(msg, tags=order["tags"])
    taken: int = server.publish(order["topic"], msg, local=True)
    return taken


def _forget(server: Any, order: dict[str, Any]) -> None:
    """Messages were removed from a history: drop the copies of this node."""
    server._histories.forget(order["topic"], order["offset"])


def _channels(server: Any, order: dict[str, Any]) -> dict[str, int] | InThread:
    matches, counts = matcher(order["pattern"]), server._counts()
    limit = MAX_BODY if server.cluster._has_engine else math.inf
    select = partial(_selected, counts, matches, limit)
    # The loop need not wait for a hundred thousand names.
    return InThread(select) if len(counts) > _MANY else select()


def _selected(
    counts: dict[str, int], matches: Callable[[str], object], limit: float
) -> dict[str, int]:
    """The topics of a pattern, as far as the answer of a node may have them."""
    found = {topic: count for topic, count in counts.items() if matches(topic)}
    if sum(len(topic) + 8 for topic in found) > limit:
        raise ValueError(f"too many topics: {len(found):,}; a pattern may select some")
    return found


def _info(server: Any, order: dict[str, Any]) -> dict[str, Any]:
    stats, node = server._stats.gather(server), server.cluster.nodes()[0]
    counts = server._counts()
    return {
        "uid": node.id,
        "name": node.name,
        "version": f"simple_ws {node.version}",
        "num_clients": stats["connections"]["open"],
        "num_users": stats["identities"],
        "num_channels": len(counts),
        "num_subs": sum(counts.values()),
        "uptime": int(stats["uptime"]),
    }


_ORDERS: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "subscribe": _subscribe,
    "unsubscribe": _unsubscribe,
    "disconnect": _disconnect,
    "refresh": _refresh,
    "send": _send,
    "forget": _forget,
    "channels": _channels,
    "info": _info,
}


# Patterns


def matcher(pattern: str) -> Callable[[str], object]:
    """Whether a topic is meant by a glob; an empty one means all.

    Raises:
        ValueError: It is too long, or has too many alternatives.
    """
    if len(pattern) > _MAX_PATTERN:
        raise ValueError(f"pattern must have at most {_MAX_PATTERN:,} characters")
    if not pattern or pattern == "*":
        return lambda topic: True
    globs = _alternatives(pattern)
    # `fnmatch` makes expressions that do not go back: a stranger's name costs no time.
    return re.compile("|".join(map(fnmatch.translate, globs)), re.DOTALL).match


def _alternatives(pattern: str) -> list[str]:
    """The globs that a pattern stands for, which may have {one,two} in it."""
    found = [pattern]
    while braces := [(g, m) for g in found if (m := _BRACES.search(g)) is not None]:
        for glob, match in braces:
            found.remove(glob)
            begin, end = glob[: match.start()], glob[match.end() :]
            found += [f"{begin}{choice}{end}" for choice in match[1].split(",")]
        if len(found) > _MAX_ALTERNATIVES:
            raise ValueError("pattern has too many alternatives")
    return found


_BRACES = re.compile(r"\{([^{}]*)\}")
