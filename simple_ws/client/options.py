"""Options of both clients: their defaults, valid values and meaning.

A wrong value is refused when it is given; the error names the option, the value and
what is allowed. Options that contradict each other or the address are refused, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypedDict

from ..checks import Check, compression, flag, optional, path, seconds, whole
from ..constants import TOKEN
from ..deflate import Deflate
from ..protocol.client_handshake import Offer
from ..protocol.proxy_tunnel import Proxy, parse_proxy, proxy_for
from ..protocol.uri import URI
from .default_tls import default_context

if TYPE_CHECKING:
    import os
    from ssl import SSLContext

__all__ = [
    "ClientOptions",
    "ConnectOptions",
    "check_client_options",
    "check_tls_options",
]

#: Offered by `compression=True`: the server may choose the windows. They cost memory
#: for each connection, and a server has many of these, a client few.
_DEFLATE = Deflate(server_max_window_bits=15, client_max_window_bits=15)


class ConnectOptions(TypedDict, total=False):
    """The keyword arguments of `connect`, for type checkers; see `ClientOptions`."""

    subprotocols: Iterable[str]
    headers: Mapping[str, str] | Iterable[tuple[str, str]]
    cookies: Mapping[str, str]
    origin: str | None
    user_agent: str | None
    compression: Deflate | bool | None
    max_size: int | None
    max_frame_size: int | None
    read_limit: int
    open_timeout: float
    close_timeout: float
    write_timeout: float
    ping_interval: float | None
    ping_timeout: float | None
    ssl: SSLContext | bool | None
    server_hostname: str | None
    proxy: str | bool | None
    source_address: tuple[str, int] | None
    unix: str | os.PathLike[str] | None
    background: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions(Offer):
    """Options with their defaults; times in seconds, sizes in bytes.

    Attributes:
        subprotocols: subprotocols to offer, in order of preference.
        headers: additional header fields of the handshake, a mapping or pairs; not the
            fields of the handshake itself, nor those that have an option.
        cookies: a mapping of names to values.
        origin: the value of the Origin header; None for programs.
        user_agent: None sends none.
        compression: what to offer of permessage-deflate: True, False, or your own
            `Deflate`.
        max_size: largest incoming message, after inflation; None is no limit.
        max_frame_size: largest payload of one outgoing frame; None never splits.
        read_limit: bytes of messages waiting to be received; above this limit the
            client stops reading from the server.
        open_timeout: total time until the connection is open; but the blocking client
            waits for the name look-up of the server, however long the system takes.
        close_timeout: time for the server to answer our close frame.
        write_timeout: time for the server to read at least some of what we send.
        ping_interval: a server that was silent for this long is pinged; None never.
        ping_timeout: give up when no sign of life follows a ping for this long, cause
            `ping_timeout`; None never.
        ssl: TLS with this context; None or True for the default one, which verifies the
            certificate. A server-side context is refused. For wss only.
        server_hostname: the name that the certificate must match, instead of the host.
        proxy: True uses the proxy from the environment or system settings, an address
            such as "http://user:password@host:port" sets one, None or False use none.
            With python-socks (extra `socks`) also socks5, socks5h (the proxy resolves
            the name of the server), socks4 and socks4a.
        source_address: local (host, port) to connect from; port 0 lets the system
            choose.
        unix: path of a Unix socket to connect to, instead of host and port.
        background: of the blocking client only: while the program does other things, a
            thread (one for all connections) answers pings, and pings a silent server.
            It looks at a connection once a second, and receives up to `read_limit`.
            Without it, only calls of the connection do that. asyncio needs no thread.
    """

    compression: Deflate | None = _DEFLATE
    max_size: int | None = 2**20
    max_frame_size: int | None = None
    read_limit: int = 2**20
    open_timeout: float = 10.0
    close_timeout: float = 10.0
    write_timeout: float = 20.0
    ping_interval: float | None = 20.0
    ping_timeout: float | None = 20.0
    ssl: SSLContext | None = None
    server_hostname: str | None = None
    proxy: Proxy | bool = True
    source_address: tuple[str, int] | None = None
    unix: str | None = None
    background: bool = True

    def proxy_to(self, uri: URI) -> Proxy | None:
        """The proxy to use for a server, or None.

        Raises:
            InvalidURI: The environment names only proxies of an unsupported kind.
        """
        if self.unix is not None or self.proxy is False:
            return None
        return proxy_for(uri) if self.proxy is True else self.proxy

    def tls_to(self, uri: URI, home: URI) -> tuple[SSLContext, str] | None:
        """Context and name for TLS with a server, or None without TLS.

        Args:
            uri: the server.
            home: the one given by the user; `server_hostname` is for that one.
        """
        if not uri.secure:
            return None
        name = self.server_hostname if uri.origin == home.origin else None
        return self.ssl or default_context(), name or uri.tls_name


def check_client_options(uri: URI | None, given: Mapping[str, Any]) -> ClientOptions:
    """Check the options given by a user.

    Args:
        uri: the server's address.
        given: names and values.

    Raises:
        TypeError: An unknown option, or a value of a wrong type.
        ValueError: A value out of range, or one that contradicts another.
    """
    checked = {}
    for name, value in given.items():
        if name not in _CHECKS:
            raise TypeError(
                f"unknown option {name!r}; options are {', '.join(sorted(_CHECKS))}"
            )
        checked[name] = _CHECKS[name](name, value)
    if uri is not None:
        check_tls_options(uri, given)
    if checked.get("unix") is not None:
        for name in ("proxy", "source_address"):
            if given.get(name) not in (None, True, False):
                raise ValueError(f"{name} cannot be used with unix={given['unix']!r}")
    return ClientOptions(**checked)


def check_tls_options(uri: URI, given: Mapping[str, Any]) -> None:
    """Refuse TLS options for an address without TLS.

    Raises:
        ValueError: An option is for TLS only.
    """
    for name in ("ssl", "server_hostname"):
        if given.get(name) is not None and not uri.secure:
            raise ValueError(f"{name} is for wss addresses, not for {uri.shown}")


def _size(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number of bytes, not {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1 bytes, not {value!r}")
    return value


_TOKEN = re.compile(TOKEN)
#: RFC 9110 §5.5; no space at either end.
_FIELD_VALUE = re.compile(
    r"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*"
    r"[\x21-\x7e\x80-\xff])?)?"
)
#: RFC 6265 §4.1.1, plus the spaces, commas and quotes that occur in practice.
_COOKIE_VALUE = re.compile(
    r"(?:[\x21-\x3a\x3c-\x7e](?:[\x20-\x3a\x3c-\x7e]*"
    r"[\x21-\x3a\x3c-\x7e])?)?"
)
#: Header fields of the handshake itself, or about the length of a body.
_FORBIDDEN = frozenset(
    {"host", "upgrade", "connection", "content-length", "transfer-encoding"}
)
#: Header fields that have an option.
_HAVE_OPTIONS = {
    "cookie": "cookies",
    "origin": "origin",
    "user-agent": "user_agent",
    "sec-websocket-protocol": "subprotocols",
    "sec-websocket-extensions": "compression",
}


def _headers(name: str, value: Any) -> tuple[tuple[str, str], ...]:
    pairs = value.items() if isinstance(value, Mapping) else value
    if isinstance(pairs, str | bytes) or not isinstance(pairs, Iterable):
        kind = type(value).__name__
        raise TypeError(f"{name} must be a mapping or pairs, not {kind}")
    return tuple(_header(name, pair) for pair in pairs)


def _header(name: str, pair: Any) -> tuple[str, str]:
    if (
        not isinstance(pair, tuple | list)
        or len(pair) != 2
        or not all(isinstance(part, str) for part in pair)
    ):
        raise TypeError(f"{name} must hold pairs of two strings, not {_kinds(pair)}")
    field, value = map(_exact, pair)
    _check_token(name, field, "the name of a field")
    lower = field.lower()
    if lower in _HAVE_OPTIONS:
        raise ValueError(
            f"{name}: for {field} there is the option {_HAVE_OPTIONS[lower]}"
        )
    if lower in _FORBIDDEN or lower.startswith("sec-websocket-"):
        raise ValueError(f"{name}: the handshake itself sets {field}")
    return field, _field_value(f"{name}: {field}", value)


def _field_value(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    if not _FIELD_VALUE.fullmatch(value):
        raise ValueError(
            f"{name} must be latin-1 text without line breaks, and without spaces at "
            f"its ends; {_first_wrong(value, _FIELD_VALUE)}"
        )
    return _exact(value)


def _exact(text: str) -> str:
    """A str and no subclass, which may say something else when it is sent than now."""
    return str.__str__(text)


# Values are never shown in errors: they are often credentials.


def _first_wrong(value: str, allowed: re.Pattern[str]) -> str:
    """The position where a text violates a pattern, without quoting the text."""
    index = _index_of_wrong(value, allowed)
    return f"character {index + 1} of {len(value)} is {value[index]!a}"


def _index_of_wrong(value: str, allowed: re.Pattern[str]) -> int:
    for index, char in enumerate(value):
        if not allowed.fullmatch(f"x{char}x"):
            return index
    return 0 if value[0] in " \t" else len(value) - 1


def _check_token(what: str, value: str, kind: str) -> None:
    if not value:
        raise ValueError(f"{what}: {kind} is empty")
    if not _TOKEN.fullmatch(value):
        shown = value[: _index_of_wrong(value, _TOKEN)]
        wrong = _first_wrong(value, _TOKEN)
        raise ValueError(f"{what}: {kind} '{shown}...' is not a token; {wrong}")


def _kinds(pair: Any) -> str:
    """The types given instead of a pair of strings."""
    if not isinstance(pair, tuple | list):
        return type(pair).__name__
    return f"({', '.join(type(part).__name__ for part in pair)})"


def _cookies(name: str, value: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, Mapping):
        kind = type(value).__name__
        raise TypeError(f"{name} must be a mapping of names to values, not {kind}")
    pairs = tuple(value.items())
    for key, text in pairs:
        if not isinstance(key, str) or not isinstance(text, str):
            raise TypeError(f"{name} must hold strings, not {_kinds((key, text))}")
        _check_token(name, key, "the name of a cookie")  # RFC 6265 §4.1.1
        if not _COOKIE_VALUE.fullmatch(text):
            raise ValueError(
                f"{name}: {key} must be ASCII text without semicolons, and without "
                f"spaces at its ends; {_first_wrong(text, _COOKIE_VALUE)}"
            )
    return tuple((_exact(key), _exact(text)) for key, text in pairs)


def _subprotocols(name: str, value: Any) -> tuple[str, ...]:
    # Unlike the server's option: an entry may be a token, as in Kubernetes.
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        kind = type(value).__name__
        raise TypeError(f"{name} must be a list of names, not {kind}")
    names = tuple(value)
    for item in names:
        if not isinstance(item, str):
            raise TypeError(f"{name} must hold strings, not {type(item).__name__}")
        _check_token(name, item, "a name")
    names = tuple(map(_exact, names))
    # RFC 6455 §4.1, 10: "the elements that comprise this value MUST [...] all be
    # unique strings".
    if len(set(names)) < len(names):
        raise ValueError(f"{name} must hold each name once")
    return names


def _compression(name: str, value: Any) -> Deflate | None:
    if value is True:
        return _DEFLATE
    return compression(name, value)


def _ssl(name: str, value: Any) -> SSLContext | None:
    if value is None or value is True:
        return None
    import ssl

    if not isinstance(value, ssl.SSLContext):
        raise TypeError(
            f"{name} must be an ssl.SSLContext, True or None, not {value!r}"
        )
    if value.protocol is ssl.PROTOCOL_TLS_SERVER:
        raise ValueError(
            f"{name} must be a context for clients, such as "
            "ssl.create_default_context(); this one is for servers "
            "(PROTOCOL_TLS_SERVER)"
        )
    return value


def _server_hostname(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a host name, not {value!r}")
    if not value.isascii() or not value.isprintable() or not _is_name(value):
        raise ValueError(f"{name} must be a host name, not {value!r}")
    return value


def _is_name(host: str) -> bool:
    """Whether `ssl` accepts this name; otherwise it would raise odd errors later."""
    try:
        return bool(host.encode("idna")) and not host.startswith(".")
    except UnicodeError:
        return False


def _proxy(name: str, value: Any) -> Proxy | bool:
    if value is None or isinstance(value, bool):
        return bool(value)
    if not isinstance(value, str):
        raise TypeError(
            f"{name} must be True, None or an address such as "
            f"'http://host:port', not {type(value).__name__}"
        )
    try:
        return parse_proxy(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _source_address(name: str, value: Any) -> tuple[str, int]:
    if (
        not isinstance(value, tuple)
        or len(value) != 2
        or not isinstance(value[0], str)
        or not isinstance(value[1], int)
    ):
        raise TypeError(f"{name} must be (host, port), not {value!r}")
    if not 0 <= value[1] <= 65535:
        raise ValueError(f"{name}: the port must be from 0 to 65535, not {value[1]}")
    return value


_CHECKS: dict[str, Check] = {
    "subprotocols": _subprotocols,
    "headers": _headers,
    "cookies": _cookies,
    "origin": optional(_field_value),
    "user_agent": optional(_field_value),
    "compression": _compression,
    "max_size": optional(whole(0, "bytes")),
    "max_frame_size": optional(whole(1, "bytes")),
    "read_limit": _size,
    "open_timeout": seconds,
    "close_timeout": seconds,
    "write_timeout": seconds,
    "ping_interval": optional(seconds),
    "ping_timeout": optional(seconds),
    "ssl": _ssl,
    "server_hostname": optional(_server_hostname),
    "proxy": _proxy,
    "source_address": optional(_source_address),
    "unix": optional(path),
    "background": flag,
}
assert set(_CHECKS) == {field.name for field in fields(ClientOptions)}
