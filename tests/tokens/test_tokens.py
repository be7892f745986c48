"""Tokens: what is made is verified, and nothing else."""

from __future__ import annotations

import base64
import builtins
import hashlib
import hmac
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simple_ws.errors import InvalidState, TokenError, TokenExpired
from simple_ws.tokens import Tokens

NEEDED = "cryptography.hazmat.primitives"
ec = pytest.importorskip(
    f"{NEEDED}.asymmetric.ec", reason="cryptography has no wheel here"
)
ed25519 = pytest.importorskip(f"{NEEDED}.asymmetric.ed25519")
rsa = pytest.importorskip(f"{NEEDED}.asymmetric.rsa")
serialization = pytest.importorskip(f"{NEEDED}.serialization")

pytestmark = pytest.mark.one_backend

SECRET = "a secret of at least thirty-two bytes"
NOW = 1_800_000_000.0


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


def pair(key: Any) -> tuple[str, str]:
    """The private and the public key, in PEM."""
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return private.decode(), public.decode()


RSA = pair(rsa.generate_private_key(65537, 2048))
WEAK_RSA = pair(rsa.generate_private_key(65537, 1024))
P256 = pair(ec.generate_private_key(ec.SECP256R1()))
P384 = pair(ec.generate_private_key(ec.SECP384R1()))
ED25519 = pair(ed25519.Ed25519PrivateKey.generate())


def segment(value: Any) -> str:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def forge(header: Any, claims: Any, secret: bytes = SECRET.encode()) -> str:
    """A token signed with HMAC, whatever its header says."""
    signed = f"{segment(header)}.{segment(claims)}"
    signature = hmac.digest(secret, signed.encode(), hashlib.sha256)
    return f"{signed}.{segment(signature)}"


def signed(claims: Any) -> str:
    return forge({"alg": "HS256", "typ": "JWT"}, claims)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(clock: Clock) -> Tokens:
    return Tokens(SECRET, clock=clock)


class TestConnection:
    def test_what_is_made_is_verified(self, tokens: Tokens) -> None:
        token = tokens.connection(
            "ann", expires_in=60, channels=["a"], info={"n": 1}, meta=[1], jti="x"
        )
        claims = tokens.verify_connection(token)
        assert claims.user == "ann"
        assert claims.expires_at == NOW + 60
        assert list(claims.topics) == ["a"]
        assert (claims.info, claims.meta) == ({"n": 1}, [1])
        assert (claims.claims["jti"], claims.claims["iat"]) == ("x", NOW)

    def test_token_of_another_program(self, tokens: Tokens) -> None:
        """As the documentation of Centrifugo makes it."""
        token = jwt.encode({"sub": "42", "exp": NOW + 5}, SECRET, algorithm="HS256")
        assert tokens.verify_connection(token).user == "42"

    def test_expire_at_is_the_end_of_the_connection(self, tokens: Tokens) -> None:
        token = tokens.connection("ann", expires_in=60, expire_at=NOW + 600)
        assert tokens.verify_connection(token).expires_at == NOW + 600
        token = tokens.connection("ann", expires_in=60, expire_at=0)
        assert tokens.verify_connection(token).expires_at is None

    def test_subs(self, tokens: Tokens) -> None:
        subs = {
            "a": {"info": 1, "b64data": base64.b64encode(b'{"x":1}').decode()},
            "b": {"override": {"join_leave": {"value": False}, "recover": True}},
        }
        topics = tokens.verify_connection(tokens.connection("", subs=subs)).topics
        assert (topics["a"].info, topics["a"].data) == (1, {"x": 1})
        assert topics["b"].override == {"join_leave": False, "recover": True}

    @pytest.mark.parametrize(
        "claims",
        [
            {"sub": 7},
            {"sub": ["ann"]},
            {"channels": "room"},
            {"channels": [1]},
            {"channels": [""]},
            {"subs": ["a"]},
            {"subs": {"a": 1}},
            {"subs": {"": {}}},
            {"subs": {"a": {"override": {"recover": "yes"}}}},
            {"subs": {"a": {"override": []}}},
            {"b64info": "!"},
            {"b64info": base64.b64encode(b"{").decode()},
            {"b64info": base64.b64encode(b"[" * 9000).decode()},
            {"info": 1, "b64info": 7},
            {"exp": "soon"},
            {"exp": True},
            {"exp": -1},
            {"exp": 10**400},
            {"exp": float("nan")},
            {"exp": float("inf")},
            {"exp": NOW + 5, "expire_at": "never"},
            {"info": float("nan")},
            {"subs": {"a": {"data": [float("inf")]}}},
            {"nbf": []},
            {"iat": {}},
            {"channel": "room"},
        ],
        ids=str,
    )
    def test_wrong_claims(self, tokens: Tokens, claims: Any) -> None:
        with pytest.raises(TokenError):
            tokens.verify_connection(signed(claims))


