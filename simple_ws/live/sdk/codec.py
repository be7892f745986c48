"""The client's half of the codec, without socket, clock or thread: commands as text,
and frames of the server as replies, pushes and pings.

The server's half is in `live.commands`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from ...speedups import json_text
from ..codes import LiveError

__all__ = [
    "PONG",
    "ClientInfo",
    "History",
    "MalformedError",
    "Message",
    "Ping",
    "Position",
    "Publication",
    "Push",
    "Reply",
    "encode_command",
    "error_of",
    "field",
    "info_of",
    "publication_of",
    "publications_of",
    "read_frame",
]

#: The answer to a ping of the application.
PONG = "{}"


class MalformedError(ValueError):
    """The server sent what the protocol does not allow."""


class Position(NamedTuple):
    """A place in a topic with history; give it back as `since`.

    Attributes:
        epoch: of the history; it means nothing but to the server.
        offset: of the newest publication that was received.
    """

    epoch: str
    offset: int


class ClientInfo(NamedTuple):
    """Somebody who is in a topic, or has published to it.

    Attributes:
        client: the id of the connection, or the identity.
        user: "" without one.
        conn_info, chan_info: what the server says of the connection, and of its
            subscription; None without it.
    """

    client: str
    user: str
    conn_info: Any = None
    chan_info: Any = None


class Publication(NamedTuple):
    """A message of a topic.

    Attributes:
        topic: the topic.
        data: any JSON.
        position: of this publication; None in a topic without history.
        info: who has published it; None if the server does not say so.
        tags: names and values that the server API has given it; None without any.
        gap: publications before this one were missed for ever.
    """

    topic: str
    data: Any
    position: Position | None = None
    info: ClientInfo | None = None
    tags: dict[str, str] | None = None
    gap: bool = False


class History(NamedTuple):
    """What a topic keeps.

    Attributes:
        publications: in the order that was asked for.
        position: of the newest one of the topic.
    """

    publications: list[Publication]
    position: Position


class Message(NamedTuple):
    """What the server has sent to this client alone, or to all.

    Attributes:
        data: any JSON.
    """

    data: Any


class Reply(NamedTuple):
    """The reply to a command.

    Attributes:
        id: of the command.
        result: by the name of the method.
        error: None if it was carried out.
    """

    id: int
    result: dict[str, Any]
    error: LiveError | None


class Push(NamedTuple):
    """Something that was not asked for.

    Attributes:
        kind: such as "pub".
        channel: "" without one.
        value: of this kind.
    """

    kind: str
    channel: str
    value: dict[str, Any]


class Ping(NamedTuple):
    """The server wants to know whether the client is there."""


def encode_command(number: int, method: str, params: dict[str, Any]) -> str:
    """A command as text.

    Args:
        number: its id; 0 for `send`, which has no reply.
        method: such as "subscribe".
        params: what it asks for; fields that are None are left out, except `data`.

    Raises:
        TypeError, ValueError: JSON cannot represent it.
    """
    given = {
        name: value
        for name, value in params.items()
        if value is not None or name == "data"
    }
    command = {"id": number, method: given} if number else {method: given}
    return json_text(command)


def read_frame(frame: str | bytes) -> Iterator[Reply | Push | Ping]:
    """Read what the server says in a frame.

    Raises:
        MalformedError: It is not what the protocol allows.
    """
    text = frame.decode() if isinstance(frame, bytes) else frame
    for line in text.split("\n"):
        if line and not line.isspace():
            yield _read(line)


def _read(line: str) -> Reply | Push | Ping:
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        raise MalformedError("it is not JSON") from None
    if not isinstance(said, dict):
        raise MalformedError("it is not an object")
    if not said:
        return Ping()
    number = field(said, "id", int, 0)
    if not number and "error" not in said:
        return _push(field(said, "push", dict, {}))
    error = said.get("error")
    if error is not None:
        return Reply(number, {}, error_of(error))
    return Reply(number, said, None)


def _push(push: dict[str, Any]) -> Push:
    channel = field(push, "channel", str, "")
    for kind, value in push.items():
        if kind != "channel" and isinstance(value, dict):
            return Push(kind, channel, value)
    raise MalformedError("it is neither a reply nor a push")


def error_of(error: Any) -> LiveError:
    """The error in a reply, or of a subscription that the server has ended."""
    if not isinstance(error, dict):
        raise MalformedError("the error is not an object")
    text = field(error, "message", str, "") or field(error, "reason", str, "")
    temporary = field(error, "temporary", bool, False)
    return LiveError._received(field(error, "code", int, 0), text, temporary)


def field(given: dict[str, Any], name: str, kind: type, default: Any) -> Any:
    """A field of an object; missing and null are the default.

    Raises:
        MalformedError: It has another type.
    """
    value = given.get(name)
    if value is None:
        return default
    if type(value) is not kind:
        raise MalformedError(f"{name} is no {kind.__name__}")
    return value


def publication_of(topic: str, epoch: str, given: Any) -> Publication:
    """A publication out of a push, a history, or the reply to `subscribe`."""
    if not isinstance(given, dict):
        raise MalformedError("a publication is not an object")
    offset = field(given, "offset", int, 0)
    position = Position(epoch, offset) if offset > 0 else None
    info = given.get("info")
    return Publication(
        topic,
        given.get("data"),
        position,
        None if info is None else info_of(info),
        field(given, "tags", dict, None),
    )


def publications_of(
    topic: str, epoch: str, result: dict[str, Any]
) -> list[Publication]:
    """The publications in a reply, in its order."""
    found = field(result, "publications", list, [])
    return [publication_of(topic, epoch, given) for given in found]


def info_of(given: Any) -> ClientInfo:
    """Who somebody is."""
    if not isinstance(given, dict):
        raise MalformedError("info is not an object")
    return ClientInfo(
        field(given, "client", str, ""),
        field(given, "user", str, ""),
        given.get("conn_info"),
        given.get("chan_info"),
    )
