"""The description of the server API, as an OpenAPI 3.1 document."""

from __future__ import annotations

from typing import Any

from ...constants import RELEASE
from .fields import BATCH, ERROR, METHODS, Schema

__all__ = ["describe"]

_INTRODUCTION = (
    "Publish, and manage connections, from other programs. It is the HTTP API of "
    "Centrifugo: its clients work as they are. An error is answered with status 200, "
    "or, if the request has `X-Centrifugo-Error-Mode: transport`, with another status, "
    "and without the object around it."
)
#: Answers that are errors of HTTP.
_ERRORS = {
    "400": "The body is malformed; or error 107 or 108 in transport mode.",
    "401": "The key is missing or wrong.",
    "404": "Error 102 or 104 in transport mode.",
    "413": "The body is too large.",
    "416": "Error 112 in transport mode.",
    "500": "Error 100 in transport mode.",
}


def describe(path: str) -> dict[str, Any]:
    """The document of an API at a path."""
    paths = {
        f"{path}/{name}": {
            "post": _operation(name, method.text, method.params, _reply(method.result))
        }
        for name, method in METHODS.items()
    }
    paths[f"{path}/batch"] = {"post": _batch()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "simple_ws server API",
            "version": RELEASE,
            "description": _INTRODUCTION,
        },
        "paths": paths,
        "security": [{name: []} for name in _KEYS],
        "components": {"securitySchemes": _KEYS, "schemas": {"Error": ERROR}},
    }


def _operation(name: str, text: str, body: Schema, answer: Schema) -> dict[str, Any]:
    answers = {"200": {"description": "The result or an error.", **_json(answer)}}
    errors = {
        status: {"description": why, **_json(_FAILURE)}
        for status, why in _ERRORS.items()
    }
    return {
        "operationId": name,
        "summary": text,
        "requestBody": {"required": True, **_json(_nullable(body))},
        "responses": {**answers, **errors},
    }


def _batch() -> dict[str, Any]:
    text = "Carry out several commands, one after the other unless it is parallel."
    results = {name: method.result for name, method in METHODS.items()}
    reply = {"type": "object", "properties": {**results, "error": _ERROR}}
    replies = {"type": "array", "items": reply}
    answer = {
        "type": "object",
        "properties": {"replies": replies},
        "required": ["replies"],
    }
    return _operation("batch", text, BATCH, answer)


def _reply(result: Schema) -> Schema:
    return {"type": "object", "properties": {"result": result, "error": _ERROR}}


def _json(schema: Schema) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}}


def _nullable(schema: Schema) -> Schema:
    """A schema as it is checked: what need not be there may be null as well."""
    changed = dict(schema)
    if "properties" in schema:
        required = schema.get("required", ())
        changed["properties"] = {
            name: _nullable(its) if name in required else _or_null(_nullable(its))
            for name, its in schema["properties"].items()
        }
    if "items" in schema:
        changed["items"] = _nullable(schema["items"])
    return changed


def _or_null(schema: Schema) -> Schema:
    kind = schema.get("type")
    return schema if kind is None else {**schema, "type": [kind, "null"]}


_ERROR: Schema = {"$ref": "#/components/schemas/Error"}
#: An error of HTTP: with the object around it, except in transport mode.
_FAILURE: Schema = {
    "anyOf": [
        _ERROR,
        {"type": "object", "properties": {"error": _ERROR}, "required": ["error"]},
    ]
}
_KEYS = {
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "query": {"type": "apiKey", "in": "query", "name": "api_key"},
    "authorization": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "`apikey KEY`",
    },
}
