"""`response`: heads that h11 understands, and what may not be in them."""

from __future__ import annotations

import h11
import pytest

from simple_ws.protocol.response import Response, http_date

pytestmark = pytest.mark.one_backend


def test_date_is_the_one_of_the_rfc() -> None:
    # RFC 9110 §5.6.7
    assert http_date(784111777.9) == "Sun, 06 Nov 1994 08:49:37 GMT"


@pytest.mark.parametrize(
    ("body", "content_type", "sent"),
    [
        ("é", "text/plain; charset=utf-8", b"\xc3\xa9"),
        (b"raw", "application/octet-stream", b"raw"),
        ({"a": [1]}, "application/json", b'{"a": [1]}'),
        ([1, None], "application/json", b"[1, null]"),
    ],
)
def test_response_body_decides_the_type(
    body: str | bytes, content_type: str, sent: bytes
) -> None:
    head, _, rest = Response(200, body)._encode().partition(b"\r\n\r\n")
    assert rest == sent
    assert head.split(b"\r\n") == [
        b"HTTP/1.1 200 OK",
        b"Content-Type: " + content_type.encode(),
        b"Content-Length: %d" % len(sent),
    ]


def test_response_headers_win_over_ours() -> None:
    response = Response(200, "{}", {"content-type": "x/y", "Content-Length": "2"})
    assert response._encode() == (
        b"HTTP/1.1 200 OK\r\ncontent-type: x/y\r\nContent-Length: 2\r\n\r\n{}"
    )


def test_response_to_head_has_the_length_and_no_body() -> None:
    assert Response(404, "gone")._encode(head_only=True) == (
        b"HTTP/1.1 404 Not Found\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: 4\r\n\r\n"
    )


@pytest.mark.parametrize("status", [100, 101, 204, 304])
def test_response_without_a_body_has_none(status: int) -> None:
    # RFC 9110 §6.4.1; a body behind it would be read as the next response.
    head, end, rest = Response(status, "body")._encode().partition(b"\r\n\r\n")
    assert (end, rest) == (b"\r\n\r\n", b"")
    assert b"Content-Length" not in head


def test_response_with_an_unknown_status() -> None:
    assert (
        Response(599)._encode() == b"HTTP/1.1 599 Unknown\r\nContent-Length: 0\r\n\r\n"
    )
    assert repr(Response(599)) == "<Response 599>"


@pytest.mark.parametrize("status", [99, 600, -1, "200", None, 200.0])
def test_response_refuses_a_wrong_status(status: object) -> None:
    with pytest.raises(ValueError, match="status must be from 100 to 599, not"):
        Response(status)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["a\rb", "a\nb", "a\0b", "a\r\nSet-Cookie: x"])
def test_response_refuses_line_breaks_in_headers(text: str) -> None:
    with pytest.raises(ValueError, match="line break"):
        Response(200, "", {"X": text})
    with pytest.raises(ValueError, match="line break"):
        Response(200, "", [(text, "x")])


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a\tb", "é", " a", "(a)"])
def test_response_refuses_what_is_no_name_of_a_header(name: str) -> None:
    with pytest.raises(ValueError, match="must have a name such as 'X-Name'"):
        Response(200, "", {name: "x"})


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_response_refuses_what_json_cannot_say(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        Response(200, {"a": number})


@pytest.mark.parametrize("body", [None, 5, object()])
def test_response_refuses_other_bodies(body: object) -> None:
    with pytest.raises(TypeError, match="body must be str, bytes, dict or list, not"):
        Response(200, body)  # type: ignore[arg-type]


def test_response_is_understood_by_h11() -> None:
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "h")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(Response(403, "no", [("X-A", "é")])._encode())
    response = connection.next_event()
    assert isinstance(response, h11.Response)
    assert (response.status_code, response.reason) == (403, b"Forbidden")
    body = connection.next_event()
    assert isinstance(body, h11.Data)
    assert body.data == b"no"
