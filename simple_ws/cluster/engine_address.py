"""Addresses of engines: `redis://user:password@host:6379/0?prefix=app`, or with
Sentinels `redis+sentinel://host1,host2:26379/service/0`.

The forms are those of redis-py and of the provisional IANA registration of `redis`; for
NATS those of its clients: `nats://user:password@host:4222`, `nats://token@host`.
Connecting is left to `connect` and `sentinel`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address
from urllib.parse import unquote

from ..text import one_line

__all__ = [
    "DEFAULT_PREFIX",
    "EngineAddress",
    "is_client_name",
    "is_host",
    "is_prefix",
    "parse",
]

#: Begins the names of all channels where the URL has no `prefix`.
DEFAULT_PREFIX = "sws"

#: Schemes, and whether they mean TLS.
_SCHEMES = {
    "redis": False,
    "rediss": True,
    "valkey": False,
    "valkeys": True,
    "redis+sentinel": False,
    "rediss+sentinel": True,
    "valkey+sentinel": False,
    "valkeys+sentinel": True,
    "unix": False,
    "nats": False,
    "tls": True,
    "nats+tls": True,
}
_NATS = ("nats", "tls", "nats+tls")
_FORMS = (
    "an engine's URL is redis://, rediss:// (TLS), valkey:// or valkeys:// with "
    "[user:password@]host[:port][/db], redis+sentinel:// (rediss+sentinel:// with TLS) "
    "with [user:password@]host[:port],…/service[/db], or "
    "unix://[user:password@]/path/of/the/socket; "
    "nats:// or tls:// with [user:password@]host[:port] or [token@]host[:port]; "
    "each with ?option=value; memory:// for one process"
)
_SHAPE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_HOST_AND_PORT = re.compile(r"(\[[^\]]*\]|[^:\[\]@]*)(?::([0-9]{1,5}))?")
_NOT_IN_A_URL = re.compile(r"[\x00-\x20\x7f\ud800-\udfff]|%(?![0-9A-Fa-f]{2})")
_HOST = re.compile(r"[^\x00-\x20\x7f/?#@:\\%\[\]]{1,255}")
#: A dot would let one application name the channels of another: those of prefix `a` and
#: topic `t.x` are `a.t.t.x`, as are those of prefix `a.t` and topic `x`.
_PREFIX = re.compile(r"[A-Za-z0-9_:-]{1,64}")
#: `CLIENT SETNAME` refuses other characters.
_CLIENT_NAME = re.compile(r"[!-~]{0,128}")
_PORT, _SENTINEL_PORT, _NATS_PORT = 6379, 26379, 4222
#: Names of masters that Sentinel takes, and more.
_SERVICE = re.compile(r"[A-Za-z0-9._-]{1,128}")
#: More than anybody has.
_MAX_SENTINELS = 32
_YES_OR_NO = {"true": True, "1": True, "yes": True}
_YES_OR_NO |= {"false": False, "0": False, "no": False}


@dataclass(frozen=True, slots=True, repr=False)
class EngineAddress:
    """Where an engine is and how to enter it.

    Attributes:
        scheme: as written, in lower case.
        host: name or IP address without brackets; empty for a Unix socket.
        port: 1 to 65535.
        path: of a Unix socket; else empty.
        username, password: decoded; empty where there are none.
        db: number of the database; messages are the same in all of them.
        prefix: begins the names of channels, so that applications share a server.
        client_name: for `CLIENT LIST`.
        tls: with TLS.
        ca_file: certificates to check the server's with; empty: those of the system.
        cert_file, key_file: our own certificate, where the server asks for one.
        verify: check the server's certificate; `ssl_cert_reqs=none` does not.
        check_hostname: and that it is for this host.
        tls_first: TLS begins before the server of NATS has said a word.
        sentinels: host and port of each Sentinel; without, `host` is the engine's.
        service: the name of the master that they know.
        sentinel_username, sentinel_password: for them.
    """

    scheme: str
    host: str = ""
    port: int = _PORT
    path: str = ""
    username: str = ""
    password: str = ""
    db: int = 0
    prefix: str = DEFAULT_PREFIX
    client_name: str = ""
    tls: bool = False
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    verify: bool = True
    check_hostname: bool = True
    tls_first: bool = False
    sentinels: tuple[tuple[str, int], ...] = ()
    service: str = ""
    sentinel_username: str = ""
    sentinel_password: str = ""

    @property
    def is_nats(self) -> bool:
        """Whether it is one of NATS."""
        return self.scheme in _NATS

    def __str__(self) -> str:
        """The URL for logs: without credentials and options."""
        if self.scheme == "memory":
            return "memory://"
        if self.path:
            return f"{self.scheme}://{one_line(self.path)}"
        authority = ",".join(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            for host, port in self.sentinels or ((self.host, self.port),)
        )
        service = f"/{self.service}" if self.service else ""
        db = f"/{self.db}" if self.db else ""
        return f"{self.scheme}://{authority}{service}{db}"

    def __repr__(self) -> str:
        return f"<EngineAddress {self} prefix={self.prefix!r}>"


def is_prefix(prefix: object) -> bool:
    """Whether a prefix may be used: 1 to 64 letters, digits, `_`, `-` and `:`."""
    return isinstance(prefix, str) and _PREFIX.fullmatch(prefix) is not None


def is_host(name: str) -> bool:
    """Whether it is the name or the IP address of a host, without brackets."""
    return _HOST.fullmatch(name.replace(":", "")) is not None


def is_client_name(name: object) -> bool:
    """Whether Redis takes a name: at most 128 visible ASCII characters."""
    return isinstance(name, str) and _CLIENT_NAME.fullmatch(name) is not None


def parse(url: str) -> EngineAddress:
    """Read the URL of an engine.

    Options, after a question mark: `prefix` (of the names of channels, `sws`), `db`,
    `username`, `password`, `client_name`, with Sentinels `sentinel_username` and
    `sentinel_password`, and for TLS `ssl_ca_certs`, `ssl_certfile`,
    `ssl_keyfile` (files), `ssl_cert_reqs` (`required` or `none`) and
    `ssl_check_hostname` (`true` or `false`); for NATS with TLS `tls_first` (`true` if
    the server has `handshake_first`). Credentials are percent-encoded.

    Raises:
        TypeError: It is not a str.
        ValueError: It is malformed, or an option is not known. The text names the forms
            that are allowed and no part of the URL, which may be a password.
    """
    if not isinstance(url, str):
        raise TypeError(f"an engine's URL is a str, not {type(url).__name__}")
    shape = _SHAPE.fullmatch(url)
    scheme = shape[1].lower() if shape else ""
    if shape is None or scheme not in _SCHEMES:
        raise ValueError(f"the scheme is not known: {_FORMS}")
    if _NOT_IN_A_URL.search(url) or "#" in url:
        raise ValueError(
            "spaces, control characters, # and a % on its own must be percent-encoded "
            f"(a # in a password is %23): {_FORMS}"
        )
    place, _, query = shape[2].partition("?")
    userinfo, at, place = place.rpartition("@")
    username, _, password = userinfo.partition(":")
    if "/" in userinfo:
        raise ValueError(f"a / in a name or password is written %2F: {_FORMS}")
    options = _read_options(query, tls=_SCHEMES[scheme])
    if at and ("username" in options or "password" in options):
        raise ValueError("a password stands before the @ or in the options, not both")
    where = _place(scheme, place)
    if "db" in where and "db" in options:
        raise ValueError("the db stands in the path or in the options, not in both")
    _check_options(scheme, where.keys() | options.keys())
    fields = {"username": unquote(username), "password": unquote(password)}
    return EngineAddress(
        scheme=scheme,
        tls=_SCHEMES[scheme],
        **{**fields, **where, **options},  # type: ignore[arg-type]  # by their names
    )


def _check_options(scheme: str, names: Collection[str]) -> None:
    """Refuse those that are for other engines."""
    if scheme in _NATS and "db" in names:
        raise ValueError("NATS has no databases: leave the db out")
    if scheme not in _NATS and "tls_first" in names:
        raise ValueError("tls_first is for NATS")
    sentinel = {"sentinel_username", "sentinel_password"} & set(names)
    if sentinel and not scheme.endswith("+sentinel"):
        raise ValueError("sentinel_ options are for redis+sentinel:// URLs")


def _place(scheme: str, place: str) -> dict[str, object]:
    if scheme == "unix":
        return _unix(place)
    if scheme.endswith("+sentinel"):
        return _sentinels(place)
    return _network(place, _NATS_PORT if scheme in _NATS else _PORT)


def _unix(place: str) -> dict[str, object]:
    path = unquote(place)
    if not path.startswith("/") or "\0" in path:
        raise ValueError(f"the path of a Unix socket begins with a slash: {_FORMS}")
    return {"path": path}


def _network(place: str, port: int) -> dict[str, object]:
    authority, _, db = place.partition("/")
    host, port = _host_and_port(authority, port)
    where: dict[str, object] = {"host": host, "port": port}
    if db:
        where["db"] = _db(db)
    return where


def _sentinels(place: str) -> dict[str, object]:
    authority, _, rest = place.partition("/")
    service, _, db = rest.partition("/")
    if not _SERVICE.fullmatch(service):
        raise ValueError(f"the name of the service is missing or malformed: {_FORMS}")
    places = authority.split(",")
    if len(places) > _MAX_SENTINELS:
        raise ValueError(f"more than {_MAX_SENTINELS} Sentinels")
    where: dict[str, object] = {
        "sentinels": tuple(_host_and_port(each, _SENTINEL_PORT) for each in places),
        "service": service,
    }
    if db:
        where["db"] = _db(db)
    return where


def _host_and_port(text: str, port: int) -> tuple[str, int]:
    match = _HOST_AND_PORT.fullmatch(text)
    if match is None:
        raise ValueError(f"the host or the port is malformed: {_FORMS}")
    host = _host(match[1])
    if match[2] is not None:
        port = int(match[2])
        if not 0 < port < 65536:
            raise ValueError("the port must be 1 to 65535")
    return host, port


def _host(text: str) -> str:
    if text.startswith("["):
        try:
            IPv6Address(text[1:-1])
        except AddressValueError:
            raise ValueError("the host in brackets is no IPv6 address") from None
        return text[1:-1]
    host = unquote(text) or "localhost"
    if not _HOST.fullmatch(host):
        raise ValueError(f"the host is malformed: {_FORMS}")
    return host


def _db(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 6):
        raise ValueError(f"the db is a number: {_FORMS}")
    return int(text)


def _read_options(query: str, *, tls: bool) -> dict[str, object]:
    options: dict[str, object] = {}
    for part in filter(None, query.split("&")):
        name, _, value = part.partition("=")
        if name not in _READERS:
            raise ValueError(
                f"an option is not known (a ? in a password is %3F): the options are "
                f"{', '.join(_READERS)}"
            )
        if name.startswith(("ssl_", "tls_")) and not tls:
            raise ValueError(f"{name} is for rediss://, valkeys:// and tls://")
        field, read = _READERS[name]
        if field in options:
            raise ValueError(f"{name} stands there twice")
        options[field] = read(unquote(value))
    if bool(options.get("key_file")) and not options.get("cert_file"):
        raise ValueError("ssl_keyfile needs ssl_certfile")
    return options


def _prefix(text: str) -> str:
    if not is_prefix(text):
        raise ValueError("prefix must be 1 to 64 letters, digits, '_', '-' and ':'")
    return text


def _client_name(text: str) -> str:
    if not is_client_name(text):
        raise ValueError("client_name must be visible ASCII characters")
    return text


def _file(text: str) -> str:
    if not text or "\0" in text:
        raise ValueError("ssl_ca_certs, ssl_certfile and ssl_keyfile name files")
    return text


def _verify(text: str) -> bool:
    if text not in ("required", "none"):
        raise ValueError("ssl_cert_reqs must be required or none")
    return text == "required"


def _flag(text: str) -> bool:
    if text.lower() not in _YES_OR_NO:
        raise ValueError("ssl_check_hostname and tls_first must be true or false")
    return _YES_OR_NO[text.lower()]


#: Options of the URL: the attribute, and how it is read.
_READERS: dict[str, tuple[str, Callable[[str], object]]] = {
    "prefix": ("prefix", _prefix),
    "db": ("db", _db),
    "username": ("username", str),
    "password": ("password", str),
    "client_name": ("client_name", _client_name),
    "sentinel_username": ("sentinel_username", str),
    "sentinel_password": ("sentinel_password", str),
    "ssl_ca_certs": ("ca_file", _file),
    "ssl_certfile": ("cert_file", _file),
    "ssl_keyfile": ("key_file", _file),
    "ssl_cert_reqs": ("verify", _verify),
    "ssl_check_hostname": ("check_hostname", _flag),
    "tls_first": ("tls_first", _flag),
}
