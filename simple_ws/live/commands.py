"""The codec of the Centrifugo client protocol, version 2 in JSON, without socket, clock
or thread: text in, commands out, and replies and pushes as text.

A frame has one or more JSON objects, separated by line feeds. What a command asks for
is left to `session`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple, NoReturn

from ..cluster.content import JsonText, WithHeaders
from ..cluster.history import Entry
from ..speedups import json_text

__all__ = [
    "METHODS",
    "PING",
    "Command",
    "Malformed",
    "Pong",
    "encode_error",
    "encode_message",
    "encode_publication",
    "encode_push",
    "encode_reply",
    "entry_of",
    "message_of",
    "read_commands",
    "with_headers",
]

#: What the server sends to see whether a client is there; the client answers the same.
PING: Final = "{}"
#: Numbers of commands are uint32 in the schema.
_MAX_ID = 2**32 - 1
#: Lines of a frame: a hostile one could have a million, which take a second.
_MAX_LINES = 10_000
_CHANNEL: dict[str, type] = {"channel": str}
_TOKEN: dict[str, type] = {"token": str}
_ANY: type = object

#: The fields of each command that mean something here, with their types; others are
#: passed over, since newer clients send more.
_FIELDS: dict[str, dict[str, type]] = {
    "connect": {
        **_TOKEN,
        "data": _ANY,
        "subs": dict,
        "name": str,
        "version": str,
        "headers": dict,
    },
    "subscribe": {
        **_CHANNEL,
        **_TOKEN,
        "recover": bool,
        "epoch": str,
        "offset": int,
        "data": _ANY,
        "positioned": bool,
        "recoverable": bool,
        "join_leave": bool,
        "flag": int,
    },
    "unsubscribe": _CHANNEL,
    # `key` is ours, see `Hub.publish`: a client that sends it again uses the same one.
    "publish": {**_CHANNEL, "data": _ANY, "key": str},
    "presence": _CHANNEL,
    "presence_stats": _CHANNEL,
    "history": {**_CHANNEL, "limit": int, "since": dict, "reverse": bool},
    "ping": {},
    "send": {"data": _ANY},
    "rpc": {"method": str, "data": _ANY},
    "refresh": _TOKEN,
    "sub_refresh": {**_CHANNEL, **_TOKEN},
}
#: The names of all commands.
METHODS: Final = tuple(_FIELDS)
_SINCE: dict[str, type] = {"offset": int, "epoch": str}
#: Of a topic that the client was subscribed to by the server.
_SUBS: dict[str, type] = {"recover": bool, **_SINCE}


class Command(NamedTuple):
    """A command that is well formed.

    Attributes:
        id: of the command; 0 for `send` alone, which has no reply.
        method: such as "subscribe".
        params: what it asks for; a field that is missing or null is not there.
    """

    id: int
    method: str
    params: dict[str, Any]


class Pong(NamedTuple):
    """The client is there."""


class Malformed(NamedTuple):
    """Something else.

    Attributes:
        id: of the command, as far as that could be read; 0: not known.
    """

    id: int


class _NoCommandError(ValueError):
    """It is not what the protocol allows."""


def read_commands(frame: str | bytes) -> Iterator[Command | Pong | Malformed]:
    """Read the commands of a frame; never raises for what a client sent."""
    if isinstance(frame, bytes):
        try:
            frame = frame.decode()
        except UnicodeDecodeError:
            yield Malformed(0)
            return
    for line in frame.split("\n", _MAX_LINES):  # what is left is malformed
        if line == PING:
            yield Pong()
        elif line and not line.isspace():
            yield _read(line)


def _read(line: str) -> Command | Pong | Malformed:
    number = 0
    try:
        command = _decode(line)
        if command == {}:
            return Pong()
        number = _number_of(command)
        return _checked(number, command)
    except (ValueError, RecursionError):  # not JSON, or deeper than Python reads
        return Malformed(number)


def _refuse(constant: str) -> NoReturn:
    raise _NoCommandError(f"{constant} is not JSON")


#: Made once: `json.loads` makes a decoder for each call that has options.
_decode = json.JSONDecoder(parse_constant=_refuse).decode


def _number_of(command: object) -> int:
    if not isinstance(command, dict):
        raise _NoCommandError("it is not an object")
    number = command.get("id", 0)
    if type(number) is not int or not 0 <= number <= _MAX_ID:
        raise _NoCommandError("the id is no uint32")
    return number


def _checked(number: int, command: dict[str, Any]) -> Command:
    names = [name for name in command if name in _FIELDS]
    if len(names) != 1:
        raise _NoCommandError("there is not exactly one request")
    method = names[0]
    if not number and method != "send":
        raise _NoCommandError("there is no id")
    params = _fields(command[method], _FIELDS[method])
    if "channel" in _FIELDS[method] and not params.get("channel"):
        raise _NoCommandError("there is no channel")
    if method == "publish" and "data" not in params:
        raise _NoCommandError("there is no data")
    if "since" in params:
        params["since"] = _fields(params["since"], _SINCE)
    if "subs" in params:
        subs = params["subs"].items()
        params["subs"] = {topic: _fields(sub, _SUBS) for topic, sub in subs}
    return Command(number, method, params)


def _fields(given: object, types: dict[str, type]) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise _NoCommandError("it is not an object")
    fields = {}
    for name, value in given.items():
        kind = types.get(name)
        if kind is None or (value is None and kind is not _ANY):
            continue
        # Not isinstance: a bool is no int here.
        if kind is not _ANY and type(value) is not kind:
            raise _NoCommandError(f"{name} has a wrong type")
        if name == "offset" and isinstance(value, int) and value < 0:
            raise _NoCommandError("the offset is negative")
        fields[name] = value
    return fields


# What the server says


def encode_reply(
    number: int, method: str, result: object, missed: Sequence[Entry] = ()
) -> str:
    """The reply to a command.

    Args:
        number: of the command.
        method: of the command.
        result: the result.
        missed: publications in the result, which has something else as well; what was
            published as JSON is not decoded for them.

    Raises:
        TypeError, ValueError: JSON cannot represent the result.
    """
    text = json_text(result) if result else "{}"
    if missed:
        pubs = ",".join([_publication(entry.body, entry.offset) for entry in missed])
        text = f'{text[:-1]},"publications":[{pubs}]}}'
    return f'{{"id":{number},"{method}":{text}}}'


def encode_error(number: int, code: int, message: str, temporary: bool = False) -> str:
    """The error that a command is answered with; without an id if it had none."""
    error: dict[str, Any] = {"code": code, "message": message}
    if temporary:
        error["temporary"] = True
    return json_text({"id": number, "error": error} if number else {"error": error})


def encode_push(kind: str, value: object, channel: str | None = None) -> str:
    """Something that the client did not ask for.

    Raises:
        TypeError, ValueError: JSON cannot represent the value.
    """
    push = {kind: value} if channel is None else {"channel": channel, kind: value}
    return json_text({"push": push})


def encode_publication(topic: str, msg: Any, offset: int) -> str:
    """A message of a topic, as all its subscribers get it; see `feeds.Encode`."""
    channel, pub = json_text(topic), _publication(msg, offset)
    return f'{{"push":{{"channel":{channel},"pub":{pub}}}}}'


def _publication(msg: Any, offset: int) -> str:
    end = f',"offset":{offset}' if offset else ""
    if type(msg) is WithHeaders:
        end = f"{end},{msg.headers[1:-1]}"
        msg = msg.msg
    return f'{{"data":{_data(msg)}{end}}}'


def encode_message(msg: object) -> str:
    """A message to one client, or to all, that is of no topic."""
    return f'{{"push":{{"message":{{"data":{_data(msg)}}}}}}}'


def entry_of(offset: int, msg: Any) -> dict[str, Any]:
    """A message of a history, in a reply."""
    headers = {}
    if type(msg) is WithHeaders:
        msg, headers = msg.msg, json.loads(msg.headers)
    if type(msg) is JsonText:
        msg = json.loads(msg)
    return {"data": _plain(msg), "offset": offset, **headers}


def with_headers(msg: object, **headers: Any) -> object:
    """A message with what is said about it, as subscribers get it beside its data.

    Args:
        msg: the message.
        headers: such as `tags`; None is left out.

    Raises:
        TypeError, ValueError: JSON cannot represent them.
    """
    given = {name: value for name, value in headers.items() if value is not None}
    return WithHeaders(msg, json_text(given)) if given else msg


def message_of(data: Any) -> object:
    """What is published: other values than messages are JSON, too.

    Raises:
        TypeError, ValueError: JSON cannot represent it.
    """
    if isinstance(data, dict | list | str):
        return data
    return JsonText(json_text(data))


def _data(msg: object) -> str:
    """A message as JSON: what was published as JSON is not encoded again."""
    if type(msg) is JsonText:
        # A line feed would end the command.
        return str(msg) if "\n" not in msg else json_text(json.loads(msg))
    return json_text(_plain(msg))


def _plain(msg: object) -> object:
    """Bytes, which JSON has not, are base64."""
    if isinstance(msg, bytes | bytearray | memoryview):
        return base64.b64encode(msg).decode()
    return msg
