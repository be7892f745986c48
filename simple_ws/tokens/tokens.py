"""`Tokens`: makes and verifies tokens. What they say is read in `claims`, keys of an
endpoint are in `jwks`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from ..checks import flag, several
from ..errors import InvalidState, TokenError, TokenExpired
from ..loop.deferred import check_callback
from .claims import (
    LATEST,
    ConnectionClaims,
    SubscriptionClaims,
    read_connection,
    read_subscription,
    time_of,
)
from .jwks import KeySet
from .library import load_library

__all__ = ["Tokens"]

_Pem = str | bytes

#: Characters of a token: as many as the header fields of a request may have.
_MAX_TOKEN = 16_384
#: Least bytes of the secret (RFC 7518 §3.2).
_HMAC: Final = {"HS256": 32, "HS384": 48, "HS512": 64}
_PUBLIC: Final = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
#: HMAC fills keys with zeros to this size (RFC 2104 §2), so that they are the same.
_BLOCK = 64
#: What is checked here, with our clock.
_OPTIONS: Final = {
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_sub": False,
    "verify_jti": False,
    "enforce_minimum_key_length": True,
}


class Tokens:
    """Makes and verifies JSON Web Tokens with the claims of Centrifugo.

        tokens = Tokens(secret=os.environ["TOKEN_SECRET"])
        server.live("/live", tokens=tokens)
        token = tokens.connection("ann", expires_in=3600)    # for the page of ann

    All methods may be called from any thread.

    Args:
        secret: shared by those who make tokens and those who verify them, for HMAC: at
            least 32 bytes, 48 for HS384, 64 for HS512.
        public_key: of those who make them, in PEM: RSA of at least 2048 bits, EC or
            Ed25519; or several of different kinds. There may be a secret as well: a key
            verifies tokens of its own algorithms alone.
        jwks_url: where their public keys are, an https address (RFC 7517 §5), without
            other keys; http is for this machine alone. They are read in a thread, and
            kept for 5 minutes.
        private_key: in PEM; makes tokens that the public key verifies.
        algorithms: that are accepted, such as `["RS256"]`; the first makes tokens. By
            default all that fit the key; never "none".
        audience: that tokens must be for, the claim `aud`; None: any.
        issuer: who must have made them, the claim `iss`; None: anybody with the key.
        leeway: seconds by which clocks of other machines may be wrong.
        allow_short_secret: accept a secret that is too short to be safe, such as one
            that exists already. It can be guessed from any token.
        clock: seconds since 1970.

    Raises:
        ImportError: PyJWT is not installed, or for public keys its extra `crypto`.
        TypeError: There is no key, or one beside `jwks_url`, or something has a wrong
            type.
        ValueError: A key is malformed or too short, or an algorithm has none.
    """

    def __init__(
        self,
        secret: str | bytes | None = None,
        *,
        public_key: _Pem | Sequence[_Pem] | None = None,
        jwks_url: str | None = None,
        private_key: _Pem | None = None,
        algorithms: Sequence[str] | None = None,
        audience: str | Sequence[str] | None = None,
        issuer: str | None = None,
        leeway: float = 0.0,
        allow_short_secret: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._library = load_library()
        _check_together(secret, public_key, jwks_url, private_key)
        self._leeway = _checked_leeway(leeway)
        check_callback("clock", clock, ())
        self.clock = clock
        self._audience, self._issuer = _checked_audience(audience), issuer
        if issuer is not None:
            _check_name("issuer", issuer)
        self._jwt = self._library.PyJWT(_OPTIONS)
        # What verifies tokens, by algorithm; and what makes them, with which.
        self._by_algorithm: dict[str, Any] = {}
        self._signing: tuple[str, Any] | None = None
        self._keys: KeySet | None = None
        wanted = _checked_algorithms(algorithms)
        if secret is not None:
            short = flag("allow_short_secret", allow_short_secret)
            self._take_secret(secret, wanted, short)
        for pem in _several(public_key):
            self._take_public(pem, wanted)
        if private_key is not None:
            self._take_private(private_key, wanted)
        self._algorithms = wanted or tuple(self._by_algorithm) or _PUBLIC
        if jwks_url is not None:
            self._keys = KeySet(jwks_url, self._library)
        self._check_algorithms()

    def __repr__(self) -> str:
        return f"<Tokens {'/'.join(self._algorithms)}>"

    def _check_algorithms(self) -> None:
        """Check that there is, or may be, a key for each of them."""
        known: Iterable[str] = self._by_algorithm if self._keys is None else _PUBLIC
        for name in self._algorithms:
            if name not in known:
                raise ValueError(f"there is no key for the algorithm {name!r}")

    def _take_secret(
        self, secret: str | bytes, wanted: Sequence[str] | None, short: bool
    ) -> None:
        if not isinstance(secret, str | bytes):
            raise TypeError(f"secret must be str or bytes, not {type(secret).__name__}")
        key = secret.encode() if isinstance(secret, str) else secret
        if not key or key.isspace():
            raise ValueError("secret must not be empty")
        names = [name for name in wanted or _HMAC if name in _HMAC]
        if short:
            key = key.ljust(_BLOCK, b"\0")
        else:
            needed = [_HMAC[name] for name in names]
            # Without `algorithms` those that it is long enough for.
            least = min(needed) if wanted is None else max(needed, default=0)
            if len(key) < least:
                raise ValueError(
                    f"secret has {len(key)} bytes, and needs {least} (RFC 7518 §3.2)"
                )
        for name in names:
            if len(key) >= _HMAC[name]:
                self._by_algorithm[name] = self._prepared(name, key, "secret")
        if names:
            self._signing = names[0], self._by_algorithm[names[0]]

    def _take_public(self, pem: _Pem, wanted: Sequence[str] | None) -> None:
        fitting, key = self._fitting(pem, wanted, "public_key")
        if hasattr(key, "public_key"):
            raise ValueError("public_key is a private key")
        for name in fitting:
            if name in self._by_algorithm:
                raise ValueError(f"there are two keys for the algorithm {name}")
            self._by_algorithm[name] = key

    def _take_private(self, pem: _Pem, wanted: Sequence[str] | None) -> None:
        fitting, key = self._fitting(pem, wanted, "private_key")
        if not hasattr(key, "public_key"):
            raise ValueError("private_key is a public key")
        self._signing = fitting[0], key

    def _fitting(
        self, pem: _Pem, wanted: Sequence[str] | None, name: str
    ) -> tuple[list[str], Any]:
        """The algorithms that fit a key, and the key as the library has it."""
        if not isinstance(pem, str | bytes):
            raise TypeError(f"{name} must be str or bytes, not {type(pem).__name__}")
        among = [each for each in wanted or _PUBLIC if each in _PUBLIC]
        reason: Exception | None = None
        for algorithm in among:
            try:
                key = self._prepared(algorithm, pem, name)
            except ValueError as error:
                reason = reason or error
                continue
            kind = _kind_of(algorithm)
            return [each for each in among if _kind_of(each) == kind], key
        raise reason or ValueError(f"{name} fits none of the algorithms")

    def _prepared(self, algorithm: str, key: str | bytes, name: str) -> Any:
        try:
            used = self._library.get_algorithm_by_name(algorithm)
        except NotImplementedError:
            raise ImportError(
                f"{algorithm} needs cryptography: pip install 'pyjwt[crypto]'",
                name="cryptography",
            ) from None
        try:
            prepared = used.prepare_key(key)
        except (self._library.PyJWTError, TypeError, ValueError) as error:
            raise ValueError(f"{name} is not a key for {algorithm}: {error}") from error
        too_short = used.check_key_length(prepared)
        if too_short:
            raise ValueError(f"{name} is too short: {too_short}")
        return prepared

    # Verifying

    def verify_connection(self, token: str) -> ConnectionClaims:
        """Verify the token of a connection.

        With `jwks_url` it may wait up to 5 s for the keys, unless `has_key` is true.

        Raises:
            TokenExpired: It has expired, or is not valid yet.
            TokenError: It is not valid.
            KeysUnavailable: The keys cannot be read at present.
        """
        return read_connection(self._verified(token))

    def verify_subscription(self, token: str) -> SubscriptionClaims:
        """Verify the token of a subscription; as `verify_connection`."""
        return read_subscription(self._verified(token))

    def has_key(self, token: str) -> bool:
        """Whether the token can be verified, or refused, without waiting for keys."""
        if self._keys is None or len(token) > _MAX_TOKEN:
            return True
        try:
            return self._keys.has(self._key_id(token))
        except TokenError:
            return True

    def _verified(self, token: str) -> dict[str, Any]:
        if not isinstance(token, str):
            raise TypeError(f"a token must be a str, not {type(token).__name__}")
        if len(token) > _MAX_TOKEN:
            raise TokenError(f"the token has more than {_MAX_TOKEN:,} characters")
        key_id, algorithm = self._key_id(token)
        if self._keys is not None:
            key = self._keys.find(key_id, algorithm)
        else:
            key = self._by_algorithm[algorithm]
        claims = self._decoded(token, key, algorithm)
        now = self.clock()
        expires = time_of(claims, "exp")
        if expires is not None and expires <= now - self._leeway:
            raise TokenExpired("the token has expired")
        begins = time_of(claims, "nbf")
        if begins is not None and begins > now + self._leeway:
            raise TokenExpired("the token is not valid yet")
        time_of(claims, "iat")
        return claims

    def _decoded(self, token: str, key: Any, algorithm: str) -> dict[str, Any]:
        try:
            claims: dict[str, Any] = self._jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._audience,
                issuer=self._issuer,
                options=None if self._audience is not None else {"verify_aud": False},
            )
            # Python reads NaN, which is no JSON, and could not be sent to anybody.
            json.dumps(claims, allow_nan=False)
        except (self._library.PyJWTError, RecursionError, ValueError) as error:
            raise TokenError(f"the token is not valid: {error}") from error
        return claims

    def _key_id(self, token: str) -> tuple[str | None, str]:
        """Which key signed it, as it says, and the algorithm."""
        try:
            header = self._library.get_unverified_header(token)
        except (self._library.PyJWTError, RecursionError, ValueError) as error:
            raise TokenError(f"the token is not valid: {error}") from error
        algorithm = header.get("alg")
        if algorithm not in self._algorithms:
            raise TokenError("the algorithm of the token is not allowed")
        return header.get("kid"), algorithm

    # Making

    def connection(
        self,
        user: str,
        *,
        expires_in: float | None = 3600,
        channels: Sequence[str] = (),
        info: Any = None,
        meta: Any = None,
        **claims: Any,
    ) -> str:
        """Make the token of a connection.

        Args:
            user: its identity; "" is nobody in particular.
            expires_in: seconds; the client asks for another one then. None: never.
            channels: topics that the server subscribes it to.
            info: what others see of the client, any JSON.
            meta: for the server alone, any JSON; it is not encrypted.
            claims: others, such as `subs`, `nbf`, `jti` or your own.

        Raises:
            TypeError, ValueError: Something has a wrong type, or JSON cannot represent
                it.
            InvalidState: There is no key to make tokens.
        """
        if isinstance(channels, str):
            raise TypeError("channels must be a sequence of str, not a str")
        given = {"channels": list(channels) or None, "info": info, "meta": meta}
        return self._made(user, expires_in, {**given, **claims})

    def subscription(
        self,
        user: str,
        channel: str,
        *,
        expires_in: float | None = 3600,
        info: Any = None,
        **claims: Any,
    ) -> str:
        """Make the token of a subscription.

        Args:
            user: who may subscribe.
            channel: the topic.
            expires_in: seconds; the client asks for another one then. None: never.
            info: what others in the topic see of the client, any JSON.
            claims: others, such as `client`, `data` or `override`.

        Raises:
            TypeError, ValueError, InvalidState: As for `connection`.
        """
        if not isinstance(channel, str):
            raise TypeError(f"channel must be a str, not {channel!r}")
        if not channel:
            raise ValueError("channel must not be empty")
        return self._made(
            user, expires_in, {"channel": channel, "info": info, **claims}
        )

    def _made(
        self, user: str, expires_in: float | None, given: Mapping[str, Any]
    ) -> str:
        if not isinstance(user, str):
            raise TypeError(f"user must be a str, not {user!r}")
        if self._signing is None:
            raise InvalidState(
                "there is no private_key: these tokens are verified only"
            )
        now = self.clock()
        claims: dict[str, Any] = {"sub": user, "iat": int(now)}
        if expires_in is not None:
            if isinstance(expires_in, bool) or not isinstance(expires_in, int | float):
                raise TypeError(f"expires_in must be seconds, not {expires_in!r}")
            if not 0 <= now + expires_in <= LATEST:  # nor NaN
                raise ValueError(f"expires_in must be seconds, not {expires_in!r}")
            claims["exp"] = int(now + expires_in)
        if self._audience is not None:
            one = isinstance(self._audience, str)
            claims["aud"] = self._audience if one else list(self._audience)
        if self._issuer is not None:
            claims["iss"] = self._issuer
        claims |= {name: value for name, value in given.items() if value is not None}
        algorithm, key = self._signing
        return str(self._jwt.encode(claims, key, algorithm))


def _check_together(
    secret: object, public_key: object, jwks_url: object, private_key: object
) -> None:
    """Check that the given sources of keys fit together."""
    if jwks_url is not None and (secret is not None or public_key is not None):
        raise TypeError("jwks_url is without secret and public_key")
    if jwks_url is None and secret is None and public_key is None:
        raise TypeError("Tokens needs a secret, a public_key or a jwks_url")
    if private_key is not None and public_key is None and jwks_url is None:
        raise TypeError("private_key belongs to public_key or jwks_url")


def _checked_algorithms(given: Sequence[str] | None) -> tuple[str, ...] | None:
    if given is None:
        return None
    if isinstance(given, str) or not isinstance(given, Iterable):
        kind = type(given).__name__
        raise TypeError(f'algorithms must be a list such as ["HS256"], not {kind}')
    chosen, known = tuple(given), (*_HMAC, *_PUBLIC)
    if not chosen:
        raise ValueError("algorithms must not be empty")
    for name in chosen:
        if name not in known:
            raise ValueError(
                f"the algorithm {name!r} is not known: use {', '.join(known)}"
            )
    return chosen


def _checked_audience(
    given: str | Sequence[str] | None,
) -> str | Sequence[str] | None:
    if given is None or isinstance(given, str):
        names = () if given is None else (given,)
    else:
        given = names = several("audience", given, "names")
        if not names:
            raise ValueError("audience must hold at least one name")
    for name in names:
        _check_name("audience", name)
    return given


def _check_name(what: str, name: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"{what} must be a str, not {name!r}")
    if not name:
        raise ValueError(f"{what} must not be empty")


def _checked_leeway(leeway: float) -> float:
    if isinstance(leeway, bool) or not isinstance(leeway, int | float):
        raise TypeError(f"leeway must be a number of seconds, not {leeway!r}")
    if not 0 <= leeway < float("inf"):
        raise ValueError(f"leeway must be seconds from 0 on, not {leeway!r}")
    return float(leeway)


def _several(given: _Pem | Sequence[_Pem] | None) -> Sequence[_Pem]:
    if given is None:
        return ()
    return given if isinstance(given, list | tuple) else (given,)


def _kind_of(algorithm: str) -> str:
    """Algorithms of one kind have the same keys; of EC, each has its own curve."""
    return "RSA" if algorithm[:2] in ("RS", "PS") else algorithm