class TestSubscription:
    def test_what_is_made_is_verified(self, tokens: Tokens) -> None:
        token = tokens.subscription(
            "ann", "room", expires_in=60, info=[1], client="7@a", data={"d": 1}
        )
        claims = tokens.verify_subscription(token)
        assert (claims.user, claims.channel) == ("ann", "room")
        assert (claims.client, claims.expires_at) == ("7@a", NOW + 60)
        assert (claims.topic.info, claims.topic.data) == ([1], {"d": 1})

    @pytest.mark.parametrize(
        "claims", [{"sub": "ann"}, {"channel": ""}, {"channel": 7}, {"channel": None}]
    )
    def test_one_without_a_topic(self, tokens: Tokens, claims: Any) -> None:
        with pytest.raises(TokenError):
            tokens.verify_subscription(signed(claims))


class TestTime:
    def test_expired(self, tokens: Tokens, clock: Clock) -> None:
        token = tokens.connection("ann", expires_in=60)
        clock.now += 59
        tokens.verify_connection(token)
        clock.now += 1
        with pytest.raises(TokenExpired, match="the token has expired"):
            tokens.verify_connection(token)

    def test_not_yet(self, tokens: Tokens, clock: Clock) -> None:
        token = tokens.connection("ann", nbf=NOW + 5)
        with pytest.raises(TokenExpired, match="not valid yet"):
            tokens.verify_connection(token)
        clock.now += 5
        tokens.verify_connection(token)

    def test_leeway(self, clock: Clock) -> None:
        tokens = Tokens(SECRET, leeway=10, clock=clock)
        token = tokens.connection("ann", expires_in=60, nbf=NOW + 10)
        clock.now += 69
        tokens.verify_connection(token)
        clock.now += 1
        with pytest.raises(TokenExpired):
            tokens.verify_connection(token)

    def test_never(self, tokens: Tokens) -> None:
        token = tokens.connection("ann", expires_in=None)
        assert tokens.verify_connection(token).expires_at is None


class TestAudience:
    def test_audience_and_issuer(self, clock: Clock) -> None:
        strict = Tokens(SECRET, audience="live", issuer="app", clock=clock)
        strict.verify_connection(strict.connection("ann"))
        several = Tokens(SECRET, audience=["x", "live"], issuer="app", clock=clock)
        strict.verify_connection(several.connection("ann"))
        for wrong in ({}, {"audience": "shop", "issuer": "app"}, {"audience": "live"}):
            other = Tokens(SECRET, clock=clock, **wrong)  # type: ignore[arg-type]
            with pytest.raises(TokenError):
                strict.verify_connection(other.connection("ann"))

    def test_any_audience_without_one(self, tokens: Tokens) -> None:
        tokens.verify_connection(tokens.connection("ann", aud="shop", iss="x"))


