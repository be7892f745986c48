"""`fields`: names with one or more values."""

from __future__ import annotations

import pytest

from simple_ws.protocol.fields import Fields, Headers

pytestmark = pytest.mark.one_backend


def test_headers_are_case_insensitive_and_keep_their_order() -> None:
    headers = Headers([("Accept", "a"), ("HOST", "h"), ("accept", "b")])
    assert headers["ACCEPT"] == "a"
    assert headers.get_all("Accept") == ["a", "b"]
    assert "hOsT" in headers
    assert headers.get("Nothing") is None
    assert headers.get_all("Nothing") == []
    assert list(headers) == ["accept", "host"]
    assert len(headers) == 2
    with pytest.raises(KeyError, match="Nothing"):
        headers["Nothing"]


def test_fields_are_case_sensitive() -> None:
    fields = Fields([("a", "1"), ("A", "2")])
    assert (fields["a"], fields["A"], len(fields)) == ("1", "2", 2)
    assert repr(fields) == "Fields([('a', '1'), ('A', '2')])"
