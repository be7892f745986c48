"""The codec: frames give commands or what is malformed, never an exception."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simple_ws.cluster.content import JsonText, WithHeaders
from simple_ws.cluster.history import Entry
from simple_ws.live.commands import (
    Command,
    Malformed,
    Pong,
    encode_error,
    encode_message,
    encode_publication,
    encode_reply,
    entry_of,
    read_commands,
)

pytestmark = pytest.mark.one_backend


def read(frame: str | bytes) -> list[Any]:
    return list(read_commands(frame))


def test_frame_has_several_commands() -> None:
    frame = '{"id":1,"connect":{}}\n{}\n\n{"id":2,"ping":{}}\n'
    assert read(frame) == [
        Command(1, "connect", {}),
        Pong(),
        Command(2, "ping", {}),
    ]


def test_binary_frames_are_read_too() -> None:
    assert read(b'{"id":1,"connect":{}}') == [Command(1, "connect", {})]


def test_frame_has_at_most_ten_thousand_lines() -> None:
    assert read("{}\n" * 10_000) == [Pong()] * 10_000
    assert read("{}\n" * 10_000 + "{}") == [Pong()] * 10_000 + [Pong()]
    assert read("{}\n" * 500_000) == [Pong()] * 10_000 + [Malformed(0)]
    assert read("\n" * 500_000) == []


def test_unknown_fields_are_passed_over_and_null_is_as_if_missing() -> None:
    frame = '{"id":1,"subscribe":{"channel":"a","delta":"fossil","token":null}}'
    assert read(frame) == [Command(1, "subscribe", {"channel": "a"})]


def test_null_is_data() -> None:
    frame = '{"id":1,"publish":{"channel":"a","data":null}}'
    assert read(frame) == [Command(1, "publish", {"channel": "a", "data": None})]


def test_send_needs_no_id() -> None:
    assert read('{"send":{"data":5}}') == [Command(0, "send", {"data": 5})]


@pytest.mark.parametrize(
    ("frame", "number"),
    [
        ("nonsense", 0),
        (b"\xff\xfe", 0),
        ("[]", 0),
        ("5", 0),
        ("null", 0),
        ('{"id":1}', 1),
        ('{"id":1,"what":{}}', 1),
        ('{"id":1,"connect":{},"ping":{}}', 1),
        ('{"connect":{}}', 0),
        ('{"id":0,"connect":{}}', 0),
        ('{"id":-1,"connect":{}}', 0),
        ('{"id":true,"connect":{}}', 0),
        ('{"id":1.0,"connect":{}}', 0),
        ('{"id":"1","connect":{}}', 0),
        ('{"id":4294967296,"connect":{}}', 0),
        ('{"id":' + "9" * 5000 + ',"connect":{}}', 0),
        ('{"id":1,"connect":[]}', 1),
        ('{"id":1,"connect":null}', 1),
        ('{"id":1,"connect":{"token":5}}', 1),
        ('{"id":1,"connect":{"subs":{"a":5}}}', 1),
        ('{"id":1,"connect":{"data":NaN}}', 0),
        ('{"id":1,"subscribe":{}}', 1),
        ('{"id":1,"subscribe":{"channel":""}}', 1),
        ('{"id":1,"subscribe":{"channel":5}}', 1),
        ('{"id":1,"subscribe":{"channel":"a","recover":1}}', 1),
        ('{"id":1,"subscribe":{"channel":"a","offset":true}}', 1),
        ('{"id":1,"subscribe":{"channel":"a","offset":-1}}', 1),
        ('{"id":1,"publish":{"channel":"a"}}', 1),
        ('{"id":1,"history":{"channel":"a","since":{"offset":"1"}}}', 1),
        ('{"id":1,"rpc":{"method":5}}', 1),
        ('{"id":1,"rpc":{"data":' + "[" * 100_000 + "}}", 0),
    ],
)
def test_malformed(frame: str | bytes, number: int) -> None:
    assert read(frame) == [Malformed(number)]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
methods = st.sampled_from(["connect", "subscribe", "history", "rpc", "publish", "x"])


@given(
    st.text() | st.binary() | json_values.map(json.dumps)
    | st.dictionaries(methods | st.just("id"), json_values).map(json.dumps)
)  # fmt: skip
def test_reading_never_raises(frame: str | bytes) -> None:
    for command in read_commands(frame):
        assert isinstance(command, Command | Pong | Malformed)


@pytest.mark.parametrize(
    ("msg", "data"),
    [
        ({"a": [1, None]}, {"a": [1, None]}),
        ("text\n", "text\n"),
        (b"\x00\xff", "AP8="),
        (JsonText('{"a":1}'), {"a": 1}),
        (JsonText('{"a":\n1}'), {"a": 1}),
        (JsonText("5"), 5),
    ],
)
def test_publication_is_one_line_of_json(msg: object, data: object) -> None:
    text = encode_publication('a"b', msg, 7)
    assert "\n" not in text
    pub = {"data": data, "offset": 7}
    assert json.loads(text) == {"push": {"channel": 'a"b', "pub": pub}}
    assert "offset" not in encode_publication("a", msg, 0)
    assert json.loads(encode_message(msg)) == {"push": {"message": {"data": data}}}


def test_replies() -> None:
    assert encode_reply(3, "rpc", {"data": "ü"}) == '{"id":3,"rpc":{"data":"ü"}}'
    error = {"code": 100, "message": "m", "temporary": True}
    assert json.loads(encode_error(3, 100, "m", True)) == {"id": 3, "error": error}
    assert json.loads(encode_error(0, 107, "m")) == {
        "error": {"code": 107, "message": "m"}
    }


@pytest.mark.parametrize(
    "body",
    [
        "text",
        JsonText('{"a":1}'),
        JsonText('{"a":\n1}'),
        b"\x00",
        WithHeaders("x", '{"tags":{"a":"b"}}'),
        WithHeaders(JsonText("[1]"), '{"info":{"user":"ann"}}'),
    ],
)
def test_what_was_missed_is_in_the_reply_as_in_a_history(body: Any) -> None:
    entries = [Entry(offset, 0, 0.0, body) for offset in (1, 2)]
    text = encode_reply(7, "subscribe", {"recovered": True}, entries)
    assert "\n" not in text
    missed = [entry_of(entry.offset, entry.body) for entry in entries]
    result = {"recovered": True, "publications": missed}
    assert json.loads(text) == {"id": 7, "subscribe": result}
