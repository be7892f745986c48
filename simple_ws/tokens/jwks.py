"""`KeySet`: the public keys at an address (RFC 7517), read again when they change.

A thread reads them, at most one at a time, and not more often than each 10 seconds,
whatever clients send. While they cannot be read, those that are known are used for an
hour more.
"""

from __future__ import annotations

import http.client
import json
import logging
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from ..errors import KeysUnavailable, TokenError

__all__ = ["KeySet"]

logger = logging.getLogger("simple_ws.tokens")

#: Seconds for which keys are fresh, and for which they are used while others cannot be
#: read.
_FRESH, _KEPT = 300.0, 3600.0
#: Seconds between two reads, for each step of one, and until it is given up.
_BETWEEN, _TIMEOUT, _STUCK = 10.0, 5.0, 30.0
#: Bytes of an answer, and keys of it.
_MAX_SIZE, _MAX_KEYS = 262_144, 100
#: Threads that wait at once for the keys; others are told to try again.
_MAX_WAITING = 2
_FAILURES = (OSError, ValueError, RecursionError, http.client.HTTPException)
_LOCAL = ("localhost", "127.0.0.1", "::1")


class KeySet:
    """See the head of the module.

    Args:
        url: of the keys.
        library: the module `jwt`.
        clock: seconds that never run backwards.

    Raises:
        TypeError, ValueError: It is no https address.
    """

    def __init__(
        self,
        url: str,
        library: Any,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not isinstance(url, str):
            raise TypeError(f"jwks_url must be a str, not {type(url).__name__}")
        parts = urlsplit(url)
        local = parts.scheme == "http" and parts.hostname in _LOCAL
        if not parts.hostname or not (parts.scheme == "https" or local):
            raise ValueError(f"jwks_url must be an https address, not {url!r}")
        self._url, self._library = url, library
        self._clock = clock
        # Keys as they came, by id; and as the library has them, by id and algorithm.
        self._found: dict[str | None, list[dict[str, Any]]] = {}
        self._made: dict[tuple[str | None, str], Any] = {}
        self._read_at = self._tried_at = -_KEPT - _FRESH
        self._failed = False
        self._state = threading.Lock()
        self._reading: threading.Event | None = None
        self._waiting = 0

    def has(self, wanted: tuple[str | None, str]) -> bool:
        """Whether `find` would not wait; the keys are read in the background if they
        are not fresh.
        """
        if not self._is_usable(wanted[0]):
            return self._may_not_read()
        if self._clock() >= self._read_at + _FRESH:
            self._start()
        return True

    def find(self, key_id: str | None, algorithm: str) -> Any:
        """The key that signed a token; reads them if it is not known.

        Raises:
            TokenError: There is none.
            KeysUnavailable: They cannot be read at present.
        """
        if not isinstance(key_id, str | None):
            raise TokenError("the id of the key is not a str")
        if not self._is_usable(key_id):
            self._read(key_id)
        return self._made_key(key_id, algorithm)

    def _is_usable(self, key_id: str | None) -> bool:
        known = key_id in self._found or (key_id is None and self._found)
        return bool(known) and self._clock() < self._read_at + _FRESH + _KEPT

    def _may_not_read(self) -> bool:
        return self._clock() < self._tried_at + _BETWEEN and self._reading is None

    def _made_key(self, key_id: str | None, algorithm: str) -> Any:
        made = self._made.get((key_id, algorithm))
        if made is not None:
            return made
        found = self._found
        candidates = found.get(key_id, [])
        if key_id is None and len(found) == 1:  # it need not say which
            candidates = next(iter(found.values()))
        for given in candidates:
            if given.get("alg", algorithm) == algorithm:
                try:
                    made = self._library.PyJWK(given, algorithm)
                except self._library.PyJWTError:
                    continue
                self._made[key_id, algorithm] = made
                return made
        raise TokenError("there is no key that fits the token")

    # Reading

    def _read(self, key_id: str | None) -> None:
        """Read the keys, or wait for those who do.

        Raises:
            KeysUnavailable: They could not be read, or too many wait already, or they
                were read a moment ago.
        """
        reading = self._start()
        if reading is None:
            raise KeysUnavailable("the keys were read a moment ago: try again")
        with self._state:
            if self._waiting >= _MAX_WAITING:
                raise KeysUnavailable("the keys are being read: try again")
            self._waiting += 1
        try:
            reading.wait(2 * _TIMEOUT)
        finally:
            with self._state:
                self._waiting -= 1
        if self._failed or not reading.is_set():
            raise KeysUnavailable("the keys cannot be read: try again")

    def _start(self) -> threading.Event | None:
        """Read them in a thread, unless one does, or did a moment ago."""
        with self._state:
            now = self._clock()
            # One that is stuck, or was left behind by a fork, is waited for no longer.
            if self._reading is not None and now < self._tried_at + _STUCK:
                return self._reading
            if now < self._tried_at + _BETWEEN:
                return None
            self._tried_at = now
            self._reading = reading = threading.Event()
            threading.Thread(
                target=self._run, args=(reading,), name="jwks", daemon=True
            ).start()
            return reading

    def _run(self, reading: threading.Event) -> None:
        try:
            found = _keys_in(_fetch(self._url))
        except _FAILURES as error:
            if not self._failed:
                logger.warning("the keys at %s cannot be read: %s", self._url, error)
            self._failed = True
        else:
            if self._failed:
                logger.info("the keys at %s can be read again", self._url)
            self._failed = False
            self._found, self._made = found, {}
            self._read_at = self._clock()
        finally:
            with self._state:
                if self._reading is reading:
                    self._reading = None
            reading.set()


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """An answer must come from the address that was given."""

    def redirect_request(self, *args: Any) -> None:
        """Do not follow it."""


def _fetch(url: str) -> bytes:
    """Read an address.

    Raises:
        OSError, http.client.HTTPException: That failed.
        ValueError: The answer is too large.
    """
    opener = urllib.request.build_opener(_NoRedirects)
    request = urllib.request.Request(url, headers={"Accept": "application/json"})
    try:
        with opener.open(request, timeout=_TIMEOUT) as response:
            body: bytes = response.read(_MAX_SIZE + 1)
    except urllib.error.HTTPError as error:
        error.close()  # it is the answer, too
        raise
    if len(body) > _MAX_SIZE:
        raise ValueError(f"the answer has more than {_MAX_SIZE:,} bytes")
    return body


def _keys_in(body: bytes) -> dict[str | None, list[dict[str, Any]]]:
    """The public keys for signatures, by id.

    Raises:
        ValueError: It is no set of keys, or has none.
    """
    answer = json.loads(body)
    keys = answer.get("keys") if isinstance(answer, dict) else None
    if not isinstance(keys, list) or len(keys) > _MAX_KEYS:
        raise ValueError(f"the answer is no list of at most {_MAX_KEYS} keys")
    found: dict[str | None, list[dict[str, Any]]] = {}
    for key in keys:
        # A symmetric key that anybody can read would sign anything (RFC 7518 §6.4).
        if not isinstance(key, dict) or key.get("kty") not in ("RSA", "EC", "OKP"):
            continue
        key_id = key.get("kid")
        if key.get("use", "sig") == "sig" and isinstance(key_id, str | None):
            found.setdefault(key_id, []).append(key)
    if not found:
        raise ValueError("there are no public keys for signatures")
    return found
