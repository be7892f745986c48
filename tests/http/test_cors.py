"""CORS: which pages of other origins may read answers (Fetch Standard)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from harness import Driven
from http_peer import Answered, HttpPeer, ask, browse

from simple_ws import Cors, HandshakeError, Response

PAGE = "https://example.com"


def fields(answered: Answered) -> dict[str, str]:
    """The header fields of CORS, by their short names."""
    names = {
        name.removeprefix("access-control-"): value
        for name, value in answered.headers.items()
    }
    return {
        name: value
        for name, value in names.items()
        if name in ("vary", "max-age", "expose-headers") or name.startswith("allow-")
    }


def preflight(peer: HttpPeer, origin: str, method: str, *more: str) -> Answered:
    asked = f"Access-Control-Request-Method: {method}"
    return peer.fetch("OPTIONS", "/page", f"Origin: {origin}", asked, *more)


@pytest.fixture
def driven() -> Any:
    with Driven() as driven:
        yield driven


ANYBODY = {"allow-origin": "*"}
VARIES = {"vary": "Origin"}
ALLOWED = {"allow-origin": PAGE, **VARIES}


@pytest.mark.parametrize(
    ("cors", "origin", "expected"),
    [
        ("*", PAGE, ANYBODY),
        ("*", "null", ANYBODY),
        ("*", None, {}),
        (PAGE, PAGE, ALLOWED),
        (PAGE, None, VARIES),
        (PAGE, "http://example.com", VARIES),
        (PAGE, "https://example.com.evil.example", VARIES),
        (PAGE, "https://example.com:443", {**ALLOWED, "allow-origin": f"{PAGE}:443"}),
        (["https://a.example", PAGE], PAGE, ALLOWED),
        ("https://*.com", PAGE, ALLOWED),
        (re.compile(r"https://exam\w+\.com"), PAGE, ALLOWED),
        (Cors(PAGE), PAGE, ALLOWED),
        (Cors(PAGE, credentials=True), PAGE, {**ALLOWED, "allow-credentials": "true"}),
        (Cors(PAGE, expose=["X-Left"]), PAGE, {**ALLOWED, "expose-headers": "X-Left"}),
        (None, PAGE, {}),
    ],
)
def test_answer_says_who_may_read_it(
    driven: Driven, cors: Any, origin: str | None, expected: dict[str, str]
) -> None:
    driven.server.http("/page", cors=cors)(lambda request: {"text": "hello"})
    lines = [] if origin is None else [f"Origin: {origin}"]
    peer = browse(driven)
    for method in "GET", "HEAD":
        answered = peer.fetch(method, "/page", *lines)
        assert (answered.status, fields(answered)) == (200, expected)


PREFLIGHT_VARY = "Access-Control-Request-Method, Access-Control-Request-Headers"


@pytest.mark.parametrize(
    ("cors", "asked", "expected"),
    [
        ("*", "X-Key, Content-Type", {"allow-headers": "X-Key, Content-Type"}),
        ("*", "", {}),
        ("*", "X Y, {}, X-Z", {"allow-headers": "X-Z"}),
        (Cors("*", headers=["X-Key"]), "X-Other", {"allow-headers": "X-Key"}),
        (Cors("*", headers=[]), "X-Other", {}),
        (Cors("*", max_age=1.5), "", {"max-age": "1"}),
    ],
)
def test_preflight_is_answered(
    driven: Driven, cors: Any, asked: str, expected: dict[str, str]
) -> None:
    driven.server.http("/page", ["POST", "PUT"], cors=cors)(lambda request: None)
    lines = [f"Access-Control-Request-Headers: {asked}"] if asked else []
    answered = preflight(browse(driven), PAGE, "PUT", *lines)
    assert answered.status == 204
    assert fields(answered) == {
        "allow-origin": "*",
        "allow-methods": "POST, PUT",
        "vary": PREFLIGHT_VARY,
        "max-age": "600",
        **expected,
    }


def test_each_method_has_its_policy(driven: Driven) -> None:
    driven.server.http("/page", ["GET"], cors=PAGE)(lambda request: "hello")
    driven.server.http("/page", ["POST"])(lambda request: "done")
    peer = browse(driven)
    origin = f"Origin: {PAGE}"
    assert fields(peer.fetch("POST", "/page", origin, body=b"x")) == {}
    assert fields(peer.get("/page", origin)) == ALLOWED
    assert fields(preflight(peer, PAGE, "POST")) == {}
    assert fields(preflight(peer, PAGE, "GET"))["allow-methods"] == "GET, HEAD"
    assert fields(preflight(peer, PAGE, "HEAD"))["allow-methods"] == "GET, HEAD"
    # One that is no preflight asks for what there is.
    assert peer.fetch("OPTIONS", "/page", origin).headers["allow"] == (
        "GET, POST, OPTIONS, HEAD"
    )


def test_page_that_may_not_is_told_nothing(driven: Driven) -> None:
    driven.server.http("/page", ["PUT"], cors=PAGE)(lambda request: "done")
    answered = preflight(browse(driven), "https://evil.example", "PUT")
    assert (answered.status, fields(answered)) == (
        204,
        {"vary": f"Origin, {PREFLIGHT_VARY}"},
    )


def test_page_may_read_why_it_was_refused(driven: Driven) -> None:
    def refuse(request: Any) -> None:
        raise HandshakeError(403, "Not for you.")

    def fail(request: Any) -> None:
        raise LookupError("a mistake")

    server, origin = driven.server, f"Origin: {PAGE}"
    server.http("/refused", cors=PAGE)(refuse)
    server.http("/failed", cors=PAGE)(fail)
    server.http("/small", ["POST"], cors=PAGE)(lambda request: None)
    peer = browse(driven)
    for path, status in ("/refused", 403), ("/failed", 500):
        answered = peer.get(path, origin)
        assert (answered.status, fields(answered)) == (status, ALLOWED)
    size = server.options.max_body + 1
    peer.peer.write(ask("POST", "/small", origin, f"Content-Length: {size}"))
    answered = peer.read("POST")
    assert (answered.status, fields(answered)) == (413, ALLOWED)


def test_what_a_function_says_itself_stays(driven: Driven) -> None:
    own = {"Access-Control-Allow-Origin": "https://own.example", "Vary": "Cookie"}
    response = Response(200, "hello", own)  # the same one each time
    driven.server.http("/page", cors=PAGE)(lambda request: response)
    peer = browse(driven)
    for _ in range(2):
        assert fields(peer.get("/page", f"Origin: {PAGE}")) == {
            "allow-origin": "https://own.example",
            "vary": "Cookie, Origin",
        }


def test_files_have_a_policy_too(driven: Driven, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    driven.server.static("/files", tmp_path, cors=PAGE)
    peer = browse(driven)
    assert fields(peer.get("/files/a.txt", f"Origin: {PAGE}")) == ALLOWED
    assert fields(peer.get("/files/none.txt", f"Origin: {PAGE}")) == ALLOWED


@pytest.mark.parametrize(
    ("origins", "options", "error"),
    [
        ("example.com", {}, "must hold origins such as 'https://example.com'"),
        ("same", {}, "pages of this one need no CORS"),
        ([None], {}, "pages of this one need no CORS"),
        ([], {}, "must hold at least one origin"),
        (5, {}, "must be a list of origins or patterns, not 5"),
        ([5], {}, "must hold strings, patterns or None, not 5"),
        ("*", {"credentials": True}, "must not be given to all origins"),
        ("null", {"credentials": True}, "must not be given to all origins"),
        ([PAGE, "*"], {"credentials": True}, "must not be given to all origins"),
        ("https://*", {"credentials": True}, "must not be given to all origins"),
        (re.compile(".*"), {"credentials": True}, "must not be given to all origins"),
        (PAGE, {"credentials": 1}, "credentials must be"),
        (PAGE, {"headers": "X"}, "must be a list of names of header fields, not 'X'"),
        (PAGE, {"headers": ["X Y"]}, "must hold names such as 'X-Name', not 'X Y'"),
        (PAGE, {"expose": [1]}, "expose must hold strings, not 1"),
        (PAGE, {"max_age": -1}, "max_age must be 0 seconds or more, not -1"),
    ],
)
def test_wrong_policy_raises_at_once(
    origins: Any, options: dict[str, Any], error: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=re.escape(error)):
        Cors(origins, **options)


def test_wrong_policy_of_a_path_raises_at_once(driven: Driven, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="origins such as"):
        driven.server.http("/page", cors="example.com")
    with pytest.raises(ValueError, match="origins such as"):
        driven.server.static("/files", tmp_path, cors="example.com")
    with pytest.raises(ValueError, match="origins such as"):
        driven.server.live("/live", cors="example.com")


def test_paths_of_live_have_it_but_not_the_server_api(driven: Driven) -> None:
    driven.server.live("/live", cors=PAGE, api_key="key")
    peer, origin = browse(driven), f"Origin: {PAGE}"
    assert fields(peer.get("/live/client.js", origin)) == {
        "allow-origin": "*",
        "vary": "Accept-Encoding",
    }
    for path, method in ("/live/emulation", "POST"), ("/live/events", "GET"):
        asked = f"Access-Control-Request-Method: {method}"
        answered = peer.fetch("OPTIONS", path, origin, asked)
        assert fields(answered)["allow-origin"] == PAGE
    key = "X-API-Key: key"
    answered = peer.fetch("POST", "/live/api/info", origin, key, body=b"{}")
    assert (answered.status, fields(answered)) == (200, {})
    asked = "Access-Control-Request-Method: POST"
    assert fields(peer.fetch("OPTIONS", "/live/api/info", origin, asked)) == {}


def test_origin_of_websockets_stays_what_it_is(driven: Driven) -> None:
    live = driven.server.live("/live", cors="*", origins=PAGE)
    assert live.options.origins == (PAGE,)
