"""What the methods of the server API take: a table, for the check and the description.

The words are those of JSON Schema, of which `checked` knows what stands here, and
`api_description` makes an OpenAPI document. Source: centrifugal.dev, "Server API".
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from ..methods import LATEST

__all__ = [
    "BATCH",
    "COMMAND",
    "ERROR",
    "METHODS",
    "Invalid",
    "Method",
    "Schema",
    "checked",
]

Schema = dict[str, Any]


class Invalid(ValueError):
    """A value is not what its schema says; the text says which, and what is wrong."""


class Method(NamedTuple):
    """A method of the API.

    Attributes:
        text: what it does.
        params: the schema of what it takes.
        result: the schema of what it gives.
    """

    text: str
    params: Schema
    result: Schema


_TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "boolean": bool,
}


def checked(schema: Schema, value: Any, name: str = "the body") -> Any:
    """A value, without the fields that are null where that means nothing.

    Fields that are not known are passed over, since newer clients send more.

    Raises:
        Invalid: It is not what the schema says.
    """
    kind = schema.get("type")
    if kind is None:
        return value
    if kind == "integer" and isinstance(value, float) and value.is_integer():
        value = int(value)  # JSON has one kind of numbers
    # Not isinstance: a bool is no int here.
    if type(value) is not _TYPES[kind]:
        article = "an" if kind[0] in "aoi" else "a"
        raise Invalid(f"{name} must be {article} {kind}")
    if kind == "object":
        return _checked_object(schema, value, name)
    if kind == "array":
        items = schema["items"]
        return [checked(items, item, f"an item of {name}") for item in value]
    if kind == "integer" and not schema["minimum"] <= value <= schema["maximum"]:
        raise Invalid(f"{name} is out of range")
    return value


def _checked_object(schema: Schema, value: Any, name: str) -> dict[str, Any]:
    properties: dict[str, Schema] = schema.get("properties", {})
    required: list[str] = schema.get("required", [])
    for field in required:
        if field not in value:
            raise Invalid(f"{field} is missing")
    others: Schema | None = schema.get("additionalProperties")
    if others is not None:
        return {
            field: checked(others, item, f"an item of {name}")
            for field, item in value.items()
        }
    fields = {}
    for field, its in properties.items():
        if field not in value:
            continue
        item = value[field]
        if item is None and "type" in its and field not in required:
            continue
        fields[field] = checked(its, item, field)
    return fields


# The table


def _object(*required: str, **properties: Schema) -> Schema:
    schema: Schema = {"type": "object", "properties": properties}
    return {**schema, "required": list(required)} if required else schema


def _said(text: str, schema: Schema) -> Schema:
    return {**schema, "description": text}


_STRING: Final[Schema] = {"type": "string"}
_FLAG: Final[Schema] = {"type": "boolean"}
_ANY: Final[Schema] = {}


def _integer(least: int, most: int) -> Schema:
    return {"type": "integer", "minimum": least, "maximum": most}


def _strings() -> Schema:
    return {"type": "array", "items": _STRING}


def _map(items: Schema) -> Schema:
    return {"type": "object", "additionalProperties": items}


_INT32 = _integer(-(2**31), 2**31 - 1)
_UINT32 = _integer(0, 2**32 - 1)
_UINT64 = _integer(0, 2**64 - 1)
_SECONDS = _said("seconds since 1970", _integer(0, LATEST))

_CHANNEL = _said("the name of a topic", _STRING)
_POSITION = _object(offset=_UINT64, epoch=_STRING)

#: Whom a method means: connections of a user, or some of them.
_CONNECTIONS = {
    "user": _said("its identity; empty for connections without one", _STRING),
    "client": _said("only this connection", _STRING),
    "session": _said("only the connection of this session", _STRING),
}

#: What `publish` and `broadcast` take.
_PUBLICATION = {
    "data": _said("any JSON", _ANY),
    "b64data": _said("bytes in base64, instead of data", _STRING),
    "skip_history": _said("it is not kept in the history", _FLAG),
    "tags": _said("strings that subscribers get with it", _map(_STRING)),
    "idempotency_key": _said(
        "in a topic with history: nothing is published if a message in it has this key",
        _STRING,
    ),
}

_INFO = _object("client", "user", client=_STRING, user=_STRING, conn_info=_ANY)
_PLACE = _object(offset=_UINT64, epoch=_STRING)
ERROR: Final = _object("code", "message", code=_UINT32, message=_STRING)
_NOTHING = _object()

METHODS: Final[dict[str, Method]] = {
    "publish": Method(
        "Publish a message to a topic. The answer comes when the engine has stored it.",
        _object("channel", channel=_CHANNEL, **_PUBLICATION),
        _PLACE,
    ),
    "broadcast": Method(
        "Publish a message to several topics.",
        _object("channels", channels=_strings(), **_PUBLICATION),
        _object(
            "responses",
            responses={
                "type": "array",
                "items": _object(result=_PLACE, error=ERROR),
            },
        ),
    ),
    "subscribe": Method(
        "Subscribe the connections of a user to a topic, on all nodes.",
        _object(
            "user",
            "channel",
            channel=_CHANNEL,
            **_CONNECTIONS,
            data=_said("any JSON, for the client", _ANY),
            b64data=_said("bytes in base64, instead of data", _STRING),
            recover_since=_said("what the client has got", _POSITION),
            info=_said("any JSON, of the client in the topic, for others", _ANY),
            expire_at=_SECONDS,
        ),
        _NOTHING,
    ),
    "unsubscribe": Method(
        "Unsubscribe the connections of a user from a topic, or from all of them if "
        "channel is empty.",
        _object("user", "channel", channel=_CHANNEL, **_CONNECTIONS),
        _NOTHING,
    ),
    "disconnect": Method(
        "Close the connections of a user, on all nodes.",
        _object(
            "user",
            **_CONNECTIONS,
            whitelist=_said("connections that stay open", _strings()),
            disconnect=_said(
                "the close code, 3503 by default: clients come back after 3000 to "
                "3499 and 4000 to 4499",
                _object(code=_UINT32, reason=_STRING),
            ),
        ),
        _NOTHING,
    ),
    "refresh": Method(
        "Change when the connections of a user expire: at a time, now, or never.",
        _object(
            "user", **_CONNECTIONS, expired=_said("now", _FLAG), expire_at=_SECONDS
        ),
        _NOTHING,
    ),
    "presence": Method(
        "Who is present in a topic.",
        _object("channel", channel=_CHANNEL),
        _object("presence", presence=_map(_INFO)),
    ),
    "presence_stats": Method(
        "How many are present in a topic.",
        _object("channel", channel=_CHANNEL),
        _object("num_clients", "num_users", num_clients=_UINT32, num_users=_UINT32),
    ),
    "history": Method(
        "Messages of a topic with history, and its newest position.",
        _object(
            "channel",
            channel=_CHANNEL,
            limit=_said("at most so many; 0: none, negative: all", _INT32),
            since=_said("those after it, or before it in reverse", _POSITION),
            reverse=_said("the newest first", _FLAG),
        ),
        _object(
            "publications",
            "offset",
            "epoch",
            publications={
                "type": "array",
                "items": _object(
                    "data",
                    "offset",
                    data=_ANY,
                    offset=_UINT64,
                    tags=_map(_STRING),
                    info=_INFO,
                ),
            },
            offset=_UINT64,
            epoch=_STRING,
        ),
    ),
    "history_remove": Method(
        "Remove the messages in the history of a topic.",
        _object("channel", channel=_CHANNEL),
        _NOTHING,
    ),
    "channels": Method(
        "Topics with subscribers, on all nodes.",
        _object(
            pattern=_said("a glob: * ? [abc] [!abc] {one,two}; empty: all", _STRING)
        ),
        _object("channels", channels=_map(_object("num_clients", num_clients=_UINT32))),
    ),
    "info": Method(
        "The nodes.",
        _object(),
        _object(
            "nodes",
            nodes={
                "type": "array",
                "items": _object(
                    "uid",
                    "name",
                    "version",
                    uid=_STRING,
                    name=_STRING,
                    version=_STRING,
                    num_clients=_UINT32,
                    num_users=_UINT32,
                    num_subs=_UINT32,
                    num_channels=_UINT32,
                    uptime=_UINT32,
                ),
            },
        ),
    ),
}

#: What `batch` takes.
BATCH: Final = _object(
    "commands",
    commands={
        "type": "array",
        "items": _object(**{name: each.params for name, each in METHODS.items()}),
    },
    parallel=_said("the commands need not wait for each other", _FLAG),
)
#: A command of the older form.
COMMAND: Final = _object(
    "method", id=_UINT32, method=_STRING, params=_said("as of the method", _ANY)
)