class TestKeys:
    @pytest.mark.parametrize(
        ("keys", "algorithm"),
        [(RSA, "RS256"), (P256, "ES256"), (P384, "ES384"), (ED25519, "EdDSA")],
        ids=["rsa", "p256", "p384", "ed25519"],
    )
    def test_public_keys(
        self, keys: tuple[str, str], algorithm: str, clock: Clock
    ) -> None:
        private, public = keys
        tokens = Tokens(public_key=public, private_key=private, clock=clock)
        token = tokens.connection("ann")
        assert jwt.get_unverified_header(token)["alg"] == algorithm
        Tokens(public_key=public.encode(), clock=clock).verify_connection(token)
        with pytest.raises(InvalidState, match="private_key"):
            Tokens(public_key=public).connection("ann")

    def test_several_keys_at_once(self, clock: Clock) -> None:
        tokens = Tokens(SECRET, public_key=[RSA[1], P256[1]], clock=clock)
        for private, algorithm in ((RSA[0], "RS512"), (P256[0], "ES256")):
            token = jwt.encode({"sub": "ann"}, private, algorithm=algorithm)
            assert tokens.verify_connection(token).user == "ann"
        tokens.verify_connection(tokens.connection("ann"))
        with pytest.raises(TokenError):
            tokens.verify_connection(jwt.encode({}, P384[0], algorithm="ES384"))

    def test_public_key_is_no_secret(self, clock: Clock) -> None:
        """The oldest attack on tokens: HMAC with the public key as its key."""
        _, public = RSA
        forged = forge({"alg": "HS256"}, {"sub": "root"}, public.encode())
        for tokens in (
            Tokens(public_key=public, clock=clock),
            Tokens(SECRET, public_key=public, clock=clock),
        ):
            with pytest.raises(TokenError):
                tokens.verify_connection(forged)
        with pytest.raises(ValueError, match="secret is not a key"):
            Tokens(public)

    @pytest.mark.parametrize(
        "algorithm", ["none", "None", "nOnE", "", None, [], 7, "HS999", "RS256"]
    )
    def test_other_algorithms(self, tokens: Tokens, algorithm: Any) -> None:
        claims = segment({"sub": "root"})
        for signature in ("", segment(b"x")):
            token = f"{segment({'alg': algorithm})}.{claims}.{signature}"
            with pytest.raises(TokenError):
                tokens.verify_connection(token)
        with pytest.raises(TokenError):
            tokens.verify_connection(forge({"alg": algorithm}, {"sub": "root"}))

    def test_header_gives_no_key(self, tokens: Tokens) -> None:
        key = base64.urlsafe_b64encode(b"k" * 32).decode()
        given = {"jwk": {"kty": "oct", "k": key}, "jku": "http://evil/", "x5u": "x"}
        forged = forge({"alg": "HS256", **given}, {"sub": "root"}, b"k" * 32)
        with pytest.raises(TokenError):
            tokens.verify_connection(forged)

    @pytest.mark.parametrize("header", [{"crit": ["x"], "x": 1}, {"b64": False}])
    def test_extensions_that_are_not_known(self, tokens: Tokens, header: Any) -> None:
        with pytest.raises(TokenError):
            tokens.verify_connection(forge({"alg": "HS256", **header}, {"sub": "a"}))

    def test_longer_hashes_need_longer_secrets(self, clock: Clock) -> None:
        token = jwt.encode({"sub": "ann"}, "k" * 64, algorithm="HS512")
        Tokens("k" * 64, clock=clock).verify_connection(token)
        with pytest.raises(ValueError, match="needs 64"):
            Tokens("k" * 63, algorithms=["HS512"])

    def test_short_secret_on_demand(self, clock: Clock) -> None:
        with pytest.raises(ValueError, match="secret has 6 bytes, and needs 32"):
            Tokens("secret")
        tokens = Tokens("secret", allow_short_secret=True, clock=clock)
        token = forge({"alg": "HS256"}, {"sub": "ann"}, b"secret")
        assert tokens.verify_connection(token).user == "ann"
        assert tokens.connection("ann").count(".") == 2

    def test_messages_name_no_key(self) -> None:
        with pytest.raises(ValueError, match="secret") as caught:
            Tokens("hunter2")
        assert "hunter2" not in str(caught.value)
        assert SECRET not in repr(Tokens(SECRET))


