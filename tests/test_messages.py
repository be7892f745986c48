"""`messages`: values passed in by users, and their encoding."""

from __future__ import annotations

import json
from typing import Any

import pytest
from harness import TEXT, Driven
from hypothesis import given
from hypothesis import strategies as st

from simple_ws import JSONMessages, WebSocket
from simple_ws.messages import encode_json, encode_message, json_text

CUT = "cut \ud83d"
#: Text as browsers may send it in JSON, where an emoji may have been cut in two.
TEXTS = st.text(st.characters() | st.characters(categories=["Cs"]), max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
    max_leaves=10,
)


@pytest.mark.one_backend
@given(VALUES)
def test_json_is_utf8_whatever_text_it_holds(value: Any) -> None:
    assert json.loads(encode_json(value).decode()) == value
    assert json_text(value).encode() == encode_json(value)


@pytest.mark.one_backend
def test_json_is_compact_and_is_escaped_only_where_it_must_be() -> None:
    assert encode_json({"a": [1, "ä"]}) == '{"a":[1,"ä"]}'.encode()
    assert encode_json({"a": ["ä", CUT]}) == b'{"a":["\\u00e4","cut \\ud83d"]}'


@pytest.mark.one_backend
@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": float("-inf")}])
def test_numbers_that_json_cannot_say_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode_json(value)


@pytest.mark.one_backend
def test_text_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(ValueError, match="surrogates not allowed"):
        encode_message(CUT, None)


class Said(WebSocket):
    def on_message(self, msg: Any, client: Any) -> Any:
        said = msg if isinstance(msg, dict) else json.loads(msg)
        return {"said": said["text"]}


class Told(Said):
    def on_message(self, msg: Any, client: Any) -> Any:
        self.server.broadcast(super().on_message(msg, client))


@pytest.mark.parametrize("middleware", [False, True])
@pytest.mark.parametrize("handler", [Said, Told])
def test_half_an_emoji_that_came_as_json_goes_out_as_json(
    handler: type[Said], middleware: bool
) -> None:
    with Driven(handler()) as driven:
        if middleware:
            driven.server.use(JSONMessages())
        with driven.open() as peer:
            peer.send(TEXT, r'{"text": "cut \ud83d"}')
            assert peer.read_message() == r'{"said":"cut \ud83d"}'
