"""Keys at an address: read in a thread, kept, and read again when they change."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest

from simple_ws.errors import KeysUnavailable, TokenError
from simple_ws.tokens import Tokens

NEEDED = "cryptography.hazmat.primitives.asymmetric"
ec = pytest.importorskip(f"{NEEDED}.ec", reason="cryptography has no wheel here")
rsa = pytest.importorskip(f"{NEEDED}.rsa")

pytestmark = pytest.mark.one_backend
DEADLINE = 10

ONE, TWO = (rsa.generate_private_key(65537, 2048) for _ in range(2))
EC = ec.generate_private_key(ec.SECP256R1())


def key_of(private: Any, kid: str | None, **fields: Any) -> dict[str, Any]:
    is_ec = isinstance(private, ec.EllipticCurvePrivateKey)
    kind = jwt.algorithms.ECAlgorithm if is_ec else jwt.algorithms.RSAAlgorithm
    key: dict[str, Any] = json.loads(kind.to_jwk(private.public_key()))
    key.pop("key_ops", None)
    return key | fields | ({} if kid is None else {"kid": kid})


def token(private: Any, kid: Any = None, algorithm: str = "RS256") -> str:
    headers = None if kid is None else {"kid": kid}
    return jwt.encode({"sub": "ann"}, private, algorithm=algorithm, headers=headers)


class Endpoint:
    """Where the keys are; the test says what it answers, and when."""

    def __init__(self) -> None:
        self.keys: Any = [key_of(ONE, "one")]
        self.status = 200
        self.body: bytes | None = None
        self.reads = 0
        self.gate = threading.Event()
        self.gate.set()
        self.headers: dict[str, str] = {}

    def answer(self) -> bytes:
        self.reads += 1
        assert self.gate.wait(DEADLINE)
        if self.body is not None:
            return self.body
        return json.dumps({"keys": self.keys}).encode()


@contextmanager
def serving(endpoint: Endpoint) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = endpoint.answer()
            self.send_response(endpoint.status)
            for name, value in endpoint.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/jwks.json"
    finally:
        endpoint.gate.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def endpoint() -> Endpoint:
    return Endpoint()


class Site:
    """Tokens with such keys, and their clock."""

    def __init__(self, url: str) -> None:
        self.now = 5000.0
        self.tokens = Tokens(jwks_url=url)
        self.keys = self.tokens._keys
        assert self.keys is not None
        self.keys._clock = lambda: self.now

    def user(self, token: str) -> str:
        return self.tokens.verify_connection(token).user

    def settle(self) -> None:
        """Wait for the thread that reads."""
        assert self.keys is not None
        reading = self.keys._reading
        if reading is not None:
            assert reading.wait(DEADLINE)


@pytest.fixture
def site(endpoint: Endpoint) -> Iterator[Site]:
    with serving(endpoint) as url:
        yield Site(url)


def test_keys_are_read_once(site: Site, endpoint: Endpoint) -> None:
    assert not site.tokens.has_key(token(ONE, "one"))
    for _ in range(3):
        assert site.user(token(ONE, "one")) == "ann"
    assert site.tokens.has_key(token(ONE, "one"))
    assert endpoint.reads == 1


def test_wrong_signature(site: Site) -> None:
    with pytest.raises(TokenError):
        site.user(token(TWO, "one"))


def test_key_without_a_name(site: Site, endpoint: Endpoint) -> None:
    endpoint.keys = [key_of(ONE, None)]
    assert site.user(token(ONE)) == "ann"


def test_only_key_need_not_be_named(site: Site, endpoint: Endpoint) -> None:
    assert site.user(token(ONE)) == "ann"
    endpoint.keys = [key_of(ONE, "one"), key_of(TWO, "two")]
    site.now += 400
    site.user(token(ONE, "one"))
    site.tokens.has_key(token(ONE, "one"))
    site.settle()
    with pytest.raises(TokenError, match="no key that fits"):
        site.user(token(ONE))


def test_algorithm_must_be_that_of_the_key(site: Site, endpoint: Endpoint) -> None:
    endpoint.keys = [key_of(ONE, "one", alg="RS256"), key_of(EC, "ec")]
    assert site.user(token(EC, "ec", "ES256")) == "ann"
    with pytest.raises(TokenError):
        site.user(token(ONE, "one", "RS512"))
    with pytest.raises(TokenError):
        site.user(token(ONE, "ec"))


def test_symmetric_and_other_keys_are_passed_over(
    site: Site, endpoint: Endpoint
) -> None:
    secret = {"kty": "oct", "k": "c2VjcmV0", "kid": "one"}
    secrets = [secret, {"kty": "oct", "k": "a" * 43, "kid": None}]
    wrong = [7, None, {}, {"kty": "RSA", "kid": 7}, key_of(TWO, "two", use="enc")]
    endpoint.keys = [*secrets, *wrong, key_of(ONE, "one")]
    assert site.user(token(ONE, "one")) == "ann"
    forged = jwt.encode({"sub": "x"}, "a" * 32, "HS256", headers={"kid": "one"})
    with pytest.raises(TokenError, match="algorithm"):
        site.user(forged)
    site.now += 20
    with pytest.raises(TokenError):
        site.user(token(TWO, "two"))


def test_broken_key_does_not_hide_the_others(site: Site, endpoint: Endpoint) -> None:
    broken = {"kty": "RSA", "kid": "one", "n": "!", "e": "!"}
    endpoint.keys = [broken, key_of(ONE, "one")]
    assert site.user(token(ONE, "one")) == "ann"


def test_rotated_key_is_found(site: Site, endpoint: Endpoint) -> None:
    site.user(token(ONE, "one"))
    endpoint.keys = [key_of(TWO, "two")]
    new = token(TWO, "two")
    # They were read a moment ago: better try again than believe it is wrong.
    assert site.tokens.has_key(new)
    with pytest.raises(KeysUnavailable, match="try again"):
        site.user(new)
    assert endpoint.reads == 1
    site.now += 11
    assert site.user(new) == "ann"
    assert endpoint.reads == 2
    with pytest.raises(KeysUnavailable):
        site.user(token(ONE, "one"))


def test_unknown_keys_do_not_flood_the_endpoint(site: Site, endpoint: Endpoint) -> None:
    site.user(token(ONE, "one"))
    for number in range(100):
        site.now += 1
        with pytest.raises((KeysUnavailable, TokenError)):
            site.user(token(TWO, f"unknown {number}"))
    assert endpoint.reads <= 11


def test_old_keys_are_read_again_in_the_background(
    site: Site, endpoint: Endpoint
) -> None:
    site.user(token(ONE, "one"))
    endpoint.keys = [key_of(TWO, "two")]
    endpoint.gate.clear()
    site.now += 301
    assert site.tokens.has_key(token(ONE, "one"))
    assert site.user(token(ONE, "one")) == "ann"  # without waiting
    endpoint.gate.set()
    site.settle()
    site.now += 11
    with pytest.raises(TokenError, match="no key that fits"):
        site.user(token(ONE, "one"))


def test_outage_is_told_once(
    site: Site, endpoint: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "simple_ws.tokens")
    endpoint.status = 503
    for _ in range(5):
        with pytest.raises(KeysUnavailable, match="try again"):
            site.user(token(ONE, "one"))
        site.now += 11
    assert [each.levelname for each in caplog.records] == ["WARNING"]
    assert "503" in caplog.text
    endpoint.status = 200
    assert site.user(token(ONE, "one")) == "ann"
    assert caplog.records[-1].levelname == "INFO"
    assert "again" in caplog.records[-1].getMessage()


def test_known_keys_outlive_an_outage_for_an_hour(
    site: Site, endpoint: Endpoint
) -> None:
    site.user(token(ONE, "one"))
    endpoint.status = 500
    for _ in range(38):
        site.now += 100
        assert site.user(token(ONE, "one")) == "ann"
        site.tokens.has_key(token(ONE, "one"))
        site.settle()
    site.now += 200
    with pytest.raises(KeysUnavailable):
        site.user(token(ONE, "one"))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"7",
        b'{"keys": {}}',
        b'{"keys": []}',
        b'{"keys": [{"kty": "oct", "k": "AAAA"}]}',
        b"\xff",
        b"[" * 100_000,
        json.dumps({"keys": [{"kty": "RSA"}] * 101}).encode(),
        b" " * 300_000,
    ],
)
def test_answers_without_keys(site: Site, endpoint: Endpoint, body: bytes) -> None:
    endpoint.body = body
    with pytest.raises(KeysUnavailable):
        site.user(token(ONE, "one"))


def test_redirects_are_not_followed(site: Site, endpoint: Endpoint) -> None:
    endpoint.status, endpoint.headers = 302, {"Location": "http://127.0.0.1:1/"}
    with pytest.raises(KeysUnavailable):
        site.user(token(ONE, "one"))
    assert endpoint.reads == 1


def test_few_wait_and_the_others_are_told(site: Site, endpoint: Endpoint) -> None:
    endpoint.gate.clear()
    outcomes: list[Any] = []

    def verify() -> None:
        try:
            outcomes.append(site.user(token(ONE, "one")))
        except KeysUnavailable as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=verify) for _ in range(10)]
    for thread in threads:
        thread.start()
    told = threading.Event()
    for _ in range(10_000):
        if len(outcomes) >= 8:
            break
        told.wait(0.001)
    endpoint.gate.set()
    for thread in threads:
        thread.join(DEADLINE)
    assert outcomes.count("ann") == 2
    assert outcomes.count("the keys are being read: try again") == 8
    assert endpoint.reads == 1


def test_read_that_is_stuck_is_given_up(site: Site, endpoint: Endpoint) -> None:
    endpoint.gate.clear()
    assert site.keys is not None
    first = site.keys._start()
    assert first is not None
    assert site.keys._start() is first
    site.now += 31
    second = site.keys._start()
    assert second is not None
    assert second is not first
    endpoint.gate.set()
    assert first.wait(DEADLINE)
    assert second.wait(DEADLINE)
    assert site.user(token(ONE, "one")) == "ann"


@pytest.mark.parametrize("kid", [7, ["one"], {"a": 1}])
def test_id_of_a_key_of_another_type(site: Site, kid: Any) -> None:
    header = jwt.utils.base64url_encode(
        json.dumps({"alg": "RS256", "kid": kid}).encode()
    ).decode()
    with pytest.raises(TokenError):
        site.user(f"{header}.e30.AAAA")
    assert site.tokens.has_key(f"{header}.e30.AAAA")