WRONG: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: Tokens(), TypeError, "needs a secret"),
    (lambda: Tokens(""), ValueError, "must not be empty"),
    (lambda: Tokens(b"  "), ValueError, "must not be empty"),
    (lambda: Tokens(7), TypeError, "secret must be str"),  # type: ignore[arg-type]
    (lambda: Tokens(SECRET, jwks_url="https://a/"), TypeError, "jwks_url is without"),
    (lambda: Tokens(SECRET, private_key=RSA[0]), TypeError, "private_key belongs"),
    (lambda: Tokens(public_key="x"), ValueError, "public_key is not a key"),
    (lambda: Tokens(public_key=7), TypeError, "public_key must be"),  # type: ignore[arg-type]
    (lambda: Tokens(public_key=RSA[0]), ValueError, "is a private key"),
    (lambda: Tokens(public_key=[RSA[1], RSA[1]]), ValueError, "two keys"),
    (lambda: Tokens(public_key=WEAK_RSA[1]), ValueError, "too short"),
    (lambda: Tokens(public_key=RSA[1], private_key=RSA[1]), ValueError, "is a public"),
    (lambda: Tokens(SECRET, algorithms="HS256"), TypeError, "must be a list"),
    (lambda: Tokens(SECRET, algorithms=[]), ValueError, "must not be empty"),
    (lambda: Tokens(SECRET, algorithms=["none"]), ValueError, "is not known"),
    (lambda: Tokens(SECRET, algorithms=["RS256"]), ValueError, "there is no key"),
    (
        lambda: Tokens(public_key=RSA[1], algorithms=["ES256"]),
        ValueError,
        "key for ES256",
    ),
    (lambda: Tokens(SECRET, leeway=-1), ValueError, "leeway"),
    (lambda: Tokens(SECRET, leeway=True), TypeError, "leeway"),
    (lambda: Tokens(jwks_url=7), TypeError, "jwks_url"),  # type: ignore[arg-type]
    (lambda: Tokens(jwks_url="http://a.example/"), ValueError, "https address"),
    (lambda: Tokens(jwks_url="file:///etc/passwd"), ValueError, "https address"),
    (lambda: Tokens(SECRET).connection(7), TypeError, "user must be"),  # type: ignore[arg-type]
    (lambda: Tokens(SECRET).connection("a", channels="b"), TypeError, "channels"),
    (lambda: Tokens(SECRET).connection("a", expires_in="1h"), TypeError, "expires_in"),  # type: ignore[arg-type]
    (lambda: Tokens(SECRET).connection("a", info={1}), TypeError, "serializable"),
    (lambda: Tokens(SECRET).subscription("a", ""), ValueError, "channel"),
    (lambda: Tokens(SECRET).subscription("a", 7), TypeError, "channel"),  # type: ignore[arg-type]
    (lambda: Tokens(SECRET).verify_connection(b"x"), TypeError, "must be a str"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("call", "error", "text"), WRONG)
def test_misuse_is_told(
    call: Callable[[], Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        call()


@pytest.mark.parametrize("token", ["", ".", "..", "...", "a.b.c", "é.é.é", "\ud800"])
def test_what_is_no_token(tokens: Tokens, token: str) -> None:
    with pytest.raises(TokenError):
        tokens.verify_connection(token)


def test_size_is_bounded(tokens: Tokens) -> None:
    token = tokens.connection("ann", info="x" * 8000)
    tokens.verify_connection(token)
    with pytest.raises(TokenError, match="more than 16,384 characters"):
        tokens.verify_connection(tokens.connection("ann", info="x" * 16_000))


def test_deep_claims_are_refused(tokens: Tokens) -> None:
    for text in (b"[" * 9000, b'{"a":' * 2000, b"1" * 9000):
        token = f"{segment({'alg': 'HS256'})}.{segment(text)}"
        signature = hmac.digest(SECRET.encode(), token.encode(), hashlib.sha256)
        with pytest.raises(TokenError):
            tokens.verify_connection(f"{token}.{segment(signature)}")


jsons = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=4,
)
NAMES = ["sub", "exp", "nbf", "iat", "aud", "iss", "channels", "subs", "info"]
MORE = ["b64info", "expire_at", "override", "channel", "client", "meta", "data", "jti"]


@settings(max_examples=30)
@given(st.dictionaries(st.sampled_from(NAMES + MORE) | st.text(), jsons))
def test_any_claims_are_read_or_refused(claims: Any) -> None:
    tokens = Tokens(SECRET, clock=Clock())
    token = signed(claims)
    for verify in (tokens.verify_connection, tokens.verify_subscription):
        with suppress(TokenError):
            verify(token)


@given(jsons, jsons, st.binary())
def test_any_segments_are_refused(header: Any, claims: Any, signature: bytes) -> None:
    tokens = Tokens(SECRET, clock=Clock())
    with pytest.raises(TokenError):
        tokens.verify_connection(
            f"{segment(header)}.{segment(claims)}.{segment(signature)}"
        )


@given(st.text())
def test_any_text_is_refused(text: str) -> None:
    with pytest.raises(TokenError):
        Tokens(SECRET, clock=Clock()).verify_connection(text)


@given(st.integers(0, 400), st.integers(1, 255))
def test_changed_token_is_refused(place: int, change: int) -> None:
    tokens = Tokens(SECRET, clock=Clock())
    token = tokens.connection("ann", info="x" * 100)
    place %= token.rindex(".")  # the last bits of a signature may mean nothing
    changed = chr((ord(token[place]) + change) % 256)
    with pytest.raises(TokenError):
        tokens.verify_connection(token[:place] + changed + token[place + 1 :])


def test_missing_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    really = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name == "jwt":
            raise ImportError(name)
        return really(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'pyjwt\[crypto\]'"):
        Tokens(SECRET)
